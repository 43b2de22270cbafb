//! The wire itself: lines however they arrive.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Check, must};
use crate::bench::Bench;
use crate::peer::{Outcome, PROMPT, fault};

pub(super) const CHECKS: &[Check] = &[
    must(
        "F1",
        "a frame may arrive byte by byte",
        "Frames",
        "read up to LF, however long that takes",
        byte_by_byte,
    ),
    must(
        "F2",
        "many frames may arrive at once",
        "Frames",
        "handle every line of what was read",
        at_once,
    ),
    must(
        "F3",
        "CR before LF and empty lines are tolerated",
        "Frames",
        "trim the line; skip it when empty",
        loose_ends,
    ),
    must(
        "F4",
        "an unknown request is answered with -32601",
        "Frames",
        "answer an error with that code",
        unknown_request,
    ),
    must(
        "F5",
        "a line of nearly 1 MiB is read",
        "Frames",
        "do not limit lines below 1 MiB",
        long_line,
    ),
    must("F6", "frames nest up to 64 deep", "Frames", "do not limit depth below 64", deep),
    must(
        "K1",
        "a newer kernel's members in a request change nothing",
        "What changed",
        "read what you know, ignore the rest",
        newer_members,
    ),
    must(
        "K2",
        "a newer kernel's words are answered, and cost nothing but their call",
        "What changed",
        "treat an unknown purpose as `use`, or refuse it",
        newer_words,
    ),
    must(
        "F7",
        "ping is answered while a call is under way",
        "Calls",
        "serve calls on threads or tasks of their own",
        ping_meanwhile,
    ),
];

fn ping(id: u64) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": "ping", "params": {"ctx": ctx()}}).to_string()
}

fn ctx() -> Value {
    json!({"deadlineMs": 5000, "graceMs": 0, "idem": "kit"})
}

fn byte_by_byte(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.expect(1000);
    for byte in format!("{}\n", ping(1000)).bytes() {
        peer.send_bytes(&[byte])?;
    }
    answered(peer.answer(1000, PROMPT)?)?;
    bench.close(peer)
}

fn at_once(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    (1000..1064).for_each(|id| peer.expect(id));
    let all: String = (1000..1064).map(|id| ping(id) + "\n").collect();
    peer.send_bytes(all.as_bytes())?;
    for id in 1000..1064 {
        answered(peer.answer(id, PROMPT)?)?;
    }
    bench.close(peer)
}

fn loose_ends(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.expect(1000);
    peer.send_bytes(format!("\n\r\n\n{}\r\n\n", ping(1000)).as_bytes())?;
    answered(peer.answer(1000, PROMPT)?)?;
    bench.close(peer)
}

fn unknown_request(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    match peer.ask("box.levitate", json!({}))? {
        Err(error) if error["code"] == -32601 => bench.close(peer),
        Err(error) => fault("box.levitate", "an error with code -32601", error),
        Ok(result) => fault("box.levitate", "an error with code -32601", result),
    }
}

fn long_line(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let mut frame = json!({"jsonrpc": "2.0", "id": 1000, "method": "ping", "params": {"ctx": ctx(), "pad": ""}});
    let room = (1 << 20) - 1 - frame.to_string().len();
    frame["params"]["pad"] = json!("x".repeat(room));
    peer.expect(1000);
    peer.send_bytes(format!("{frame}\n").as_bytes())?;
    answered(peer.answer(1000, PROMPT)?)?;
    bench.close(peer)
}

fn deep(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let nested = (0..60).fold(json!(1), |inner, _| json!([inner]));
    let id = peer.request("ping", json!({"nested": nested}))?;
    answered(peer.answer(id, PROMPT)?)?;
    bench.close(peer)
}

fn newer_members(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let mut wanted = bench.wanted();
    wanted["tomorrow"] = json!({"a": [1, null]});
    wanted["desired"]["color"] = json!("blue");
    wanted["request"]["altitude"] = json!({"min": 3});
    wanted["ctx"] = ctx();
    wanted["ctx"]["deadlineMs"] = json!(60_000);
    wanted["ctx"]["trace"] = json!("00-0123");
    peer.must(bench.method("acquire"), wanted)?;
    bench.give_back(&mut peer)?;
    bench.close(peer)
}

fn newer_words(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let _ = bench.resolve(&mut peer, &json!("kit-no-such-box"), "divination")?;
    peer.send(
        json!({"method": "$/cancel", "params": {"id": 4711, "reason": "boredom", "graceMs": 5}}),
    )?;
    let id = peer.request("ping", json!({}))?;
    answered(peer.answer(id, PROMPT)?)?;
    bench.close(peer)
}

fn ping_meanwhile(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.withhold = Some("host/");
    let acquire = peer.request(bench.method("acquire"), bench.wanted())?;
    peer.idle(Duration::from_millis(200))?;
    let id = peer.request("ping", json!({}))?;
    answered(peer.answer(id, PROMPT)?)?;
    peer.let_go()?;
    let _ = peer.answer(acquire, crate::peer::WORK)?;
    drop(peer);
    let mut peer = bench.open()?;
    let id = bench.desired()["leaseId"].clone();
    if let Ok(found) = bench.resolve(&mut peer, &id, "release")? {
        bench.release(&mut peer, &found["lease"])?;
    }
    bench.close(peer)
}

fn answered(answer: Result<Value, Value>) -> Outcome {
    match answer {
        Ok(_) => Ok(()),
        Err(error) => fault("ping", "an empty result", error),
    }
}
