//! More than can be taken at once.

use std::time::Duration;

use serde_json::json;

use super::{Check, must_delegated};
use crate::bench::Bench;
use crate::peer::{Outcome, PROMPT, Peer, WORK, fault, output};

/// What a call may have outstanding.
const WINDOW: usize = 1 << 20;
/// What may be beyond that: one chunk.
const CHUNK: usize = 64 * 1024;

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
];

fn sent(peer: &Peer) -> usize {
    let outputs = peer.events.iter().filter(|event| event["method"] == "event/output");
    outputs.filter_map(|event| output(&event["params"])).map(|data| data.len()).sum()
}

/// Runs a command that prints 4 MiB, gives no credit, and asks something meanwhile.
fn held(bench: &Bench<'_>, meanwhile: impl FnOnce(&mut Peer) -> Outcome) -> Outcome {
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
        meanwhile(peer)?;
        peer.stingy = false;
        let owed = sent(peer);
        peer.send(json!({"method": "$/credit", "params": {"call": id, "bytes": owed}}))?;
        match peer.answer(id, WORK)? {
            Ok(_) if sent(peer) == 4 << 20 => Ok(()),
            Ok(_) => fault("credit", "4194304 bytes of output in all", sent(peer)),
            Err(error) => fault("credit", "the end of the command", error),
        }
    })
}

fn stops(bench: &Bench<'_>) -> Outcome {
    held(bench, |_| Ok(()))
}

fn ping(bench: &Bench<'_>) -> Outcome {
    held(bench, |peer| {
        let id = peer.request("ping", json!({}))?;
        match peer.answer(id, PROMPT)? {
            Ok(_) => Ok(()),
            Err(error) => fault("ping", "an empty result", error),
        }
    })
}
