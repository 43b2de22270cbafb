//! What must not get out.

use std::path::Path;

use serde_json::{Value, json};

use super::{Check, executes, must, must_delegated, obeys_ids};
use crate::bench::Bench;
use crate::host::CANARY;
use crate::peer::{Outcome, Peer, fault, output};

pub(super) const CHECKS: &[Check] = &[
    must(
        "S1",
        "secrets stand in no event and not on standard error",
        "Callbacks",
        "never print what secret.reveal gave",
        secrets,
    ),
    must("S2", "doctor creates nothing", "Calls", "look, and do not touch", doctor),
    Check {
        applies: obeys_ids,
        ..must(
            "S5",
            "an id that leads out of its folder or its path leads nowhere",
            "lease.release: giving it back",
            "refuse ids with `/`, or take the last part",
            climbing,
        )
    },
    Check {
        applies: executes,
        ..must_delegated(
            "S6",
            "a command's environment holds no secret and nothing of the plugin's",
            "run.start: a delegated command",
            "begin with an empty environment",
            bare,
        )
    },
    Check {
        applies: hands_out,
        ..must(
            "S7",
            "where a box is reached is a plain name, and so is who logs in",
            "lease.acquire: a box",
            "say host and user as they are, without options of ssh",
            plain,
        )
    },
];

fn hands_out(bench: &Bench<'_>) -> Result<(), String> {
    match bench.delegates() {
        false => Ok(()),
        true => Err("it runs commands itself".to_owned()),
    }
}

/// Asks to give back what lies beside the plugin's own things.
fn climbing(bench: &Bench<'_>) -> Outcome {
    let neighbour = bench.subject.state.path().join("kit-neighbour");
    let label = json!({"leaseId": "cbx_0123456789ab", "slug": "kit", "name": "kit"});
    let made = std::fs::create_dir_all(&neighbour)
        .and_then(|()| std::fs::write(neighbour.join("kept"), label.to_string()));
    if let Err(e) = made {
        return fault("a folder", "a folder", e);
    }
    bench.with_box(|peer, _| climbs(bench, peer, &label, &neighbour.join("kept")))
}

fn climbs(bench: &Bench<'_>, peer: &mut Peer, label: &Value, kept: &Path) -> Outcome {
    for climb in ["../kit-neighbour", "../../kit-neighbour", "kit\n../kit-neighbour"] {
        let mut lease = label.clone();
        lease["cloudId"] = json!(climb);
        let expected = json!({"leaseId": lease["leaseId"], "cloudId": climb});
        let params = json!({"lease": lease, "expected": expected});
        let _ = peer.ask(bench.method("release"), params)?;
        if bench.resolve(peer, &json!(climb), "status")?.is_ok() {
            return fault(&format!("resolve {climb:?}"), "not_found", "a box");
        }
        if !kept.is_file() {
            return fault(&format!("release of {climb:?}"), "nothing is deleted", "it was");
        }
        let changes = &peer.host.service.changes;
        if let Some(asked) = changes.iter().find(|asked| asked.contains("../")) {
            return fault(&format!("release of {climb:?}"), "no such request", asked);
        }
    }
    Ok(())
}

fn bare(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        peer.events.clear();
        peer.must(
            "run.start",
            json!({"runId": "run_0123456789ab", "lease": lease, "env": {}, "command": ["env"]}),
        )?;
        let said = peer.events.iter().filter_map(|event| output(&event["params"]));
        let said = String::from_utf8_lossy(&said.collect::<Vec<_>>().concat()).into_owned();
        let own = |line: &&str| line.contains(CANARY) || line.starts_with("CRABBOX_PLUGIN");
        match said.lines().find(own) {
            None => Ok(()),
            Some(line) => fault("env", "nothing of the plugin's", line),
        }
    })
}

fn plain(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|_, lease| {
        let odd = |text: &str| text.starts_with('-') || text.chars().any(char::is_control);
        let words = ["user", "host"].map(|name| lease["ssh"][name].as_str().unwrap_or_default());
        match words.iter().find(|word| odd(word)) {
            None => Ok(()),
            Some(word) => fault("acquire", "a plain host and user", format!("{word:?}")),
        }
    })
}

fn secrets(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let lease = bench.acquire(&mut peer)?;
    let shown = lease.to_string().contains(CANARY);
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
