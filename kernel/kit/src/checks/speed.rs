//! How quick and how large it is: worth a warning.

use std::time::{Duration, Instant};

use serde_json::json;

use super::pressure::poured;
use super::{Check, executes, must, should};
use crate::bench::Bench;
use crate::peer::{Outcome, fault};

/// From start to a good `initialize`.
const START: Duration = Duration::from_secs(1);
/// The median of pings.
const PING: Duration = Duration::from_millis(20);
const PINGS: usize = 21;
/// Memory after a listing.
const MEMORY_MIB: u64 = 256;
/// For 50 MiB of output.
const POURED: Duration = Duration::from_secs(5);

pub(super) const CHECKS: &[Check] = &[
    should(must(
        "P1",
        "it is ready within a second",
        "Start",
        "import and connect only when needed",
        start,
    )),
    should(must("P2", "ping takes no time", "Calls", "answer it where frames are read", ping)),
    should(must(
        "P3",
        "it takes less than 256 MiB",
        "Start",
        "read what is large in pieces",
        memory,
    )),
    Check {
        applies: executes,
        ..should(must("P4", "output flows at 10 MiB/s", "Events", "send 48 KiB at a time", flow))
    },
];

fn start(bench: &Bench<'_>) -> Outcome {
    let began = Instant::now();
    let peer = bench.open()?;
    let took = began.elapsed();
    match took <= START * bench.subject.patience {
        true => bench.close(peer),
        false => fault("initialize", &format!("an answer within {START:?}"), format!("{took:?}")),
    }
}

fn ping(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let began = Instant::now();
        peer.must("ping", json!({}))?;
        times.push(began.elapsed());
    }
    times.sort();
    let median = times[PINGS / 2];
    match median <= PING * bench.subject.patience {
        true => bench.close(peer),
        false => fault("ping", &format!("an answer within {PING:?}"), format!("{median:?}")),
    }
}

fn flow(bench: &Bench<'_>) -> Outcome {
    let took = poured(bench)?;
    match took <= POURED * bench.subject.patience {
        true => Ok(()),
        false => fault("a command that prints 50 MiB", &format!("{POURED:?}"), format!("{took:?}")),
    }
}

fn memory(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let _ = peer.ask(bench.method("list"), json!({}))?;
    match peer.memory_mib() {
        Some(mib) if mib > MEMORY_MIB => {
            fault("list", &format!("at most {MEMORY_MIB} MiB"), format!("{mib} MiB"))
        }
        _ => bench.close(peer),
    }
}
