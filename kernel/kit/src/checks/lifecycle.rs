//! How a plugin ends.

use std::time::Duration;

use serde_json::json;

use super::{Check, Level, must};
use crate::bench::Bench;
use crate::host::Host;
use crate::peer::{Manner, Outcome, PROMPT, Peer, fault};

/// How long a plugin may take to go when nothing is under way.
const SOON: Duration = Duration::from_secs(2);
/// How long it may take when a call has to be wound up.
const WOUND_UP: Duration = Duration::from_secs(12);
/// How long it is watched doing nothing, and how much it may do.
const IDLE: Duration = Duration::from_secs(1);
const WORKED: Duration = Duration::from_millis(50);

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
    Check {
        applies: writes_nowhere,
        ..must(
            "L7",
            "no file outside its folder is written",
            "Start",
            "write below CRABBOX_STATE_DIR, or ask for the power `write`",
            keeps_to_its_folder,
        )
    },
    Check {
        level: Level::Should,
        ..must("L8", "idle, it takes no time on a processor", "Start", "wait, do not look", idles)
    },
];

fn writes_nowhere(bench: &Bench<'_>) -> Result<(), String> {
    let entry = &bench.subject.entry;
    if entry.runtime.is_some_and(|runtime| runtime.is_sandboxed()) {
        return Err("it has no files".to_owned());
    }
    match entry.manifest.grants.powers.iter().any(|power| power == "write") {
        true => Err("it asks for the power `write`".to_owned()),
        false => Ok(()),
    }
}

fn keeps_to_its_folder(bench: &Bench<'_>) -> Outcome {
    let home = match tempfile::tempdir() {
        Ok(home) => home,
        Err(e) => return fault("a home of its own", "a folder", e),
    };
    let (subject, manner) = (bench.subject, Manner { home: Some(home.path()), by_hand: false });
    let mut peer = Peer::run(&subject.entry, subject, Host::new(bench)?, manner)?;
    bench.greet(&mut peer)?;
    let lease = bench.acquire(&mut peer)?;
    let _ = peer.ask("doctor", json!({}))?;
    bench.release(&mut peer, &lease)?;
    bench.close(peer)?;
    match std::fs::read_dir(home.path()).into_iter().flatten().flatten().next() {
        None => Ok(()),
        Some(file) => {
            let name = file.file_name().display().to_string();
            fault("acquire, doctor, release", "nothing in HOME and TMPDIR", name)
        }
    }
}

fn idles(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.must(bench.method("list"), json!({}))?;
    let before = peer.worked();
    peer.idle(IDLE)?;
    match before.zip(peer.worked()).map(|(before, after)| after - before) {
        Some(worked) if worked > WORKED => fault(
            "a second with nothing to do",
            &format!("at most {WORKED:?} of work"),
            format!("{worked:?}"),
        ),
        _ => bench.close(peer),
    }
}

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
