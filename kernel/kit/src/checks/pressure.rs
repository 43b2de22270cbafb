//! More than can be taken at once.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Check, executes, must_delegated};
use crate::bench::Bench;
use crate::peer::{Outcome, PROMPT, Peer, WORK, fault, output};

/// What a call may have outstanding.
const WINDOW: usize = 1 << 20;
/// What may be beyond that: one chunk.
const CHUNK: usize = 64 * 1024;

/// Output that no buffer holds.
const MUCH: usize = 50 << 20;

pub(super) const CHECKS: &[Check] = &[
    must_delegated(
        "B1",
        "output stops at the window and goes on with credit",
        "Credit",
        "count what is outstanding; wait for $/credit",
        stops,
    ),
    must_delegated(
        "B2",
        "ping is answered while output waits for credit",
        "Credit",
        "wait for credit on a thread or task of its own",
        ping,
    ),
    must_delegated(
        "B5",
        "with credit in drops output goes on, and never ahead of it",
        "Credit",
        "add every $/credit to what may be sent, however little it is",
        drops,
    ),
    Check {
        applies: executes,
        ..must_delegated(
            "R9",
            "50 MiB of output arrive whole",
            "run.start: a delegated command",
            "send what was read before reading more",
            much,
        )
    },
];

fn sent(peer: &Peer) -> usize {
    let outputs = peer.events.iter().filter(|event| event["method"] == "event/output");
    outputs.filter_map(|event| output(&event["params"])).map(|data| data.len()).sum()
}

/// Runs a command that prints 4 MiB, gives no credit, and asks something meanwhile.
fn held(bench: &Bench<'_>, meanwhile: impl FnOnce(&mut Peer, u64) -> Outcome<usize>) -> Outcome {
    bench.with_box(|peer, lease| {
        peer.stingy = true;
        peer.events.clear();
        let params = json!({"runId": "run_0123456789ab", "lease": lease, "env": {},
            "command": ["sh", "-c", "head -c 4194304 /dev/zero | tr '\\0' x"]});
        let id = peer.request("run.start", params)?;
        peer.until("output up to the window", WORK, |peer| sent(peer) + CHUNK >= WINDOW)?;
        peer.idle(Duration::from_millis(300))?;
        if sent(peer) > WINDOW + CHUNK {
            return fault(
                "4 MiB of output without credit",
                "at most 1 MiB and a chunk",
                sent(peer),
            );
        }
        let given = meanwhile(peer, id)?;
        peer.stingy = false;
        let owed = sent(peer) - given;
        peer.send(json!({"method": "$/credit", "params": {"call": id, "bytes": owed}}))?;
        match peer.answer(id, WORK)? {
            Ok(_) if sent(peer) == 4 << 20 => Ok(()),
            Ok(_) => fault("credit", "4194304 bytes of output in all", sent(peer)),
            Err(error) => fault("credit", "the end of the command", error),
        }
    })
}

/// Gives 64 KiB of credit, 4 KiB at a time.
fn drops(bench: &Bench<'_>) -> Outcome {
    held(bench, |peer, call| {
        for given in (1..=16).map(|drop| drop * 4096) {
            peer.send(json!({"method": "$/credit", "params": {"call": call, "bytes": 4096}}))?;
            peer.idle(Duration::from_millis(5))?;
            if sent(peer) > WINDOW + CHUNK + given {
                let most = format!("at most 1 MiB, {given} bytes and a chunk");
                return fault("credit of 4096 bytes", &most, sent(peer));
            }
        }
        peer.until("16 times 4096 bytes of credit", WORK, |peer| {
            sent(peer) + CHUNK >= WINDOW + 16 * 4096
        })?;
        Ok(16 * 4096)
    })
}

/// How long 50 MiB take, when they arrive.
pub(super) fn poured(bench: &Bench<'_>) -> Outcome<Duration> {
    bench.with_box(|peer, lease| {
        peer.events.clear();
        let line = "head -c 52428800 /dev/zero | tr '\\0' x";
        let params = json!({"runId": "run_0123456789ab", "lease": lease, "env": {},
            "command": ["sh", "-c", line]});
        let began = Instant::now();
        peer.must("run.start", params)?;
        let took = began.elapsed();
        match sent(peer) {
            MUCH => Ok(took),
            other => fault(line, "52428800 bytes", other),
        }
    })
}

fn much(bench: &Bench<'_>) -> Outcome {
    poured(bench).map(drop)
}

fn stops(bench: &Bench<'_>) -> Outcome {
    held(bench, |_, _| Ok(0))
}

fn ping(bench: &Bench<'_>) -> Outcome {
    held(bench, |peer, _| {
        let id = peer.request("ping", json!({}))?;
        match peer.answer(id, PROMPT)? {
            Ok(_) => Ok(0),
            Err(error) => fault("ping", "an empty result", error),
        }
    })
}
