//! The conformance kit on the Islo provider, with recorded exchanges: as a program, and as a component.

use crabbox_tests::Kit;
use serde_json::{Value, json};

/// Islo's stream is text: what is none does not survive it.
const LIMITS: &[&str] = &["R3"];

fn event(kind: &str, data: &str) -> Value {
    json!({"event": kind, "data": data})
}

/// A command of a check, and the events it comes to.
fn exec(words: Value, env: &Value, events: Vec<Value>) -> String {
    let words: Vec<Value> = serde_json::from_value(words).unwrap();
    let start = json!([
        "sh",
        "-c",
        "$any",
        "crabbox",
        "/workspace/crabbox",
        "/workspace/.crabbox-crabbox",
        "run_0123456789ab",
        ""
    ]);
    let command: Vec<_> = start.as_array().unwrap().iter().cloned().chain(words).collect();
    line(
        "exec/stream",
        json!({"json": {"command": command, "env": env}}),
        json!({"events": events}),
    )
}

fn line(path: &str, body: Value, response: Value) -> String {
    let url = format!("https://ca.compute.islo.dev/sandboxes/${{name}}-${{leaseHex}}/{path}");
    let request = json!({"method": "POST", "url": url, "body": body});
    json!({"request": request, "response": response, "repeat": true, "when": "sandbox"}).to_string()
}

/// Text in pieces as they come from a pipe.
fn pieces(kind: &str, text: &str) -> Vec<Value> {
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(30_000).map(|piece| event(kind, &piece.iter().collect::<String>())).collect()
}

/// What the kit's checks run, and what each would come to.
fn commands() -> Vec<String> {
    let (none, exit) = (json!({}), |code: i32| event("exit", &code.to_string()));
    let sh = |text: &str| json!(["sh", "-c", text]);
    let mut all: Vec<_> = [0, 1, 7, 130, 255]
        .map(|code| exec(sh(&format!("exit {code}")), &none, vec![exit(code)]))
        .into();
    let rows = |mark: &str| (1..=20_000).map(|n| format!("{mark}{n}\n")).collect::<String>();
    let both = [pieces("stdout", &rows("")), pieces("stderr", &rows("e")), vec![exit(0)]].concat();
    all.push(exec(sh("seq 20000; seq 20000 | sed s/^/e/ >&2"), &none, both));
    let odd = "a b|$HOME||*|ü\"'\\|";
    let words = json!(["printf", "%s|", "a b", "$HOME", "", "*", "ü\"'\\"]);
    all.push(exec(words, &none, vec![event("stdout", odd), exit(0)]));
    let value = "x\ny $z";
    let given = vec![event("stdout", value), exit(0)];
    all.push(exec(sh("printf %s \"$KIT_A\""), &json!({"KIT_A": value}), given));
    all.push(exec(sh("kill -TERM $$"), &none, vec![exit(143)]));
    all.push(exec(json!(["kit-no-such-program"]), &none, vec![exit(127)]));
    all.push(exec(json!(["true"]), &none, vec![exit(0)]));
    all.push(exec(sh("echo begun; sleep 60"), &none, vec![event("stdout", "begun\n")]));
    let much = [pieces("stdout", &"x".repeat(4 << 20)), vec![exit(0)]].concat();
    all.push(exec(sh("head -c 4194304 /dev/zero | tr '\\0' x"), &none, much));
    let bytes = vec![event("stdout", "\u{fffd}\0\u{fffd}(\u{fffd}"), exit(0)];
    all.push(exec(sh(r"printf '\377\000\303\050\342\202'"), &none, bytes));
    let look = json!({"json": {"command": ["sh", "-c", "$any", "crabbox", "/workspace/crabbox",
        "/workspace/.crabbox-crabbox", "", "clear"]}});
    all.push(line("exec/stream", look, json!({"events": [event("stdout", "other 1\n"), exit(0)]})));
    let path = "files-archive?path=%2Fworkspace%2Fcrabbox";
    all.push(line(path, json!("$any"), json!({"json": {"status": "ok"}})));
    let seen = "cat 'dir/hello world'; test -x 'dir/hello world' && echo x";
    all.push(exec(sh(seen), &none, vec![event("stdout", "hello\nx\n"), exit(0)]));
    all
}

#[test]
fn program_and_component_pass_the_kit_and_leave_nothing_after_a_crash_at_any_answer() {
    let kit = Kit {
        provider: "islo",
        exchanges: commands(),
        limits: LIMITS,
        least: 55,
        ..Kit::default()
    };
    kit.passes_on_both_runtimes();
}
