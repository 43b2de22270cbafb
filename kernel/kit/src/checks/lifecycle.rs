//! How a plugin ends.

use std::time::Duration;

use serde_json::json;

use super::{Check, Level, must};
use crate::bench::Bench;
use crate::peer::{Outcome, PROMPT, fault};

/// How long a plugin may take to go when nothing is under way.
const SOON: Duration = Duration::from_secs(2);
/// How long it may take when a call has to be wound up.
const WOUND_UP: Duration = Duration::from_secs(12);

pub(super) const CHECKS: &[Check] = &[
    must(
        "L1",
        "after `shutdown` and the end of standard input it exits with 0 within 2 s",
        "The end",
        "end the process when standard input ends",
        shuts_down,
    ),
    must(
        "L2",
        "at the end of standard input it exits within 2 s",
        "The end",
        "end the process when standard input ends",
        end_of_input,
    ),
    must(
        "L3",
        "at the end of standard input a call is wound up, and it exits",
        "The end",
        "cancel every call, give it 10 s, then exit",
        end_during_call,
    ),
    must(
        "L4",
        "after `shutdown` further calls are refused with -32600",
        "The end",
        "remember that it was shut down",
        refuses_after,
    ),
    Check {
        level: Level::Should,
        ..must(
            "L5",
            "SIGTERM ends it within 12 s",
            "The end",
            "treat it like the end of standard input",
            terminated,
        )
    },
    must(
        "X1",
        "killed at any point, it works when it is started again",
        "The end",
        "leave nothing behind that a next start trips over",
        starts_again,
    ),
    must(
        "L6",
        "nothing of its process group outlives it",
        "The end",
        "end the processes it started",
        leaves_nothing,
    ),
];

fn shuts_down(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.must("shutdown", json!({}))?;
    peer.hang_up();
    match peer.ended(SOON) {
        Some(status) if status.success() => Ok(()),
        Some(status) => fault("shutdown, then the end of standard input", "exit status 0", status),
        None => {
            fault("shutdown, then the end of standard input", "it exits within 2 s", "it lives")
        }
    }
}

fn end_of_input(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.hang_up();
    match peer.ended(SOON) {
        Some(_) => Ok(()),
        None => fault("the end of standard input", "it exits within 2 s", "it lives"),
    }
}

fn end_during_call(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.withhold = Some("host/");
    peer.request(bench.method("acquire"), bench.wanted())?;
    peer.idle(Duration::from_millis(300))?;
    peer.hang_up();
    if peer.ended(WOUND_UP).is_none() {
        return fault(
            "the end of standard input during an acquire",
            "it exits within 12 s",
            "it lives",
        );
    }
    drop(peer);
    let mut peer = bench.open()?;
    let id = bench.desired()["leaseId"].clone();
    if let Ok(found) = bench.resolve(&mut peer, &id, "reconcile")? {
        bench.release(&mut peer, &found["lease"])?;
    }
    bench.close(peer)
}

fn refuses_after(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.must("shutdown", json!({}))?;
    let id = peer.request(bench.method("list"), json!({}))?;
    match peer.answer(id, PROMPT)? {
        Err(error) if error["code"] == -32600 => Ok(()),
        Err(error) => fault("a call after shutdown", "an error with code -32600", error),
        Ok(result) => fault("a call after shutdown", "an error with code -32600", result),
    }
}

fn terminated(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.signal(rustix::process::Signal::TERM);
    match peer.ended(WOUND_UP) {
        Some(_) => Ok(()),
        None => fault("SIGTERM", "it exits within 12 s", "it lives"),
    }
}

/// Kills it before the hello, after it, in a call, and after `shutdown`; each time the next one must work.
fn starts_again(bench: &Bench<'_>) -> Outcome {
    for point in ["its start", "initialize", "an acquire", "shutdown"] {
        let mut peer = bench.start()?;
        if point != "its start" {
            bench.greet(&mut peer)?;
        }
        match point {
            "an acquire" => {
                peer.withhold = Some("host/");
                peer.request(bench.method("acquire"), bench.wanted())?;
                peer.idle(Duration::from_millis(100))?;
            }
            "shutdown" => drop(peer.must("shutdown", json!({}))?),
            _ => {}
        }
        drop(peer);
        let again = bench.open().and_then(|mut peer| {
            peer.must(bench.method("list"), json!({}))?;
            bench.give_back(&mut peer)?;
            bench.close(peer)
        });
        if let Err(why) = again {
            return fault(&format!("SIGKILL after {point}, and a new start"), "it works", why.got);
        }
    }
    Ok(())
}

fn leaves_nothing(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.must("doctor", json!({}))?;
    peer.must(bench.method("list"), json!({}))?;
    peer.must("shutdown", json!({}))?;
    peer.hang_up();
    if peer.ended(PROMPT).is_none() {
        return fault("shutdown, then the end of standard input", "it exits", "it lives");
    }
    std::thread::sleep(Duration::from_millis(100));
    match peer.group_lives() {
        true => fault("its end", "no process of its group", "one lives"),
        false => Ok(()),
    }
}
