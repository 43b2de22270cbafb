//! The session's promises: order, concurrency, cancels, credit, panics and the end of the wire.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod toy;

use std::io::{BufRead, BufReader, Write};
use std::time::{Duration, Instant};

use crabbox_plugin_sdk::Plugin;
use crabbox_plugin_sdk::testkit::replay;
use serde_json::{Value, json};

fn ctx() -> Value {
    json!({"deadlineMs": 60000, "graceMs": 5000, "idem": "k1"})
}

fn initialize(provider: &str, limits: Value) -> String {
    let kernel = json!({"name": "crabbox", "version": "0.1.0"});
    let params = json!({"protocols": ["1.0"], "kernel": kernel, "limits": limits,
        "instance": {"provider": provider}});
    sent(json!({"id": 1, "method": "initialize", "params": params}))
        + &came(json!({"id": 1, "result": {"provider": {"name": provider}}}))
}

fn sent(frame: Value) -> String {
    format!("{}\n", json!({"d": ">", "m": frame}))
}

fn came(pattern: Value) -> String {
    format!("{}\n", json!({"d": "<", "match": pattern}))
}

fn acquire(id: u64, class: &str) -> String {
    let desired = json!({"leaseId": format!("cbx_{id:012x}"), "slug": format!("box-{id}"),
        "name": format!("crabbox-box-{id}")});
    sent(json!({"id": id, "method": "lease.acquire", "params": {"ctx": ctx(), "desired": desired,
        "request": {"class": class}, "sshPublicKey": "ssh-ed25519 AAAA"}}))
}

fn ping(id: u64) -> String {
    sent(json!({"id": id, "method": "ping", "params": {"ctx": ctx()}}))
        + &came(json!({"id": id, "result": {}}))
}

fn start(id: u64, command: &[&str]) -> String {
    sent(json!({"id": id, "method": "run.start", "params": {"ctx": ctx(), "runId": "run_0",
        "lease": {"leaseId": "cbx_000000000001"}, "command": command}}))
}

fn printed(call: u64, off: u64, text: &str) -> String {
    came(json!({"method": "event/output",
        "params": {"call": call, "ch": "stdout", "off": off, "text": text}}))
}

fn check(plugin: Plugin, steps: &[String]) {
    replay(plugin, &steps.concat()).unwrap();
}

#[test]
fn initialize_comes_first_and_once() {
    let list = sent(json!({"id": 7, "method": "lease.list", "params": {"ctx": ctx()}}));
    let refused = |id| came(json!({"id": id, "error": {"code": -32600}}));
    let again = sent(json!({"id": 8, "method": "initialize", "params": {}}));
    check(
        toy::boxes(),
        &[list, refused(7), initialize("toy", json!({})), again, refused(8), ping(9)],
    );
}

#[test]
fn a_kernel_from_another_age_is_told_so() {
    let kernel = json!({"name": "crabbox", "version": "9.0.0"});
    let params = json!({"protocols": ["9.1"], "kernel": kernel, "instance": {"provider": "toy"}});
    let message = json!({"$contains": "9.1"});
    check(
        toy::boxes(),
        &[
            sent(json!({"id": 1, "method": "initialize", "params": params})),
            came(json!({"id": 1, "error": {"message": message, "data": {"kind": "unsupported"}}})),
        ],
    );
}

#[test]
fn ping_is_answered_while_a_call_waits() {
    let record = came(json!({"id": {"$bind": "rec"}, "method": "host/resource.record"}));
    check(
        toy::boxes(),
        &[
            initialize("toy", json!({})),
            acquire(2, "standard"),
            record,
            ping(3),
            sent(json!({"id": {"$ref": "rec"}, "result": {}})),
            came(json!({"method": "event/progress", "params": {"call": 2}})),
            came(json!({"id": {"$bind": "nap"}, "method": "host/sleep"})),
            ping(4),
            sent(json!({"id": {"$ref": "nap"}, "result": {"woken": "time"}})),
            came(json!({"id": 2, "result": {"lease": {"slug": "box-2"}}})),
        ],
    );
}

#[test]
fn calls_beyond_the_limit_wait_their_turn_and_can_be_withdrawn() {
    let record = came(json!({"id": {"$bind": "rec"}, "method": "host/resource.record",
        "params": {"call": 2}}));
    let refusal = json!({"kind": "auth"});
    check(
        toy::boxes(),
        &[
            initialize("toy", json!({"maxInflight": 1})),
            acquire(2, "standard"),
            record,
            acquire(3, "standard"),
            acquire(4, "beast"),
            sent(json!({"method": "$/cancel",
                "params": {"id": 3, "reason": "user", "graceMs": 0}})),
            came(json!({"id": 3, "error": {"code": 1050,
                "data": {"kind": "cancelled", "outcome": "not-started"}}})),
            sent(json!({"id": {"$ref": "rec"},
                "error": {"code": 1010, "message": "no", "data": refusal}})),
            came(json!({"id": 2, "error": {"code": 1010, "data": refusal}})),
            came(json!({"method": "event/attempt", "params": {"call": 4}})),
            came(json!({"id": 4, "error": {"data": {"kind": "capacity"}}})),
        ],
    );
}

#[test]
fn a_panic_in_a_provider_fails_its_call_and_no_other() {
    check(
        toy::boxes(),
        &[
            initialize("toy", json!({})),
            acquire(2, "panic"),
            came(json!({"id": 2, "error": {"code": 1099,
                "data": {"kind": "internal", "outcome": "uncertain"}}})),
            ping(3),
        ],
    );
}

#[test]
fn output_waits_for_credit() {
    check(
        toy::runner(),
        &[
            initialize("runner", json!({"outputWindow": 2})),
            start(2, &["print", "a", "b"]),
            printed(2, 0, "a\n"),
            ping(3),
            sent(json!({"method": "$/credit", "params": {"call": 2, "bytes": 2}})),
            printed(2, 2, "b\n"),
            came(json!({"id": 2, "result": {"exitCode": 0}})),
        ],
    );
}

#[test]
fn a_cancel_wakes_output_that_waits_for_credit() {
    check(
        toy::runner(),
        &[
            initialize("runner", json!({"outputWindow": 2})),
            start(2, &["print", "a", "b"]),
            printed(2, 0, "a\n"),
            sent(json!({"method": "$/cancel",
                "params": {"id": 2, "reason": "user", "graceMs": 1000}})),
            came(json!({"id": 2, "error": {"code": 1050, "data": {"kind": "cancelled"}}})),
        ],
    );
}

#[test]
fn a_call_whose_time_is_over_does_not_wait_for_the_host() {
    let desired = json!({"leaseId": "cbx_000000000002", "slug": "s", "name": "n"});
    let ctx = json!({"deadlineMs": 20, "graceMs": 20, "idem": "k"});
    let params = json!({"ctx": ctx, "desired": desired, "request": {}, "sshPublicKey": "k"});
    check(
        toy::boxes(),
        &[
            initialize("toy", json!({})),
            sent(json!({"id": 2, "method": "lease.acquire", "params": params})),
            came(json!({"method": "host/resource.record"})),
            came(json!({"id": 2, "error": {"data": {"kind": "timeout", "outcome": "uncertain"}}})),
        ],
    );
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let params = json!({"ctx": ctx(), "desired": 5});
    let bare = json!({"id": 3, "method": "lease.list", "params": {}});
    check(
        toy::boxes(),
        &[
            initialize("toy", json!({})),
            sent(json!({"id": 2, "method": "lease.acquire", "params": params})),
            came(json!({"id": 2, "error": {"data": {"kind": "invalid_request"}}})),
            sent(bare),
            came(json!({"id": 3, "error": {"code": -32602}})),
            sent(json!({"id": 4, "method": "run.start", "params": {"ctx": ctx()}})),
            came(json!({"id": 4, "error": {"code": -32601}})),
            sent(json!({"method": "$/unheard-of", "params": {}})),
            ping(5),
        ],
    );
}

/// A session on pipes: what to write to, what to read from, and the thread that serves.
fn open() -> (std::io::PipeWriter, impl Iterator<Item = Value>, std::thread::JoinHandle<bool>) {
    let (theirs, mut to) = std::io::pipe().unwrap();
    let (from, out) = std::io::pipe().unwrap();
    let served = std::thread::spawn(move || toy::boxes().serve(theirs, out).is_ok());
    let instance = json!({"provider": "toy"});
    let kernel = json!({"name": "crabbox", "version": "0.1.0"});
    let params = json!({"protocols": ["1.0"], "kernel": kernel, "instance": instance});
    let frame = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    writeln!(to, "{frame}").unwrap();
    let mut frames = BufReader::new(from)
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    assert_eq!(frames.next().unwrap()["id"], 1);
    (to, frames, served)
}

fn line(steps: &str) -> String {
    let step: Value = serde_json::from_str(steps).unwrap();
    let mut frame = step["m"].clone();
    frame["jsonrpc"] = json!("2.0");
    frame.to_string()
}

#[test]
fn the_end_of_the_wire_cancels_open_calls_and_ends_the_session() {
    let (mut to, mut frames, served) = open();
    writeln!(to, "{}", line(&acquire(2, "standard"))).unwrap();
    assert_eq!(frames.next().unwrap()["method"], "host/resource.record");
    let began = Instant::now();
    drop(to);
    let answer = frames.next().unwrap();
    assert_eq!(answer["error"]["data"]["kind"], "cancelled");
    assert_eq!(answer["error"]["data"]["outcome"], "uncertain");
    assert!(served.join().unwrap());
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(frames.next(), None);
}

#[test]
fn a_kernel_that_sends_garbage_is_not_served_any_longer() {
    for garbage in [&b"hello\n"[..], b"[]\n", b"{\"jsonrpc\":\"1.0\",\"id\":1}\n", &[b'x'; 1 << 20]]
    {
        let (mut to, _frames, served) = open();
        // The session may end before it has read everything.
        let _ = to.write_all(garbage);
        assert!(!served.join().unwrap());
    }
}
