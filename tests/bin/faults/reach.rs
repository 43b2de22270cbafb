//! Asks for what nobody granted. A refusal is passed on to the user; what is not refused lets the command succeed.

use serde_json::{Value, json};

use crate::call::{Call, Played, failure, refused};

pub(crate) fn play(call: &Call, word: &str) -> Option<Played> {
    let endpoint = call.plugin.text("endpoint");
    let elsewhere = call.plugin.text("elsewhere");
    let get = |url: &str| call.ask("http", json!({"method": "GET", "url": url}));
    let exec = |params: Value| call.ask("exec", params);
    let answer = match word {
        "asks-another-origin" => get("https://elsewhere.example.dev/"),
        "asks-loopback" => get(elsewhere),
        "asks-a-name-of-loopback" => get("http://localhost:9/"),
        "asks-the-metadata-address" => get("http://169.254.169.254/latest/meta-data/"),
        "asks-it-in-decimal" => get("http://2852039166/latest/meta-data/"),
        "asks-it-in-ipv6" => get("http://[::ffff:169.254.169.254]/latest/meta-data/"),
        "is-redirected-to-metadata" => {
            get(&format!("{endpoint}/to?http://169.254.169.254/latest/meta-data/"))
        }
        "is-redirected-to-loopback" => get(&format!("{endpoint}/to?{elsewhere}")),
        "is-redirected-to-a-file" => get(&format!("{endpoint}/to?file:///etc/passwd")),
        "is-redirected-without-end" => get(&format!("{endpoint}/again")),
        "asks-a-file" => get("file:///etc/passwd"),
        "hides-the-host-behind-a-user" => get(&format!("http://127.0.0.1@{}", &elsewhere[7..])),
        "opens-a-stream-elsewhere" => {
            call.ask("http.open", json!({"method": "GET", "url": elsewhere}))
        }
        "opens-a-socket-elsewhere" => {
            call.ask("ws.open", json!({"url": elsewhere.replacen("http", "ws", 1)}))
        }
        "runs-an-ungranted-tool" => {
            exec(json!({"tool": "cat", "args": ["/etc/passwd"], "timeoutMs": 9000}))
        }
        "runs-a-tool-by-path" => exec(json!({"tool": "/bin/sh", "timeoutMs": 9000})),
        "preloads-a-library" => {
            exec(json!({"tool": "sh", "env": {"LD_PRELOAD": "/tmp/x.so"}, "timeoutMs": 9000}))
        }
        "reveals-an-ungranted-secret" => call.ask("secret.reveal", json!({"name": "other"})),
        "reveals-a-sealed-secret" => call.ask("secret.reveal", json!({"name": "sealed"})),
        "reads-a-file-as-a-blob" => {
            call.ask("blob.read", json!({"blob": "../../../../etc/passwd", "off": 0, "max": 10}))
        }
        "asks-the-person" => call.ask("prompt", json!({"kind": "secret", "message": "password"})),
        "looks-into-the-environment" => match std::env::vars().any(|(name, _)| name == "CANARY") {
            true => Ok(Value::Null),
            false => Err(failure("grant_denied", "nothing of the user's is in my environment")),
        },
        _ => return None,
    };
    Some(refused(answer))
}
