//! The conformance kit on the Daytona provider, with recorded exchanges: as a program, and as a component.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_tests::Kit;
use serde_json::{Value, json};

/// Two secrets are asked for, and one of them is enough: the other is never used.
const EXPECTED: &str = "M5";
const RUN: &str = "run_0123456789ab";
const BOX: &str = "https://proxy.app.daytona.io/toolbox/b-4711";
const ROOT: &str = "/home/daytona/crabbox";

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A program for sh, as it stands in a file of ours.
fn program(file: &str, name: &str) -> String {
    let text = fs::read_to_string(top().join(file)).unwrap();
    let (_, rest) = text.split_once(&format!("const {name}: &str = r#\"")).unwrap();
    rest.split_once("\"#;").unwrap().0.to_owned()
}

fn shell(words: &[&str]) -> String {
    let quoted = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ")
}

/// What a channel says, marked and framed.
fn framed(mark: u8, bytes: &[u8]) -> Vec<u8> {
    let line = |text: &str| [&[mark; 3][..], text.as_bytes(), b"\n"].concat();
    let pieces = bytes.chunks(2250).flat_map(|piece| line(&STANDARD.encode(piece)));
    pieces.chain(line(".")).collect()
}

/// The exchanges of one kit, numbered as commands.
struct Tape(Vec<String>);

impl Tape {
    fn post(&mut self, path: &str, body: &Value, response: &Value) {
        let request = json!({"method": "POST", "url": format!("{BOX}{path}"), "body": body});
        let line =
            json!({"request": request, "response": response, "repeat": true, "when": "sandbox"});
        self.0.push(line.to_string());
    }

    /// A command of a check, what it prints, and its status; none while it goes on.
    fn command(&mut self, words: &[&str], env: bool, printed: [&[u8]; 2], code: Option<i32>) {
        let (tree, notes) = (format!("{ROOT}/tree"), format!("{ROOT}/.crabbox"));
        let framing = program("plugins/daytona/src/frames.rs", "FRAMED");
        let start = program("plugin-sdk/src/workspace.rs", "START");
        let env = if env { "env" } else { "" };
        let ours = ["sh", "-c", &framing, "crabbox", &notes, RUN, env];
        let theirs = ["sh", "-c", &start, "crabbox", &tree, &notes, RUN, ""];
        let whole = shell(&[&ours[..], &theirs, words].concat());
        let id = format!("c{}", self.0.len());
        let session = format!("/process/session/crabbox-{RUN}");
        let body = json!({"json": {"command": whole, "runAsync": true}});
        let begun = json!({"status": 202, "json": {"cmdId": id}});
        self.post(&format!("{session}/exec"), &body, &begun);
        let state = json!({"id": id, "command": "", "exitCode": code});
        let request = json!({"method": "GET", "url": format!("{BOX}{session}/command/{id}")});
        let line = json!({"request": request, "response": {"json": state}, "repeat": true});
        self.0.push(line.to_string());
        let stream = match code {
            Some(_) => [framed(1, printed[0]), framed(2, printed[1])].concat(),
            None => framed(1, printed[0]).split(|byte| *byte == b'.').next().unwrap().to_vec(),
        };
        let messages: Vec<_> =
            stream.chunks(30_000).map(|p| json!({"b64": STANDARD.encode(p)})).collect();
        let url =
            format!("{}{session}/command/{id}/logs?follow=true", BOX.replacen("http", "ws", 1));
        self.0.push(json!({"ws": url, "messages": messages, "repeat": true}).to_string());
    }
}

/// What the kit's checks run, and what each would come to.
fn commands() -> Vec<String> {
    let mut tape = Tape(Vec::new());
    let nothing: [&[u8]; 2] = [b"", b""];
    for code in [0, 1, 7, 130, 255] {
        tape.command(&["sh", "-c", &format!("exit {code}")], false, nothing, Some(code));
    }
    let rows = |mark: &str| (1..=20_000).map(|n| format!("{mark}{n}\n")).collect::<String>();
    let both = ["sh", "-c", "seq 20000; seq 20000 | sed s/^/e/ >&2"];
    tape.command(&both, false, [rows("").as_bytes(), rows("e").as_bytes()], Some(0));
    let odd = ["printf", "%s|", "a b", "$HOME", "", "*", "ü\"'\\"];
    tape.command(&odd, false, ["a b|$HOME||*|ü\"'\\|".as_bytes(), b""], Some(0));
    tape.command(&["sh", "-c", "printf %s \"$KIT_A\""], true, [b"x\ny $z", b""], Some(0));
    tape.command(&["sh", "-c", "kill -TERM $$"], false, nothing, Some(143));
    tape.command(&["kit-no-such-program"], false, nothing, Some(127));
    tape.command(&["true"], false, nothing, Some(0));
    tape.command(&["sh", "-c", "echo begun; sleep 60"], false, [b"begun\n", b""], None);
    let much = vec![b'x'; 4 << 20];
    tape.command(
        &["sh", "-c", "head -c 4194304 /dev/zero | tr '\\0' x"],
        false,
        [&much, b""],
        Some(0),
    );
    let bytes = b"\xff\0\xc3\x28\xe2\x82";
    tape.command(&["sh", "-c", r"printf '\377\000\303\050\342\202'"], false, [bytes, b""], Some(0));
    let seen = "cat 'dir/hello world'; test -x 'dir/hello world' && echo x";
    tape.command(&["sh", "-c", seen], false, [b"hello\nx\n", b""], Some(0));
    for place in ["%2Ftree.tgz", "%2Frun_0123456789ab.env"] {
        let path = format!("/files/upload-v2?path=%2Fhome%2Fdaytona%2Fcrabbox%2F.crabbox{place}");
        tape.post(&path, &json!("$any"), &json!({"json": {"path": ""}}));
    }
    // Whatever else is run is a small step of ours.
    let body = json!({"json": {"command": "$any", "runAsync": false}});
    let done = json!({"json": {"cmdId": "s", "exitCode": 0, "stdout": "other 1\n"}});
    for session in ["", "-stop"] {
        tape.post(&format!("/process/session/crabbox-{RUN}{session}/exec"), &body, &done);
    }
    tape.0
}

#[test]
fn program_and_component_pass_the_kit_and_leave_nothing_after_a_crash_at_any_answer() {
    let kit = Kit {
        provider: "daytona",
        set: &["snapshot=small"],
        exchanges: commands(),
        limits: &[EXPECTED],
        least: 55,
    };
    kit.passes_on_both_runtimes();
}
