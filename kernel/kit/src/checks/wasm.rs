//! What holds for WebAssembly plugins only.

use std::time::{Duration, Instant};

use crabbox_plugins::{Entry, Power, check_imports, imports};
use serde_json::{Value, json};

use super::{Check, Level, must};
use crate::bench::Bench;
use crate::host::Host;
use crate::peer::{Manner, Outcome, PROMPT, Peer, WORK, fault};

/// What greeting and listing may cost, in the engine's units; a small provider takes a hundredth of it.
const FUEL: &str = "500000000";
/// How long a guest that was compiled may take to answer.
const SOON: Duration = Duration::from_secs(1);

pub(super) const CHECKS: &[Check] = &[
    Check {
        applies: sandboxed,
        ..must(
            "W1",
            "it imports only what its manifest asks for",
            "WebAssembly",
            "ask for the power under [grants], or build without it",
            grants,
        )
    },
    Check {
        applies: sandboxed,
        level: Level::Should,
        ..must(
            "W2",
            "it imports no sockets, which refuse every connection",
            "WebAssembly",
            "send requests through the host",
            sockets,
        )
    },
    Check {
        applies: sandboxed,
        ..must(
            "W4",
            "it is compiled once, and then greets within a second",
            "WebAssembly",
            "do less in initialize",
            compiled,
        )
    },
    Check {
        applies: twin,
        ..must(
            "W3",
            "it asks and answers what the program of its manifest does",
            "WebAssembly",
            "build both from the same source",
            same,
        )
    },
    Check {
        applies: component,
        ..must(
            "W6",
            "a call is served while another one waits",
            "WebAssembly",
            "keep nothing between calls that one call holds",
            side_by_side,
        )
    },
    Check {
        applies: component,
        level: Level::Should,
        ..must(
            "W5",
            "greeting and listing need no more than the usual work",
            "WebAssembly",
            "do less in initialize and in listing",
            work,
        )
    },
];

fn sandboxed(bench: &Bench<'_>) -> Result<(), String> {
    match bench.subject.entry.runtime.is_some_and(|runtime| runtime.is_sandboxed()) {
        true => Ok(()),
        false => Err("it is a program".to_owned()),
    }
}

fn component(bench: &Bench<'_>) -> Result<(), String> {
    sandboxed(bench)?;
    match bench.subject.entry.args.iter().any(|arg| arg == "--command") {
        true => Err("a command has no methods to measure".to_owned()),
        false => Ok(()),
    }
}

fn twin(bench: &Bench<'_>) -> Result<(), String> {
    sandboxed(bench)?;
    let twin = bench.subject.twin.as_ref().map(drop);
    twin.ok_or_else(|| "the manifest has no program for this machine".to_owned())
}

fn grants(bench: &Bench<'_>) -> Outcome {
    let entry = &bench.subject.entry;
    match check_imports(&entry.manifest, &entry.folder) {
        Ok(()) => Ok(()),
        Err(error) => fault("(its imports)", "what [grants] opens", error),
    }
}

fn sockets(bench: &Bench<'_>) -> Outcome {
    let found = match imports(&bench.subject.entry.artifact) {
        Ok(found) => found,
        Err(error) => return fault("(its imports)", "a component", error),
    };
    match found.into_iter().find(|import| import.power == Power::Sockets) {
        Some(import) => fault("(its imports)", "no wasi:sockets", import.name),
        None => Ok(()),
    }
}

fn compiled(bench: &Bench<'_>) -> Outcome {
    bench.close(bench.open()?)?;
    let began = Instant::now();
    let peer = bench.open()?;
    let took = began.elapsed();
    bench.close(peer)?;
    match took <= SOON * bench.subject.patience {
        true => Ok(()),
        false => fault("initialize", "an answer within 1 s", format!("{took:?}")),
    }
}

fn work(bench: &Bench<'_>) -> Outcome {
    let subject = bench.subject;
    let mut entry = subject.entry.clone();
    entry.args.splice(0..0, ["--fuel", FUEL].map(str::to_owned));
    let mut peer = Peer::run(&entry, subject, Host::new(bench)?, Manner::default())?;
    bench.greet(&mut peer)?;
    peer.must(bench.method("list"), json!({}))?;
    bench.close(peer)
}

/// One life, told to both; each gets the service as it was at first.
fn same(bench: &Bench<'_>) -> Outcome {
    let subject = bench.subject;
    let said = subject.twin.iter().chain([&subject.entry]).map(|entry| life(&bench.anew()?, entry));
    let said = said.collect::<Outcome<Vec<_>>>()?;
    let [program, component] = &said[..] else { return Ok(()) };
    for (at, one) in program.iter().enumerate() {
        let other = component.get(at).cloned().unwrap_or_default();
        if *one != other {
            return fault("one life, to the program and to this", &one.to_string(), other);
        }
    }
    match component.get(program.len()) {
        None => Ok(()),
        Some(more) => fault("one life, to the program and to this", "nothing more", more),
    }
}

/// What a plugin says from its hello to its end.
fn life(bench: &Bench<'_>, entry: &Entry) -> Outcome<Vec<Value>> {
    let mut peer = Peer::run(entry, bench.subject, Host::new(bench)?, Manner::default())?;
    bench.greet(&mut peer)?;
    let _ = bench.resolve(&mut peer, &json!("kit-no-such-box"), "status")?;
    let _ = peer.ask("box.levitate", json!({}))?;
    let lease = bench.acquire(&mut peer)?;
    let _ = peer.ask(bench.method("list"), json!({}))?;
    bench.release(&mut peer, &lease)?;
    let mut said = std::mem::take(&mut peer.said);
    said.iter_mut().for_each(forget_times);
    said.iter_mut().for_each(forget_order);
    bench.close(peer)?;
    Ok(said)
}

/// What is left of a call's time is another number whenever it is looked at.
fn forget_times(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.is_number() && name.ends_with("Ms") {
                    true => *member = Value::Null,
                    false => forget_times(member),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(forget_times),
        _ => {}
    }
}

/// In which order a hello names its methods says nothing.
fn forget_order(said: &mut Value) {
    if let Some(Value::Array(methods)) = said.pointer_mut("/result/methods") {
        methods.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
    }
}

fn side_by_side(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.withhold = Some("host/resource.record");
    let acquire = peer.request(bench.method("acquire"), bench.wanted())?;
    peer.until("acquire", WORK, |peer| !peer.withheld.is_empty() || peer.has_answer())?;
    let list = peer.request(bench.method("list"), json!({}))?;
    let listed = peer.answer(list, PROMPT);
    if let Err(why) = listed {
        return fault("list, while an acquire waits", "an answer", &why.got);
    }
    peer.let_go()?;
    let _ = peer.answer(acquire, WORK)?;
    bench.give_back(&mut peer)?;
    bench.close(peer)
}
