//! Stopping a call: an answer is still required, and it says what is left.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Check, must, obeys_ids};
use crate::bench::Bench;
use crate::peer::{Outcome, PROMPT, Peer, WORK, fault};

/// Time to clean up in these checks.
const GRACE_MS: u64 = 5_000;

pub(super) const CHECKS: &[Check] = &[
    must(
        "C1",
        "cancelling a call that is not open changes nothing",
        "Cancels and deadlines",
        "ignore ids you do not know",
        unknown,
    ),
    must(
        "C2",
        "a cancelled acquire is answered within its grace",
        "Cancels and deadlines",
        "look for the cancel between steps and in waits",
        answered,
    ),
    must(
        "C3",
        "an error of a cancelled call has an outcome",
        "Cancels and deadlines",
        "say not-started, rolled-back, completed or uncertain",
        outcome,
    ),
    must(
        "C4",
        "cancelling twice, the second time with no grace, is fine",
        "Cancels and deadlines",
        "a second cancel only shortens the grace",
        twice,
    ),
    must(
        "C5",
        "cancelling a call that was answered changes nothing",
        "Cancels and deadlines",
        "ignore ids you do not know",
        late,
    ),
    must(
        "C6",
        "what was created is forgotten when an error says `rolled-back`",
        "Cancels and deadlines",
        "say `uncertain` unless all of it is gone, and host/resource.forget what is",
        rolled_back,
    ),
    must(
        "C7",
        "a call whose time is over creates nothing",
        "Cancels and deadlines",
        "look at ctx.deadlineMs before the first step",
        too_late,
    ),
];

fn unknown(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    cancel(&mut peer, 4711, GRACE_MS)?;
    peer.must("ping", json!({}))?;
    bench.close(peer)
}

fn late(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let id = peer.request(bench.method("list"), json!({}))?;
    let _ = peer.answer(id, WORK)?;
    cancel(&mut peer, id, GRACE_MS)?;
    peer.must("ping", json!({}))?;
    bench.close(peer)
}

fn answered(bench: &Bench<'_>) -> Outcome {
    interrupted(bench, &[GRACE_MS]).map(drop)
}

fn twice(bench: &Bench<'_>) -> Outcome {
    interrupted(bench, &[GRACE_MS, 0]).map(drop)
}

fn outcome(bench: &Bench<'_>) -> Outcome {
    match interrupted(bench, &[GRACE_MS])? {
        Ok(_) => Ok(()),
        Err(error) if error["data"]["outcome"].is_string() => Ok(()),
        Err(error) => fault("$/cancel of an acquire", "`data.outcome`", error),
    }
}

/// Cancels an acquire right after the kernel has the first thing it created on disk.
fn rolled_back(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.withhold = Some("host/resource.record");
    let id = peer.request(bench.method("acquire"), bench.wanted())?;
    peer.until("acquire", WORK, |peer| !peer.withheld.is_empty() || peer.has_answer())?;
    cancel(&mut peer, id, GRACE_MS)?;
    peer.let_go()?;
    let answer = peer.answer(id, Duration::from_millis(GRACE_MS) + PROMPT / 5)?;
    let left = peer.host.journal.values().next().cloned();
    let standing = bench.standing().first().cloned().map(Value::String);
    drop(peer);
    released(bench)?;
    match (answer, left.or(standing)) {
        (Err(error), Some(left)) if error["data"]["outcome"] == "rolled-back" => {
            fault("$/cancel of an acquire", "nothing left, or another outcome", left)
        }
        _ => Ok(()),
    }
}

fn too_late(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let mut wanted = bench.wanted();
    wanted["ctx"] = json!({"deadlineMs": 0, "graceMs": 5_000, "idem": "kit-late"});
    let answer = peer.ask(bench.method("acquire"), wanted)?;
    let recorded = peer.host.journal.values().next().cloned();
    let asked = peer.host.service.changes.first().cloned().map(Value::String);
    drop(peer);
    released(bench)?;
    let created = recorded.or(asked).or(answer.ok().filter(|_| obeys_ids(bench).is_ok()));
    match created {
        None => Ok(()),
        Some(created) => fault("acquire with deadlineMs 0", "an error, and nothing made", created),
    }
}

/// Cancels an acquire while it waits for the kernel; its answer. Whatever is left is given back.
fn interrupted(bench: &Bench<'_>, graces: &[u64]) -> Outcome<Result<Value, Value>> {
    let mut peer = bench.open()?;
    peer.withhold = Some("host/");
    let id = peer.request(bench.method("acquire"), bench.wanted())?;
    // A plugin that asks nothing simply finishes, which is a good answer to a cancel too.
    let _ = peer.until("acquire", Duration::from_millis(500), |peer| !peer.withheld.is_empty());
    if peer.withheld.is_empty() {
        drop(peer);
        return released(bench).map(|()| Ok(Value::Null));
    }
    graces.iter().try_for_each(|grace| cancel(&mut peer, id, *grace))?;
    // The kernel answers what was pending with `cancelled`, and serves again.
    peer.withhold = None;
    for frame in std::mem::take(&mut peer.withheld) {
        let error = crate::host::error(crabbox_schemas::error::ErrorKind::Cancelled, "cancelled");
        peer.send(json!({"id": frame["id"], "error": error}))?;
    }
    let answer = match peer.answer(id, Duration::from_millis(GRACE_MS) + PROMPT / 5) {
        Ok(answer) => answer,
        Err(why) => return fault("$/cancel of an acquire", "an answer within its grace", &why.got),
    };
    drop(peer);
    released(bench)?;
    Ok(answer)
}

/// Gives back whatever there is of this check's box.
fn released(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let id = bench.desired()["leaseId"].clone();
    if let Ok(found) = bench.resolve(&mut peer, &id, "reconcile")? {
        bench.release(&mut peer, &found["lease"])?;
    }
    bench.close(peer)
}

fn cancel(peer: &mut Peer, id: u64, grace_ms: u64) -> Outcome {
    peer.send(
        json!({"method": "$/cancel", "params": {"id": id, "reason": "user", "graceMs": grace_ms}}),
    )
}
