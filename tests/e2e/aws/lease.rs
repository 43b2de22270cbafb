//! An instance's life: leased, used, kept, touched, given back; and what is never seen of it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crabbox_tests::{eventually, holders, plugin_folder};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::Sky;
use crate::clouds::goes_through_the_component;

#[test]
fn a_run_leases_an_instance_works_on_it_and_gives_it_back() {
    let Some(sky) = Sky::new() else { return };
    fs::write(sky.repo.join("dirty.txt"), "not committed\n").unwrap();
    let ran =
        sky.crabbox(&["run", "--", "sh", "-c", "cat hello.txt dirty.txt; exit 3"]).run().expect(3);
    assert_eq!(ran.out(), "hello\nnot committed\n", "{ran}");
    assert_eq!(sky.names(), [""; 0], "{ran}");
    assert_eq!(sky.count("RunInstances"), 1);
    sky.room.assert_no_claims();
    let state = sky.state();
    let rules = &state["groups"][0]["rules"];
    assert!(rules[0].as_str().unwrap().ends_with("198.51.100.7/32"), "only we may log in: {rules}");
    let made = &state["instances"][0];
    assert_eq!((&made["ends"], &made["lifecycle"]), (&json!("terminate"), &json!("spot")));
    assert_eq!(
        (&made["image"], &made["type"]),
        (&json!("ami-0000000000000bbbb"), &json!("c7a.48xlarge"))
    );
    let told = sky.crabbox(&["doctor", "--debug"]).run();
    let said = format!("{}{}{}{}", ran.out(), ran.err(), told.out(), told.err());
    assert!(!said.contains(sky.key("keys")[1]) && !said.contains("BEGIN OPENSSH"), "{said}");
    for folder in ["state", "config", "cache", "data", "tmp", "home"] {
        assert_eq!(
            holders(&sky.room.at(folder), sky.key("keys")[1]),
            [] as [PathBuf; 0],
            "{folder}"
        );
    }
}

#[test]
fn the_same_run_goes_through_the_component() {
    let Some(sky) = Sky::new() else { return };
    goes_through_the_component(&sky, || sky.as_component("aws"));
}

#[test]
fn a_role_is_taken_on_by_whoever_may_and_does_what_it_may() {
    let Some(sky) = Sky::new() else { return };
    let [id, key] = sky.key("admin");
    let text = format!(
        "[profile base]\naws_access_key_id = {id}\naws_secret_access_key = {key}\n\
         [profile runner]\nrole_arn = arn:aws:iam::123456789012:role/runner\nsource_profile = base\nregion = eu-west-1\n"
    );
    let file = sky.room.at("aws-config");
    fs::write(&file, text).unwrap();
    let call = |words: &[&str]| {
        let call = sky.crabbox(words).env("AWS_ACCESS_KEY_ID", "").env("AWS_PROFILE", "runner");
        let call = call.env("AWS_CONFIG_FILE", file.display().to_string());
        call.env("AWS_ENDPOINT_URL_STS", sky.url.clone())
    };
    let ran = call(&["run", "--", "cat", "hello.txt"]).ok();
    assert_eq!((ran.out(), sky.names()), ("hello\n".to_owned(), vec![]), "{ran}");
    assert!(sky.count("AssumeRole") >= 1);
}

#[test]
fn a_kept_instance_is_found_listed_touched_used_and_stopped() {
    let Some(sky) = Sky::new() else { return };
    sky.configure("  regions: [us-east-1]\n");
    sky.set(&json!({"foreign": [{"team": "other", "Name": "theirs"}]}));
    sky.set(&json!({"scores": {"us-east-1": 9, "eu-west-1": 3}}));
    let _ = sky.crabbox(&["warmup", "--slug", "first"]).ok();
    sky.set(&json!({"scores": {"us-east-1": 2, "eu-west-1": 3}}));
    let _ = sky.crabbox(&["warmup", "--slug", "second"]).ok();
    let places = |sky: &Sky| -> Vec<String> {
        let mine = sky.instances().into_iter().filter(|one| one["tags"]["crabbox"] == "true");
        mine.map(|one| format!("{} {}", one["tags"]["slug"], one["region"])).collect()
    };
    assert_eq!(places(&sky), ["\"second\" \"eu-west-1\"", "\"first\" \"us-east-1\""]);
    let listed = sky.crabbox(&["list", "--json"]).ok().json();
    let all = listed["leases"].as_array().or(listed.as_array()).cloned().unwrap_or_default();
    let mut slugs: Vec<_> = all.iter().map(|one| one["slug"].as_str().unwrap()).collect();
    slugs.sort_unstable();
    assert_eq!(slugs, ["first", "second"], "every region of ours and nothing of others: {listed}");
    let first = sky.instances().into_iter().find(|one| one["tags"]["slug"] == "first").unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (id, tags) = (text(&first["id"]), &first["tags"]);
    assert_eq!(first["disks"][0]["lease"], tags["lease"], "the disk is tagged too");
    for name in ["first", &text(&tags["lease"]), &text(&tags["Name"]), &id] {
        let _ = sky.crabbox(&["status", name]).ok();
    }
    let ran = sky.crabbox(&["run", "--id", "first", "--", "cat", "hello.txt"]).ok();
    assert_eq!(ran.out(), "hello\n");
    let theirs = sky.instances().into_iter().find(|one| one["tags"]["team"] == "other").unwrap();
    let _ = sky.crabbox(&["stop", &text(&theirs["id"])]).ok().says(&["already gone"]);
    for name in ["first", "second"] {
        let _ = sky.crabbox(&["stop", name]).ok();
    }
    assert_eq!(
        (sky.instances().len(), sky.names()),
        (1, vec!["theirs".to_owned(); 2]),
        "theirs is untouched"
    );
}

#[test]
fn ctrl_c_while_an_instance_is_made_gives_it_back() {
    let Some(sky) = Sky::new() else { return };
    sky.faults(json!([{"on": "RunInstances", "delay": 1.5}]));
    let running = sky.crabbox(&["run", "--", "true"]).start();
    eventually("an instance on its way", Duration::from_secs(20), || sky.count("RunInstances") > 0);
    running.signal(Signal::INT);
    let ended = running.wait().expect(130);
    assert_eq!(sky.names(), [""; 0], "{ended}");
    sky.assert_forgotten();
}

#[test]
fn the_vendors_own_client_sees_the_same_cloud() {
    let Some(sky) = Sky::new() else { return };
    let python = super::python().unwrap();
    let _ = sky.crabbox(&["warmup", "--slug", "some"]).ok();
    let script = plugin_folder("aws").join("fake/second_client.py");
    let call = sky.room.call(python).arg(script).arg(&sky.url);
    let call = call.args(sky.key("admin")).args(sky.key("keys"));
    let told = call.env("PYTHONDONTWRITEBYTECODE", "1").limit(Duration::from_secs(60)).ok().json();
    assert_eq!(told["slugs"], json!(["some"]), "{told}");
    assert_eq!(told["same"], json!(true), "a token makes one instance: {told}");
    assert_eq!(told["other"], "IdempotentParameterMismatch", "{told}");
    assert_eq!(
        told["reach"],
        json!(vec!["UnauthorizedOperation"; 3]),
        "others' are out of reach: {told}"
    );
    assert_eq!(told["there"], json!([2, 1]), "{told}");
    let _ = sky.crabbox(&["stop", "some"]).ok();
    assert_eq!(sky.names(), [""; 0]);
}

#[test]
fn what_can_be_had_and_how_an_instance_ended_can_be_asked() {
    let Some(sky) = Sky::new() else { return };
    let ask = |method: &str, params: &Value| {
        sky.crabbox(&["plugin", "run", "aws", method, &params.to_string()]).ok().json()
    };
    let sizes = ask("catalog.sizes", &json!({}));
    assert!(sizes["offers"].as_array().unwrap().len() >= 50, "{sizes}");
    assert!(sizes["offers"][0]["cpus"].as_u64().unwrap() > 0, "{sizes}");
    let regions = ask("catalog.regions", &json!({}));
    assert!(regions.to_string().contains("eu-west-1"), "{regions}");
    let quote = ask("pricing.quote", &json!({"request": {"class": "fast", "market": "spot"}}));
    assert_eq!(
        (&quote["serverType"], &quote["price"]["basis"]),
        (&json!("c7a.16xlarge"), &json!("spot"))
    );
    let lease = json!({"leaseId": "cbx_0123456789ab", "cloudId": "i-0123456789abcdef0"});
    assert_eq!(ask("evidence.collect", &json!({"lease": lease}))["cause"], "gone");
}
