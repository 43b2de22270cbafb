//! A guest can reach what was granted, and nothing else.

use crate::guest::{ECHO, Guest, Stage, asking, call};

#[test]
fn a_component_answers_like_any_plugin() {
    let stage = Stage::new(&ECHO);
    let listed = call(2, "lease.list", 60_000, r#","cursor":"é""#);
    stage.plays(&format!(
        r#"{{"d":">","m":{{"id":7,"method":"ping","params":{{}}}}}}
{{"d":"<","match":{{"id":7,"result":{{}}}}}}
{listed}{{"d":"<","match":{{"id":2,"result":{{"cursor":"é"}}}}}}
{{"d":">","m":{{"id":3,"method":"lease.nonsense","params":{{}}}}}}
{{"d":"<","match":{{"id":3,"error":{{"code":-32601}}}}}}
{{"d":">","m":{{"id":4,"method":"shutdown","params":{{}}}}}}
{{"d":"<","match":{{"id":4,"result":{{}}}}}}
{{"d":">","m":{{"id":5,"method":"lease.list","params":{{}}}}}}
{{"d":"<","match":{{"id":5,"error":{{"code":-32600}}}}}}
"#
    ));
}

/// Interface, function, the power that opens it, and the callback behind it.
const GRANTED: &[(&str, &str, &str, &str)] = &[
    ("http", "send", "http", "host/http"),
    ("http", "open", "http", "host/http.open"),
    ("ws", "open", "ws", "host/ws.open"),
    ("exec", "run", "exec", "host/exec"),
    ("exec", "open", "exec", "host/exec.open"),
    ("reveal", "reveal", "reveal", "host/secret.reveal"),
];

#[test]
fn each_power_is_denied_without_its_grant() {
    for (interface, function, power, _) in GRANTED {
        let others: Vec<_> = ["exec", "http", "reveal", "ws", "files"]
            .into_iter()
            .filter(|other| other != power)
            .flat_map(|other| ["--allow", other])
            .collect();
        let stage = Stage::new(&asking(interface, function)).with(&others);
        let asked = call(2, "lease.list", 60_000, "");
        stage.plays(&format!(
            r#"{asked}{{"d":"<","match":{{"id":2,"error":{{"code":1060,"message":{{"$contains":"{interface}"}},"data":{{"kind":"grant_denied"}}}}}}}}
"#
        ));
    }
}

#[test]
fn a_granted_power_asks_the_host_for_this_call_and_no_other() {
    for (interface, function, power, callback) in GRANTED {
        let stage = Stage::new(&asking(interface, function)).with(&["--allow", power]);
        let asked = call(2, "lease.list", 60_000, r#","call":99,"url":"u""#);
        stage.plays(&format!(
            r#"{asked}{{"d":"<","match":{{"id":{{"$bind":"a"}},"method":"{callback}","params":{{"call":2,"url":"u"}}}}}}
{{"d":">","m":{{"id":{{"$ref":"a"}},"result":{{"status":204}}}}}}
{{"d":"<","match":{{"id":2,"result":{{"status":204}}}}}}
"#
        ));
    }
}

#[test]
fn what_belongs_to_every_call_needs_no_grant() {
    let every = [
        ("control", "sleep", "host/sleep"),
        ("journal", "note", "host/resource.record"),
        ("journal", "forget", "host/resource.forget"),
        ("kv", "get", "host/kv.get"),
        ("blob", "create", "host/blob.create"),
        ("prompt", "ask", "host/prompt"),
    ];
    for (interface, function, callback) in every {
        let stage = Stage::new(&asking(interface, function));
        let asked = call(2, "lease.list", 60_000, "");
        stage.plays(&format!(
            r#"{asked}{{"d":"<","match":{{"id":{{"$bind":"a"}},"method":"{callback}","params":{{"call":2}}}}}}
{{"d":">","m":{{"id":{{"$ref":"a"}},"error":{{"code":1032,"message":"slow down","data":{{"kind":"rate_limited","retryAfterMs":5}}}}}}}}
{{"d":"<","match":{{"id":2,"error":{{"code":1032,"message":"slow down","data":{{"kind":"rate_limited","retryAfterMs":5}}}}}}}}
"#
        ));
    }
}

#[test]
fn what_crabbox_does_not_have_is_refused_when_the_guest_is_greeted() {
    let guest = Guest { asks: Some(("teleport", "go")), ..asking("teleport", "go") };
    let stage = Stage::new(&guest);
    let hello = crate::guest::HELLO.lines().next().unwrap();
    let refused = format!(
        r#"{hello}
{{"d":"<","match":{{"id":1,"error":{{"code":1003,"data":{{"kind":"unsupported","cause":[{{"$contains":"teleport"}}]}}}}}}}}
"#
    );
    crabbox_plugin_sdk::testkit::replay_command(stage.command(), &refused).unwrap();
}
