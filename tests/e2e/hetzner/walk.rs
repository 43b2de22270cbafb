//! When the cloud says no: what is tried next, what is told, and that nothing is left.

use std::time::Duration;

use crabbox_tests::eventually;
use serde_json::json;

use super::{Sky, TOKEN};

#[test]
fn when_nothing_can_be_had_every_try_is_told_and_what_could_be_had_instead() {
    let sky = Sky::new();
    sky.rules(json!([
        {"on": "POST /servers", "with": "ccx63", "status": 403, "code": "resource_limit_exceeded", "message": "server limit"},
        {"on": "POST /servers", "status": 412, "code": "resource_unavailable", "message": "no room left"},
    ]));
    let ran = sky.crabbox(&["run", "--class", "beast", "--json", "--", "true"]).run().expect(4);
    let error = ran.json()["error"].clone();
    assert_eq!(error["errorKind"], "capacity", "{ran}");
    let causes: Vec<&str> =
        error["cause"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    assert_eq!(causes.len(), 1 + 4 * 3, "a limit of the project is the same everywhere: {ran}");
    assert!(causes[0].starts_with("ccx63 in fsn1: quota: server limit"), "{ran}");
    assert!(causes[1].starts_with("ccx53 in fsn1: capacity: no room left"), "{ran}");
    assert!(causes[12].starts_with("cx53 in hel1: capacity:"), "{ran}");
    assert_eq!(error["alternatives"], json!(["ccx33", "cx23"]), "{ran}");
    assert!(error["hint"].as_str().unwrap().contains("--type ccx33"), "{ran}");
    let told = sky.attempts(&ran);
    assert_eq!(told.len(), 13, "{told:?}");
    assert!(
        told[0].contains("ccx63") && told[0].contains("fsn1") && told[0].contains("quota"),
        "{told:?}"
    );
    assert_eq!(sky.names(), [""; 0], "{ran}");
    sky.assert_forgotten();
}

#[test]
fn the_next_machine_or_place_is_taken_where_one_is_full() {
    let sky = Sky::new();
    let full = |with: &str| json!({"on": "POST /servers", "with": with, "status": 412, "code": "resource_unavailable", "message": "full"});
    let near = json!({"on": "POST /servers", "with": "\"location\":\"fsn1\"", "times": 2, "status": 422, "code": "invalid_input",
                      "message": "unsupported location for server type"});
    sky.rules(json!([full("ccx63"), near]));
    let _ = sky.crabbox(&["warmup", "--class", "beast", "--slug", "some"]).ok();
    let server = sky.state()["servers"][0].clone();
    assert_eq!(
        (&server["server_type"]["name"], &server["location"]["name"]),
        (&json!("ccx53"), &json!("nbg1"))
    );
    assert_eq!(server["labels"]["server_type"], "ccx53");
    let _ = sky.crabbox(&["stop", "some"]).ok();
    assert_eq!(sky.names(), [""; 0]);
}

#[test]
fn an_exact_type_is_the_only_one_that_is_tried() {
    let sky = Sky::new();
    sky.rules(json!([{"on": "POST /servers", "status": 412, "code": "resource_unavailable", "message": "full"}]));
    let words = ["run", "--type", "cx23", "--hetzner-location", "ash", "--json", "--", "true"];
    let ran = sky.crabbox(&words).run().expect(4);
    assert_eq!(sky.attempts(&ran).len(), 1, "{ran}");
}

#[test]
fn an_answer_that_is_lost_makes_no_second_server_and_leaves_none() {
    let sky = Sky::new();
    for lost in
        ["POST /servers", "POST /ssh_keys", "DELETE /servers", "DELETE /ssh_keys", "GET /servers"]
    {
        sky.rules(json!([{"on": lost, "times": 1, "lose": true}]));
        let ran = sky.crabbox(&["run", "--", "true"]).run();
        let cleaned = sky.crabbox(&["cleanup"]).ok();
        assert_eq!(sky.names(), [""; 0], "{lost}\n{ran}\n{cleaned}");
        if lost.starts_with("POST") || lost.starts_with("DELETE") {
            assert_eq!(ran.code, 0, "{lost}\n{ran}");
        }
        sky.assert_forgotten();
    }
    let made = sky.requests().into_iter().filter(|asked| asked == "POST /servers").count();
    assert!(made <= 6, "{made}");
}

#[test]
fn a_service_that_asks_to_slow_down_is_asked_later() {
    let sky = Sky::new();
    let slow = |on: &str| {
        json!({"on": on, "times": 1, "status": 429, "code": "rate_limit_exceeded", "message": "slow down",
                                 "headers": {"retry-after": "1"}})
    };
    sky.rules(json!([slow("POST /servers"), slow("DELETE /servers")]));
    let began = std::time::Instant::now();
    let _ = sky.crabbox(&["run", "--", "true"]).ok();
    assert!(began.elapsed().as_secs() >= 2, "{:?}", began.elapsed());
    assert_eq!(sky.names(), [""; 0]);
    let never = json!([{"on": "", "status": 429, "code": "rate_limit_exceeded", "message": "slow down", "headers": {"retry-after": "600"}}]);
    sky.rules(never);
    let ran = sky.crabbox(&["run", "--json", "--", "true"]).run().expect(5);
    assert_eq!(ran.json()["error"]["errorKind"], "rate_limited", "{ran}");
}

#[test]
fn a_wrong_token_a_missing_right_and_a_wrong_image_are_told_before_anything_is_made() {
    let sky = Sky::new();
    let call = |token: &str, words: &[&str]| sky.crabbox(words).env("HCLOUD_TOKEN", token).run();
    let run: &[&str] = &["run", "--json", "--", "true"];
    for (token, kind, code, hint) in [
        ("wrong", "auth", 3, "HCLOUD_TOKEN"),
        (&*format!("{TOKEN}-readonly"), "permission", 3, "Read & Write"),
        ("", "auth", 3, "HCLOUD_TOKEN"),
    ] {
        let ran = call(token, run).expect(code);
        let error = ran.json()["error"].clone();
        assert_eq!(error["errorKind"], kind, "{ran}");
        assert!(error["hint"].as_str().unwrap_or_default().contains(hint), "{ran}");
    }
    let posts = || sky.requests().iter().filter(|asked| asked.starts_with("POST")).count();
    let before = posts();
    for (flag, value, said, hint) in [
        ("--hetzner-image", "windows", "there is no image windows", "the number of a snapshot"),
        ("--hetzner-location", "moon1", "there is no location moon1", "fsn1"),
        ("--type", "cx9000", "there is no machine type cx9000", "crabbox sizes"),
        ("--class", "gigantic", "gigantic is neither a class nor a machine type", "crabbox sizes"),
    ] {
        let ran = call(TOKEN, &["run", "--json", flag, value, "--", "true"]).expect(2);
        let error = ran.json()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains(said), "{ran}");
        assert!(error["hint"].as_str().unwrap().contains(hint), "{ran}");
        assert!(!ran.err().contains("provisioning"), "{ran}");
    }
    assert_eq!(posts(), before, "nothing was made");
    assert_eq!(sky.names(), [""; 0]);
    let doctor = call("wrong", &["doctor", "--json"]).expect(1);
    assert!(doctor.out().contains("unable to authenticate"), "{doctor}");
    let doctor = call(TOKEN, &["doctor"]).expect(0);
    assert!(doctor.out().contains("must have the right Read & Write"), "{doctor}");
    assert!(!sky.requests().iter().any(|asked| asked.starts_with("POST /servers")));
}

#[test]
fn a_server_that_never_becomes_a_box_is_told_why_and_given_back() {
    let sky = Sky::new();
    sky.control("settings", &json!({"broken": true}));
    let ran = sky.crabbox(&["run", "--json", "--", "true"]).run().expect(5);
    let error = ran.json()["error"].clone();
    assert_eq!(
        (&error["errorKind"], &error["stage"]),
        (&json!("bootstrap"), &json!("ready")),
        "{ran}"
    );
    assert!(error["cause"].to_string().contains("cannot install jq"), "{ran}");
    assert_eq!(sky.names(), [""; 0], "{ran}");
}

/// What the provider knows of the end is asked while the server can still be asked about, shown, and kept.
#[test]
fn when_a_server_dies_or_never_becomes_a_box_its_provider_is_asked_why() {
    let sky = Sky::new();
    let running = sky.crabbox(&["run", "--", "sh", "-c", "echo here; sleep 60"]).start();
    eventually("the command", Duration::from_secs(30), || running.stdout().contains("here"));
    sky.delete_server();
    let ended = running.wait().expect(8);
    let said = "hetzner says of the box: server";
    assert!(ended.err().contains(said) && ended.err().contains("(gone)"), "{ended}");
    let kept = sky.crabbox(&["events", "--json"]).ok();
    assert!(kept.out().contains("lease.evidence"), "{kept}");
    assert_eq!(sky.names(), [""; 0], "{ended}");
    sky.control("settings", &json!({"broken": true}));
    let failed = sky.crabbox(&["run", "--", "true"]).run().expect(5);
    assert!(failed.err().contains(said) && failed.err().contains("(unknown)"), "{failed}");
    assert_eq!(sky.names(), [""; 0], "{failed}");
}

/// A provider that could not remove what it made can still be asked about it.
#[test]
fn when_a_server_dies_before_it_is_a_lease_the_error_says_how_and_what_is_left_is_asked_about() {
    let sky = Sky::new();
    sky.control("settings", &json!({"off": true}));
    let failed = sky.crabbox(&["run", "--", "true"]).run().expect(5);
    assert!(failed.err().contains("is off before it ever ran"), "{failed}");
    assert!(!failed.err().contains("hetzner says of the box"), "it was gone by then: {failed}");
    assert_eq!(sky.names(), [""; 0], "{failed}");
    sky.rules(json!([{"on": "DELETE /servers", "times": 1, "status": 403, "code": "forbidden", "message": "not now"}]));
    let failed = sky.crabbox(&["run", "--", "true"]).run().expect(5);
    assert!(failed.err().contains("hetzner says of the box: server"), "{failed}");
    assert!(failed.err().contains("is off (unknown)"), "{failed}");
    assert_eq!(sky.names(), [""; 0], "{failed}");
    sky.room.assert_no_claims();
}
