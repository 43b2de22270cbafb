//! The conformance kit on the testbox provider, with a recorded tool: as a program, and as a component.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_tests::{Room, binaries, gone_without};
use serde_json::{Value, json};

/// A recording is text; and the tool hands on no variables.
const LIMITS: &[&str] = &["R3", "R4"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/blacksmith")
}

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

fn passes(runtime: &str) {
    let room = Room::new();
    let tape = room.at("tape.jsonl");
    let recorded = fs::read_to_string(folder().join("tests/cassette.jsonl")).unwrap();
    fs::write(&tape, format!("{recorded}{}\n", commands().join("\n"))).unwrap();
    let (plugin, tape) = (folder().display().to_string(), tape.display().to_string());
    let words = ["plugin", "test", "--json", &plugin, "--cassette", &tape, "--runtime", runtime];
    let expected = LIMITS.iter().flat_map(|check| ["--expect", check]);
    let words =
        words.into_iter().chain(["--set", "workflow=ci.yml", "--patience", "10"]).chain(expected);
    let cache = binaries().join("test-cache").display().to_string();
    let call = room.crabbox(room.path(), words.collect::<Vec<_>>()).env("XDG_CACHE_HOME", cache);
    let ended = call.limit(Duration::from_secs(300)).run();
    let report = ended.json();
    let checks = report["providers"][0]["checks"].as_array().unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| check["verdict"] == "failed").collect();
    assert!(
        failed.iter().all(|check| LIMITS.contains(&check["id"].as_str().unwrap())),
        "{failed:#?}"
    );
    assert_eq!(ended.code, 0, "{ended}");
    assert!(report["providers"][0]["passed"].as_u64().unwrap() >= 50, "{ended}");
}

#[test]
fn the_program_passes_the_kit_and_leaves_nothing_after_a_crash_at_any_answer() {
    passes("stdio");
}

#[test]
fn the_component_passes_the_kit_and_leaves_nothing_after_a_crash_at_any_answer() {
    if !gone_without("CRABBOX_TEST_WASM", "a component of ours") {
        passes("wasm");
    }
}
