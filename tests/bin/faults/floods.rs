//! More of everything than anybody can take.

use std::io::Write;

use serde_json::{Value, json};

use crate::FOR_EVER;
use crate::call::{Call, Played, failure, refused};

const MANY: u64 = 100_000;
const CHUNK: usize = 48 * 1024;

pub(crate) fn play(call: &Call, word: &str) -> Option<Played> {
    told(call, word).or_else(|| asked(call, word))
}

/// Floods of what nobody has to answer.
fn told(call: &Call, word: &str) -> Option<Played> {
    Some(match word {
        "log-flood" => {
            (0..MANY)
                .for_each(|n| call.tell("log", json!({"level": "warn", "message": n.to_string()})));
            Played::Go
        }
        "progress-flood" => {
            (0..MANY).for_each(|n| call.tell("progress", json!({"phase": "boot", "done": n})));
            Played::Go
        }
        "attempt-flood" => {
            (0..MANY).for_each(|_| {
                call.tell("attempt", json!({"category": "capacity", "message": "no"}))
            });
            Played::Go
        }
        "gap-flood" => {
            let gap = |n: u64| json!({"ch": "stderr", "from": n, "to": n + 1, "reason": "lost"});
            (0..MANY).for_each(|n| call.tell("gap", gap(n)));
            Played::Go
        }
        "empty-output-flood" => {
            let nothing = json!({"ch": "stderr", "off": 0, "text": ""});
            (0..MANY).for_each(|_| call.tell("output", nothing.clone()));
            Played::Go
        }
        "stderr-flood" => {
            let mut stderr = std::io::stderr().lock();
            let line = [vec![b'n'; 300], b"\n".to_vec()].concat();
            (0..MANY).for_each(|_| drop(stderr.write_all(&line)));
            Played::Go
        }
        "stderr-without-end-of-line" => {
            let mut stderr = std::io::stderr().lock();
            (0..1000).for_each(|_| drop(stderr.write_all(&[b'n'; 64 * 1024])));
            Played::Go
        }
        "chunk-too-large" => {
            call.tell("output", json!({"ch": "stdout", "off": 0, "text": "x".repeat(CHUNK + 1)}));
            Played::Silent
        }
        "no-such-channel" => {
            call.tell("output", json!({"ch": "stdlog", "off": 0, "text": "x"}));
            Played::Silent
        }
        _ => return None,
    })
}

/// Floods of callbacks, and of what they keep.
fn asked(call: &Call, word: &str) -> Option<Played> {
    Some(match word {
        "callback-storm" => {
            let waiting: Vec<_> =
                (0..1000).map(|_| call.begin("sleep", json!({"ms": 2000}))).collect();
            let answers = waiting.iter().filter_map(|asked| asked.recv_timeout(FOR_EVER).ok());
            let refused = answers.filter(|a| a["error"]["data"]["kind"] == "rate_limited").count();
            let message = format!("{refused} of 1000 were refused");
            Played::Answer(Err(failure("rate_limited", &message)))
        }
        "asks-and-never-listens" => {
            let _ = call.ask("kv.put", json!({"key": "k", "value": "v".repeat(60_000)}));
            call.plugin.wire.go_deaf();
            loop {
                drop(call.begin("kv.get", json!({"key": "k"})));
            }
        }
        "records-without-end" => filling(
            call,
            "resource.record",
            |n| json!({"resource": {"kind": "server", "cloudId": format!("x{n}"), "billable": true}}),
        ),
        "fills-kv" => filling(
            call,
            "kv.put",
            |n| json!({"key": format!("k{n}"), "value": "v".repeat(60_000)}),
        ),
        "one-large-value" => {
            refused(call.ask("kv.put", json!({"key": "k", "value": "v".repeat(65_537)})))
        }
        "fills-blobs" => filling(call, "blob.create", |_| json!({})),
        "opens-tools-without-end" => filling(
            call,
            "exec.open",
            |_| json!({"tool": "sh", "args": ["-c", "exec sleep 300"], "timeoutMs": 600_000}),
        ),
        _ => return None,
    })
}

/// Asks for one more until that is refused.
fn filling(call: &Call, method: &str, params: impl Fn(u32) -> Value) -> Played {
    let mut answers = (0..2000).map(|n| call.ask(method, params(n)));
    refused(answers.find(Result::is_err).unwrap_or(Ok(Value::Null)))
}
