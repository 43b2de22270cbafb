//! The conformance kit on the testbox provider, with a recorded tool: as a program, and as a component.

use crabbox_tests::Kit;
use serde_json::{Value, json};

/// A recording is text; and the tool hands on no variables.
const LIMITS: &[&str] = &["R3", "R4"];

fn ran(line: &str, result: Value) -> String {
    let args = ["testbox", "run", "--id", "tbx_kit", "--ssh-private-key", "{lease-key}", line];
    let exec = json!({"tool": "blacksmith", "args": args});
    json!({"exec": exec, "result": result, "repeat": true, "when": "testbox"}).to_string()
}

/// What the kit's checks run, and what each comes to.
fn commands() -> Vec<String> {
    let mut all: Vec<_> = [0, 1, 7, 130, 255]
        .map(|code| ran(&format!("sh -c 'exit {code}'"), json!({"exitCode": code})))
        .into();
    let rows = |mark: &str| (1..=20_000).map(|n| format!("{mark}{n}\n")).collect::<String>();
    let both = json!({"stdout": rows(""), "stderr": rows("e")});
    all.push(ran("sh -c 'seq 20000; seq 20000 | sed s/^/e/ >&2'", both));
    let odd = json!({"stdout": "a b|$HOME||*|ü\"'\\|"});
    all.push(ran(r#"printf '%s|' 'a b' '$HOME' '' '*' 'ü"'\''\'"#, odd));
    all.push(ran("sh -c 'kill -TERM $$'", json!({"exitCode": 143})));
    all.push(ran("kit-no-such-program", json!({"exitCode": 127})));
    all.push(ran("true", json!({})));
    all.push(ran("sh -c 'echo begun; sleep 60'", json!({"stdout": "begun\n"})));
    let much = json!({"stdout": "x".repeat(4 << 20)});
    all.push(ran(r"sh -c 'head -c 4194304 /dev/zero | tr '\''\0'\'' x'", much));
    all.push(ran(
        r"sh -c 'printf '\''\377\000\303\050\342\202'\'''",
        json!({"stdout": "\u{fffd}"}),
    ));
    let seen = r"sh -c 'cat '\''dir/hello world'\''; test -x '\''dir/hello world'\'' && echo x'";
    all.push(ran(seen, json!({"stdout": "hello\nx\n"})));
    all
}

#[test]
fn program_and_component_pass_the_kit_and_leave_nothing_after_a_crash_at_any_answer() {
    let kit = Kit {
        provider: "blacksmith",
        set: &["workflow=ci.yml"],
        exchanges: commands(),
        limits: LIMITS,
        least: 50,
    };
    kit.passes_on_both_runtimes();
}
