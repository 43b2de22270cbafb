//! What must not get out.

use serde_json::json;

use super::{Check, must};
use crate::bench::Bench;
use crate::peer::{Outcome, fault};

pub(super) const CHECKS: &[Check] = &[
    must(
        "S1",
        "secrets stand in no event and not on standard error",
        "Callbacks",
        "never print what secret.reveal gave",
        secrets,
    ),
    must("S2", "doctor creates nothing", "Calls", "look, and do not touch", doctor),
];

fn secrets(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let lease = bench.acquire(&mut peer)?;
    let shown = lease.to_string().contains(crate::host::CANARY);
    let _ = bench.resolve(&mut peer, &json!("kit-no-such-box"), "status")?;
    let _ = peer.ask("doctor", json!({}))?;
    bench.release(&mut peer, &lease)?;
    match peer.kept_its_secret() && !shown {
        true => bench.close(peer),
        false => fault("acquire, resolve, doctor, release", "no secret in what it says", "one"),
    }
}

fn doctor(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let checks = peer.must("doctor", json!({}))?;
    if !checks["checks"].is_array() {
        return fault("doctor", "`checks`", checks);
    }
    if !peer.host.journal.is_empty() {
        return fault("doctor", "no host/resource.record", "one");
    }
    let change = peer.host.service.changes.first().cloned();
    match change {
        None => bench.close(peer),
        Some(asked) => fault("doctor", "only requests that read", asked),
    }
}
