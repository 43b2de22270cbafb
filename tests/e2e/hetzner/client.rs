//! Others who know the API: the service's own description in front of the cloud, and the vendor's own client.

use std::fs;

use crabbox_tests::{binaries, gone_without};
use serde_json::Value;

use super::{Sky, TOKEN};
use crate::prism::Prism;

#[test]
fn neither_the_provider_nor_the_cloud_of_these_tests_drifts_from_the_services_description() {
    let sky = Sky::new();
    let cloud = sky.address().trim_end_matches("/v1").to_owned();
    let Some(prism) = Prism::start(&sky.room, "hetzner", &cloud) else { return };
    sky.configure(&prism.address, "");
    let ran = sky.crabbox(&["run", "--", "cat", "hello.txt"]).run();
    assert_eq!((ran.code, ran.out()), (0, "hello\n".to_owned()), "{:?}\n{ran}", prism.complaints());
    let _ = sky.crabbox(&["warmup", "--slug", "some"]).ok();
    for words in [
        &["list"][..],
        &["status", "some"],
        &["doctor"],
        &["run", "--id", "some", "--", "true"],
        &["stop", "some"],
    ] {
        let _ = sky.crabbox(words).ok();
    }
    sky.rules(serde_json::json!([{"on": "POST /servers", "status": 412, "code": "resource_unavailable", "message": "full"}]));
    let _ = sky.crabbox(&["run", "--", "true"]).run().expect(4);
    assert_eq!(prism.complaints(), [""; 0]);
    assert_eq!(sky.names(), [""; 0]);
}

/// What the vendor's client does with the cloud, and what it sees of ours.
const CLIENT: &str = r#"
import json, sys, time
from hcloud import APIException, Client
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType
client = Client(token=sys.argv[2], api_endpoint=sys.argv[1])
ours = client.servers.get_all(label_selector="crabbox=true")
key = client.ssh_keys.create(name="sdk", public_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIDAeYK4kYaTT4Wz5xjWAFBUBZbbmCCS1TwF5ioYwYtU sdk")
made = client.servers.create(name="sdk-1", server_type=ServerType(name="cx23"), image=Image(name="ubuntu-24.04"),
                             location=Location(name="nbg1"), ssh_keys=[key], labels={"team": "x"})
updated = made.server.update(labels={"team": "y"})
found = [server.name for server in client.servers.get_all(label_selector="team=y")]
made.server.delete().wait_until_finished(max_retries=3)
for _ in range(100):
    if client.servers.get_by_name("sdk-1") is None:
        break
    time.sleep(0.05)
key.delete()
try:
    client.servers.get_by_id(1)
    error = None
except APIException as refused:
    error = refused.code
print(json.dumps({"ours": [server.labels["slug"] for server in ours], "found": found, "labels": updated.labels, "error": error,
                  "types": [kind.name for kind in client.server_types.get_all()], "password": made.root_password}))
"#;

#[test]
fn the_vendors_own_client_sees_the_same_cloud() {
    if gone_without("CRABBOX_TEST_SDK", "Hetzner's client for Python") {
        return;
    }
    let python = binaries().join("../clients/bin/python");
    assert!(python.is_file(), "{} is missing: ./test.sh installs it", python.display());
    let sky = Sky::new();
    let _ = sky.crabbox(&["warmup", "--slug", "some"]).ok();
    let script = sky.room.at("client.py");
    fs::write(&script, CLIENT).unwrap();
    let told = sky.room.call(python).arg(script).args([sky.address(), TOKEN]).ok();
    let told: Value = told.json();
    assert_eq!(told["ours"][0], "some", "{told}");
    assert_eq!(
        (&told["found"][0], &told["error"]),
        (&"sdk-1".into(), &"not_found".into()),
        "{told}"
    );
    assert_eq!(told["labels"]["team"], "y", "{told}");
    let _ = sky.crabbox(&["stop", "some"]).ok();
    assert_eq!(sky.names(), [""; 0]);
}
