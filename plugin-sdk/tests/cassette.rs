//! A cloud provider in thirty lines, tested without a cloud, without a key and without waiting.

#![expect(clippy::unwrap_used, reason = "the helpers of these tests may fail loudly too")]

use std::time::Duration;

use crabbox_plugin_sdk::testkit::{Cassette, Kernel, desired};
use crabbox_plugin_sdk::*;
use serde_json::{Value, json};

const API: &str = "https://api.example.dev/v1";
const MANIFEST: &str = r#"
manifest = 1
id = "example.dev/cloud"
version = "1.0.0"
protocols = ["1"]
[[provider]]
name = "cloud"
kind = "ssh-lease"
targets = ["linux"]
[[artifact]]
runtime = "stdio"
path = "crabbox-provider-cloud"
[grants]
http = [{ origin = "https://api.example.dev" }]
secrets = [{ name = "token", mode = "inject" }]
"#;

struct Cloud;

impl Cloud {
    fn lease(desired: &Desired, server: &Value) -> Lease {
        Lease {
            lease_id: desired.lease_id.clone(),
            slug: desired.slug.clone(),
            name: desired.name.clone(),
            cloud_id: server["id"].to_string(),
            status: server["status"].as_str().unwrap_or_default().to_owned(),
            server_type: String::new(),
            labels: Default::default(),
            work_root: None,
            ssh: None,
        }
    }
}

impl SshLease for Cloud {
    fn acquire(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        let body = json!({"name": params.desired.name, "labels": params.labels});
        let made =
            call.http("POST", format!("{API}/servers")).bearer("token").json(&body).send()?;
        let server: Value = made.ok()?.json()?;
        let resource = Resource {
            kind: "server".to_owned(),
            cloud_id: server["id"].to_string(),
            region: None,
            billable: true,
        };
        call.record(&resource)?;
        loop {
            let url = format!("{API}/servers/{}", server["id"]);
            let now: Value = call.http("GET", url).bearer("token").send()?.ok()?.json()?;
            if now["status"] == "running" {
                return Ok(Self::lease(&params.desired, &now));
            }
            call.check()?;
            call.sleep(Duration::from_secs(5))?;
        }
    }

    fn resolve(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        let found =
            call.http("GET", format!("{API}/servers")).query("name", &params.id).bearer("token");
        found.send()?.ok()?;
        Err(Failure::not_found("no such server"))
    }

    fn list(&self, call: &Call, _: ListParams) -> Result<ListResult, Failure> {
        // What a server logs, event by event.
        let mut stream = call.http("GET", format!("{API}/watch")).bearer("token").open()?;
        while let Next::Item(event) = stream.event(Duration::from_secs(30))? {
            call.log(Level::Info, &event.data);
        }
        Ok(ListResult { leases: vec![], next_cursor: None, complete: stream.status() == 200 })
    }

    fn release(&self, call: &Call, _: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let login =
            call.http("POST", format!("{API}/login")).json(&json!({"key": secret("token")}));
        let login = login.capture("/session").send()?.ok()?;
        let session = login.captured("/session").ok_or_else(|| Failure::auth("no session"))?;
        let gone = call.http("DELETE", format!("{API}/servers/1")).bearer(session).send()?;
        match gone.status() {
            404 => Ok(ReleaseOutcome::AlreadyGone),
            _ => gone.ok().map(|_| ReleaseOutcome::Released),
        }
    }
}

fn kernel(cassette: &str) -> Kernel {
    let plugin = Plugin::ssh_lease(MANIFEST, |_| Ok(Cloud));
    Kernel::start(plugin, "cloud", json!({}), Cassette::parse(cassette).unwrap()).unwrap()
}

fn acquire() -> Value {
    let desired = desired("cbx_0123456789ab", "violet-prawn");
    json!({"desired": desired, "request": {"target": "linux", "class": "standard"}, "sshPublicKey": "ssh-ed25519 AAAA", "labels": {"crabbox": "true"}})
}

#[test]
fn a_provider_is_tested_with_recorded_exchanges_and_time_that_costs_nothing() {
    let mut kernel = kernel(
        r#"
{"request":{"method":"POST","url":"https://api.example.dev/v1/servers","auth":{"bearer":"token"},"body":{"json":{"labels":{"crabbox":"true"},"name":"crabbox-violet-prawn"}}},"response":{"status":201,"json":{"id":4711,"status":"starting"}}}
{"request":{"method":"GET","url":"https://api.example.dev/v1/servers/4711"},"response":{"json":{"id":4711,"status":"starting"}}}
{"request":{"method":"GET","url":"https://api.example.dev/v1/servers/4711"},"response":{"json":{"id":4711,"status":"starting"}}}
{"request":{"method":"GET","url":"https://api.example.dev/v1/servers/4711"},"response":{"json":{"id":4711,"status":"running"}}}
{"request":{"method":"GET","url":"https://api.example.dev/v1/watch"},"response":{"events":[{"event":"log","data":"one"},{"event":"log","data":"two"}]}}
{"request":{"method":"POST","url":"https://api.example.dev/v1/login","body":{"json":{"key":{"$secret":"token"}}}},"response":{"json":{"session":"eyJ0"}}}
{"request":{"method":"DELETE","url":"https://api.example.dev/v1/servers/1","auth":{"bearer":"captured:1"}},"response":{"status":404}}
"#,
    );
    let lease = kernel.call("lease.acquire", acquire()).unwrap();
    assert_eq!(
        (&lease["lease"]["cloudId"], &lease["lease"]["status"]),
        (&json!("4711"), &json!("running"))
    );
    assert_eq!(kernel.resources()[0].cloud_id, "4711");
    assert_eq!(kernel.slept(), Duration::from_secs(10));
    assert_eq!(kernel.call("lease.list", json!({})).unwrap()["complete"], true);
    let said: Vec<_> =
        kernel.events().iter().map(|(_, params)| params["message"].clone()).collect();
    assert_eq!(said, ["one", "two"]);
    let lease = json!({"lease": {"leaseId": "cbx_0123456789ab"}, "expected": {"leaseId": "cbx_0123456789ab"}});
    assert_eq!(kernel.call("lease.release", lease).unwrap()["outcome"], "already_gone");
    kernel.finish().unwrap();
}

#[test]
fn what_is_not_on_the_cassette_and_what_was_never_asked_for_are_named() {
    let mut kernel = kernel(
        r#"
{"request":{"method":"POST","url":"https://api.example.dev/v1/servers","body":{"json":{"name":"another"}}},"response":{"status":201}}
{"request":{"method":"GET","url":"https://api.example.dev/v1/servers?name=a%20b"},"response":{"status":403,"json":{"error":{"message":"token may not list"}}}}
{"request":{"method":"GET","url":"https://api.example.dev/v1/servers?name=broken"},"response":{"error":{"kind":"transient","message":"reset by peer"}}}
"#,
    );
    let error = kernel.call("lease.acquire", acquire()).unwrap_err();
    assert!(
        error
            .message
            .starts_with("not in the cassette: POST https://api.example.dev/v1/servers with"),
        "{error:?}"
    );
    let error = kernel.call("lease.resolve", json!({"id": "a b", "purpose": "use"})).unwrap_err();
    assert_eq!(error.data.unwrap().kind, ErrorKind::Permission);
    assert_eq!(
        error.message,
        "GET https://api.example.dev/v1/servers: status 403: token may not list"
    );
    let error =
        kernel.call("lease.resolve", json!({"id": "broken", "purpose": "use"})).unwrap_err();
    assert_eq!(
        (error.data.unwrap().kind, &*error.message),
        (ErrorKind::Transient, "reset by peer")
    );
    let left = kernel.finish().unwrap_err();
    assert_eq!(left, "never asked for: POST https://api.example.dev/v1/servers");
    assert!(Cassette::parse("{\"request\":1}").unwrap_err().starts_with("line 1: "));
}
