//! `initialize`, and being started by hand.

use serde_json::json;

use super::{Check, must};
use crate::bench::Bench;
use crate::host::Host;
use crate::peer::{Manner, Outcome, PROMPT, Peer, WORK, fault};

pub(super) const CHECKS: &[Check] = &[
    must(
        "H1",
        "it introduces itself as its manifest does",
        "initialize",
        "read id, version and features from one place",
        introduces,
    ),
    must(
        "H2",
        "of several protocol versions it takes the newest it knows",
        "initialize",
        "choose 1.0 where newer ones are offered too",
        newest,
    ),
    must(
        "H3",
        "without a common version it says `unsupported`",
        "initialize",
        "compare `protocols` before anything else",
        no_version,
    ),
    must(
        "H4",
        "members it does not know are ignored",
        "Frames",
        "do not reject unknown members",
        unknown_members,
    ),
    must(
        "H5",
        "a request before `initialize` is refused with -32600",
        "initialize",
        "answer an error, do not work",
        too_early,
    ),
    must(
        "H6",
        "a second `initialize` is refused with -32600",
        "initialize",
        "keep the first session",
        twice,
    ),
    must(
        "H7",
        "started by hand it says so on standard error and exits with 64",
        "Start",
        "look at CRABBOX_PLUGIN first",
        by_hand,
    ),
];

fn introduces(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.start()?;
    let said = bench.greet(&mut peer)?;
    let entry = &bench.subject.entry;
    let pairs = [
        ("/plugin/id", json!(entry.manifest.id)),
        ("/plugin/version", json!(entry.manifest.version)),
        ("/provider/name", json!(entry.provider.name)),
        ("/provider/kind", json!(entry.provider.kind)),
        ("/protocol", json!("1.0")),
    ];
    for (at, expected) in pairs {
        let got = said.pointer(at).cloned().unwrap_or_default();
        if got != expected {
            return fault("initialize", &format!("{at} is {expected}"), got);
        }
    }
    let features = |value: &serde_json::Value| {
        let mut all: Vec<String> = serde_json::from_value(value.clone()).unwrap_or_default();
        all.sort();
        all
    };
    let (got, expected) =
        (features(&said["provider"]["features"]), features(&json!(entry.provider.features)));
    if got != expected {
        return fault("initialize", &format!("features {expected:?}"), format!("{got:?}"));
    }
    let methods: Vec<String> = serde_json::from_value(said["methods"].clone()).unwrap_or_default();
    let needed = ["acquire", "resolve", "list", "release"].map(|what| bench.method(what));
    match needed.iter().find(|method| !methods.iter().any(|m| m == *method)) {
        Some(missing) => {
            fault("initialize", &format!("`methods` names {missing}"), &said["methods"])
        }
        None => bench.close(peer),
    }
}

fn newest(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.start()?;
    let said = peer.must("initialize", bench.hello(&["2.3", "1.7", "1.0"]))?;
    match said["protocol"].as_str() {
        Some("1.0") => Ok(()),
        other => fault("initialize with 2.3, 1.7, 1.0", "protocol 1.0", format!("{other:?}")),
    }
}

fn no_version(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.start()?;
    match peer.ask("initialize", bench.hello(&["9.1"]))? {
        Err(error) if error["data"]["kind"] == "unsupported" => Ok(()),
        Err(error) => fault("initialize with 9.1", "an error of kind unsupported", error),
        Ok(result) => fault("initialize with 9.1", "an error of kind unsupported", result),
    }
}

fn unknown_members(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.start()?;
    let mut hello = bench.hello(&["1.0"]);
    hello["tomorrow"] = json!({"deep": [1, {"er": null}], "text": "\u{0}\u{10fffd}\u{2028}"});
    hello["limits"]["maxTomorrows"] = json!(3);
    peer.must("initialize", hello)?;
    peer.send(json!({"method": "$/tomorrow", "params": {"x": 1}}))?;
    peer.must("ping", json!({"tomorrow": true}))?;
    bench.close(peer)
}

fn too_early(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.start()?;
    refused(&mut peer, bench.method("list"), json!({}))?;
    bench.greet(&mut peer)?;
    bench.close(peer)
}

fn twice(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    refused(&mut peer, "initialize", bench.hello(&["1.0"]))?;
    peer.must("ping", json!({}))?;
    bench.close(peer)
}

fn refused(peer: &mut Peer, method: &str, params: serde_json::Value) -> Outcome {
    let id = peer.request(method, params)?;
    match peer.answer(id, PROMPT)? {
        Err(error) if error["code"] == -32600 => Ok(()),
        Err(error) => fault(method, "an error with code -32600", error),
        Ok(result) => fault(method, "an error with code -32600", result),
    }
}

fn by_hand(bench: &Bench<'_>) -> Outcome {
    let (subject, manner) = (bench.subject, Manner { by_hand: true, home: None });
    let mut peer = Peer::run(&subject.entry, subject, Host::new(bench)?, manner)?;
    peer.hang_up();
    let Some(status) = peer.ended(WORK) else {
        return fault("start without CRABBOX_PLUGIN", "it exits", "it runs on");
    };
    if status.code() != Some(64) {
        return fault("start without CRABBOX_PLUGIN", "exit status 64", status);
    }
    peer.idle(std::time::Duration::from_millis(100))?;
    match peer.last_words().trim() {
        "" => fault("start without CRABBOX_PLUGIN", "a line on standard error", "nothing"),
        _ => Ok(()),
    }
}
