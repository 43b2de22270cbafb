//! Which box is whose: acquire, look up, release, and a crash in between.

use serde_json::{Value, json};

use super::{Check, must, obeys_ids};
use crate::bench::Bench;
use crate::peer::{Outcome, Peer, WORK, fault};

pub(super) const CHECKS: &[Check] = &[
    Check {
        applies: obeys_ids,
        ..must(
            "I1",
            "the lease repeats the identity it was asked for",
            "lease.acquire: a box",
            "copy leaseId, slug and name from `desired`",
            echoes,
        )
    },
    Check {
        applies: creates,
        ..must(
            "I2",
            "what it creates is recorded before the answer",
            "lease.acquire: a box",
            "call host/resource.record right after creating",
            records,
        )
    },
    Check {
        applies: obeys_ids,
        ..must(
            "I3",
            "the box is in the list, and the list is complete",
            "lease.resolve, lease.list, lease.touch: what is there",
            "list by label, and say `complete`",
            lists,
        )
    },
    Check {
        applies: obeys_ids,
        ..must(
            "I4",
            "the box is found by lease id, slug, name and provider id",
            "lease.resolve, lease.list, lease.touch: what is there",
            "compare `id` with all four",
            resolves,
        )
    },
    must(
        "I5",
        "what does not exist is `not_found`",
        "lease.resolve, lease.list, lease.touch: what is there",
        "say not_found only when that is certain",
        not_found,
    ),
    must(
        "I6",
        "with another lease id expected nothing is deleted: `precondition`",
        "lease.release: giving it back",
        "compare the label before deleting",
        precondition,
    ),
    must(
        "I7",
        "releasing can be repeated",
        "lease.release: giving it back",
        "answer already_gone, do not fail",
        releases,
    ),
    Check {
        applies: creates,
        ..must(
            "I8",
            "after a crash in the middle of an acquire nothing is left that cannot be found and released",
            "lease.acquire: a box",
            "label before creating costs money, and find by label",
            crash,
        )
    },
    must(
        "I9",
        "errors have a known kind, its code, and one line of at most 500 characters",
        "Errors",
        "use the SDK's failure type",
        errors,
    ),
];

fn creates(bench: &Bench<'_>) -> Result<(), String> {
    obeys_ids(bench).map_err(|_| "it creates nothing".to_owned())
}

fn echoes(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|_, lease| {
        let desired = bench.desired();
        for name in ["leaseId", "slug", "name"] {
            if lease[name] != desired[name] {
                return fault("acquire", &format!("{name} {}", desired[name]), &lease[name]);
            }
        }
        if lease["cloudId"].as_str().is_none_or(str::is_empty) {
            return fault("acquire", "a `cloudId`", lease);
        }
        match (bench.delegates(), lease.get("ssh")) {
            (false, None) => fault("acquire", "`ssh`: how to reach the box", lease),
            _ => Ok(()),
        }
    })
}

fn records(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| match peer.host.journal.is_empty() {
        true => fault("acquire", "host/resource.record before the answer", lease),
        false => Ok(()),
    })
}

fn lists(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        let mut params = json!({});
        for _ in 0..100 {
            let page = peer.must(bench.method("list"), params.clone())?;
            let leases = page["leases"].as_array().cloned().unwrap_or_default();
            if leases.iter().any(|known| known["leaseId"] == lease["leaseId"]) {
                return Ok(());
            }
            if page["complete"] != true {
                return fault("list", "`complete: true`, or the box", &page);
            }
            match page.get("nextCursor") {
                Some(cursor) => params = json!({ "cursor": cursor }),
                None => return fault("list", &format!("the box {}", lease["leaseId"]), &page),
            }
        }
        fault("list", "an end of its pages", "100 pages and more")
    })
}

fn resolves(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        for name in ["leaseId", "slug", "name", "cloudId"] {
            match bench.resolve(peer, &lease[name], "use")? {
                Ok(found) if found["lease"]["leaseId"] == lease["leaseId"] => {}
                Ok(other) => return fault(&format!("resolve {}", lease[name]), "the box", other),
                Err(error) => return fault(&format!("resolve by {name}"), "the box", error),
            }
        }
        Ok(())
    })
}

fn not_found(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    match bench.resolve(&mut peer, &json!("kit-no-such-box"), "status")? {
        Err(error) if error["data"]["kind"] == "not_found" => bench.close(peer),
        Err(error) => fault("resolve kit-no-such-box", "an error of kind not_found", error),
        Ok(result) => fault("resolve kit-no-such-box", "an error of kind not_found", result),
    }
}

fn precondition(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        let expected = json!({"leaseId": "cbx_ffffffffffff", "cloudId": lease["cloudId"]});
        let mut other = lease.clone();
        other["leaseId"] = json!("cbx_ffffffffffff");
        let params = json!({"lease": other, "expected": expected});
        match peer.ask(bench.method("release"), params)? {
            Err(error) if error["data"]["kind"] == "precondition" => {}
            Ok(result) if result["outcome"] == "retained" => return Ok(()),
            Err(error) => {
                return fault("release, expecting another lease", "kind precondition", error);
            }
            Ok(result) => {
                return fault("release, expecting another lease", "kind precondition", result);
            }
        }
        match bench.resolve(peer, &lease["cloudId"], "status")? {
            Ok(_) => Ok(()),
            Err(error) => {
                fault("release, expecting another lease", "the box is still there", error)
            }
        }
    })
}

fn releases(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let lease = bench.acquire(&mut peer)?;
    let first = bench.release(&mut peer, &lease)?;
    if !["released", "pending", "retained"].contains(&first.as_str()) {
        return fault("release", "released, pending or retained", first);
    }
    let second = bench.release(&mut peer, &lease)?;
    if first == "retained" {
        return bench.close(peer);
    }
    if second == "released" {
        return fault("release of what is gone", "already_gone or pending", second);
    }
    if first == "released" {
        match bench.resolve(&mut peer, &lease["leaseId"], "status")? {
            Err(error) if error["data"]["kind"] == "not_found" => {}
            Err(error) => return fault("resolve of what was released", "not_found", error),
            Ok(result) => return fault("resolve of what was released", "not_found", result),
        }
    }
    bench.close(peer)
}

fn crash(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    peer.withhold = Some("host/resource.record");
    peer.request(bench.method("acquire"), bench.wanted())?;
    peer.until("acquire", WORK, |peer| !peer.withheld.is_empty() || peer.has_answer())?;
    if peer.withheld.is_empty() {
        return fault("acquire", "host/resource.record", "the answer came without it");
    }
    // The kernel has it on disk, and everything dies.
    let resources: Vec<Value> =
        peer.withheld.iter().map(|frame| frame["params"]["resource"].clone()).collect();
    drop(peer);
    let mut peer = bench.open()?;
    let desired = bench.desired();
    let params = json!({"id": desired["leaseId"], "resources": resources, "purpose": "reconcile"});
    match peer.ask(bench.method("resolve"), params)? {
        Ok(found) => {
            bench.release(&mut peer, &found["lease"])?;
        }
        Err(error) if error["data"]["kind"] == "not_found" => {}
        Err(error) => return fault("resolve, purpose reconcile", "the box, or not_found", error),
    }
    nothing_left(bench, &mut peer)?;
    bench.close(peer)
}

fn nothing_left(bench: &Bench<'_>, peer: &mut Peer) -> Outcome {
    let page = peer.must(bench.method("list"), json!({}))?;
    let mine = bench.desired()["leaseId"].clone();
    let leases = page["leases"].as_array().cloned().unwrap_or_default();
    match leases.into_iter().find(|lease| lease["leaseId"] == mine) {
        Some(lease) => fault("list after a crash and its clean-up", "nothing of the lease", lease),
        None => Ok(()),
    }
}

fn errors(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let Err(error) = bench.resolve(&mut peer, &json!("kit-no-such-box"), "status")? else {
        return fault("resolve kit-no-such-box", "an error", "a result");
    };
    let kind =
        serde_json::from_value::<crabbox_schemas::error::ErrorKind>(error["data"]["kind"].clone());
    let message = error["message"].as_str().unwrap_or_default();
    match kind {
        Ok(kind) if kind.word() != error["data"]["kind"] => {
            return fault("resolve kit-no-such-box", "a kind of the table", &error["data"]["kind"]);
        }
        Ok(kind) if error["code"] != kind.rpc_code() => {
            return fault(
                "resolve kit-no-such-box",
                &format!("code {}", kind.rpc_code()),
                &error["code"],
            );
        }
        Ok(_) => {}
        Err(_) => return fault("resolve kit-no-such-box", "`data.kind`", &error),
    }
    if message.is_empty() || message.contains('\n') || message.chars().count() > 500 {
        return fault("resolve kit-no-such-box", "a message of one line", message);
    }
    bench.close(peer)
}
