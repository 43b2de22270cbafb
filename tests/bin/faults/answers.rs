//! Answers, and callbacks, that do not fit what was asked.

use serde_json::{Value, json};

use crate::FOR_EVER;
use crate::call::{Call, Played, failure, refused};

pub(crate) fn play(call: &Call, word: &str) -> Option<Played> {
    let wire = &call.plugin.wire;
    let next = call.id.as_u64().unwrap_or_default() + 1;
    match word {
        "wrong-id" => wire.send(json!({"id": 4_000_000, "result": {}})),
        "answers-ahead" => wire.send(json!({"id": next, "result": {}})),
        "id-as-text" => wire.send(json!({"id": call.id.to_string(), "result": {}})),
        "id-as-fraction" => wire.send(json!({"id": 1.5, "result": {}})),
        "result-and-error" => {
            wire.send(json!({"id": call.id, "result": {}, "error": failure("internal", "both")}))
        }
        "neither" => wire.send(json!({"id": call.id})),
        "never" => {}
        "late" => {
            wire.wait_for_cancel();
            std::thread::sleep(FOR_EVER);
        }
        "error-without-kind" => {
            return Some(Played::Answer(Err(json!({"code": -1, "message": "nothing to say"}))));
        }
        "error-of-new-kind" => {
            return Some(Played::Answer(Err(failure("sulking", "not today"))));
        }
        "error-that-paints" => {
            let message = format!("red\u{1b}[31m\nalert{}", " and so on".repeat(50_000));
            return Some(Played::Answer(Err(failure("capacity", &message))));
        }
        "result-of-another-shape" => return Some(Played::Answer(Ok(json!({"lease": 7})))),
        "unknown-callback" => return Some(refused(call.ask("teleport", json!({})))),
        "callback-of-no-call" => {
            let asked = wire.ask("kv.get", json!({"call": 4_000_000, "key": "x"}));
            let answer = asked.recv_timeout(FOR_EVER).unwrap_or_default();
            return Some(refused(answer.get("error").cloned().map_or(Ok(Value::Null), Err)));
        }
        "callback-without-params" => return Some(refused(call.ask("kv.put", json!({})))),
        "asks-the-kernel-to-lease" => {
            wire.send(json!({"id": "p9", "method": "lease.acquire", "params": {"call": call.id}}));
            wire.send(json!({"method": "$/cancel", "params": {"id": call.id}}));
            wire.send(json!({"method": "$/credit", "params": {"call": call.id, "bytes": 1}}));
            return Some(Played::Go);
        }
        "answers-twice" | "callback-after-close" | "records-while-listing" => {
            return Some(match word {
                "records-while-listing" => {
                    let resource = json!({"kind": "server", "cloudId": "x", "billable": true});
                    match call.ask("resource.record", json!({"resource": resource})) {
                        Ok(_) => Played::Answer(Err(failure("internal", "it was recorded"))),
                        Err(_) => Played::Go,
                    }
                }
                _ => Played::Go,
            });
        }
        _ => return None,
    }
    Some(Played::Silent)
}

/// What is still said after the answer.
pub(crate) fn afterwards(call: &Call) {
    if !call.plugin.strikes(call.at) {
        return;
    }
    match call.plugin.fault().0 {
        "answers-twice" => call.reply(Ok(json!({"lease": {"leaseId": "cbx_0123456789ab"}}))),
        "callback-after-close" => {
            // Long enough that the kernel has closed the call; it never waits for us.
            std::thread::sleep(std::time::Duration::from_millis(50));
            if call.ask("kv.put", json!({"key": "late", "value": "x"})).is_ok() {
                std::process::exit(9);
            }
        }
        "dies-after-its-answer" => std::process::exit(9),
        _ => {}
    }
}
