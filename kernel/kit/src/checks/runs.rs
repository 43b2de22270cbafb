//! Commands that a provider runs itself.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::{Check, executes, must_delegated};
use crate::bench::Bench;
use crate::peer::{Outcome, PROMPT, Peer, fault, output};

const SECTION: &str = "run.start: a delegated command";

pub(super) const CHECKS: &[Check] = &[
    must_delegated(
        "R1",
        "exit statuses pass through",
        SECTION,
        "give the command's own status as exitCode",
        statuses,
    ),
    must_delegated(
        "R2",
        "standard output and standard error are not mixed, and offsets have no holes",
        "Events",
        "count the bytes of each channel",
        channels,
    ),
    must_delegated("R3", "bytes that are no text survive", "Events", "send them as b64", bytes),
    must_delegated(
        "R4",
        "words and environment are passed exactly",
        SECTION,
        "do not go through a shell",
        exact,
    ),
    must_delegated(
        "R5",
        "a command ended by a signal is told as 128 + number",
        SECTION,
        "add `signal` too",
        signalled,
    ),
    must_delegated(
        "R6",
        "the tree it was given is there",
        SECTION,
        "unpack `workspace` where the command runs",
        tree,
    ),
    must_delegated(
        "R7",
        "a cancelled command ends, and is answered",
        "Cancels and deadlines",
        "end the command, then answer",
        cancelled,
    ),
    must_delegated(
        "R8",
        "a command whose program is missing is no success",
        SECTION,
        "127, as a shell would say",
        missing,
    ),
    Check {
        applies: executes,
        ..must_delegated(
            "R10",
            "a tree takes the place of the one before it",
            SECTION,
            "remove what is not in `workspace`, unless `workspaceKeeps`",
            replaced,
        )
    },
];

/// What came of a command.
struct Ran {
    result: Value,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn ran(bench: &Bench<'_>, peer: &mut Peer, lease: &Value, more: Value) -> Outcome<Ran> {
    peer.events.clear();
    let mut params = json!({"runId": "run_0123456789ab", "lease": lease, "env": {}});
    for (name, value) in more.as_object().into_iter().flatten() {
        params[name] = value.clone();
    }
    let command = params["command"].to_string();
    let result = peer.must("run.start", params)?;
    let (stdout, stderr) = (channel(peer, "stdout")?, channel(peer, "stderr")?);
    match result["exitCode"].is_i64() {
        true => Ok(Ran { result, stdout, stderr }),
        false => fault(&format!("{} {command}", bench.check), "`exitCode`", result),
    }
}

fn channel(peer: &Peer, name: &str) -> Outcome<Vec<u8>> {
    let mut all: Vec<u8> = Vec::new();
    for event in peer.events.iter().filter(|e| e["method"] == "event/output") {
        let params = &event["params"];
        if params["ch"] != name {
            continue;
        }
        let Some(data) = output(params) else {
            return fault("event/output", "exactly one of `text` and `b64`", params);
        };
        if params["off"] != json!(all.len()) {
            return fault(
                &format!("output of {name}"),
                &format!("`off` {}", all.len()),
                &params["off"],
            );
        }
        all.extend(data);
    }
    Ok(all)
}

fn sh(line: &str) -> Value {
    json!({"command": ["sh", "-c", line]})
}

fn statuses(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        for code in [0, 1, 7, 130, 255] {
            let ran = ran(bench, peer, lease, sh(&format!("exit {code}")))?;
            if ran.result["exitCode"] != code {
                return fault(&format!("exit {code}"), &format!("exitCode {code}"), ran.result);
            }
        }
        Ok(())
    })
}

fn channels(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        let line = "seq 20000; seq 20000 | sed s/^/e/ >&2";
        let ran = ran(bench, peer, lease, sh(line))?;
        let expected =
            |word: &str| (1..=20_000).map(|i| format!("{word}{i}\n")).collect::<String>();
        for (name, got, expected) in
            [("stdout", ran.stdout, expected("")), ("stderr", ran.stderr, expected("e"))]
        {
            if got != expected.as_bytes() {
                return fault(
                    line,
                    &format!("20000 lines on {name}"),
                    String::from_utf8_lossy(&got),
                );
            }
        }
        Ok(())
    })
}

fn bytes(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        let ran = ran(bench, peer, lease, sh(r"printf '\377\000\303\050\342\202'"))?;
        match ran.stdout == [0xff, 0, 0xc3, 0x28, 0xe2, 0x82] {
            true => Ok(()),
            false => {
                fault("six bytes that are no UTF-8", "the same six", format!("{:?}", ran.stdout))
            }
        }
    })
}

fn exact(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        let words = ["printf", "%s|", "a b", "$HOME", "", "*", "ü\"'\\"];
        let ran1 = ran(bench, peer, lease, json!({ "command": words }))?;
        let expected = words[2..].iter().map(|word| format!("{word}|")).collect::<String>();
        if ran1.stdout != expected.as_bytes() {
            return fault(&format!("{words:?}"), &expected, String::from_utf8_lossy(&ran1.stdout));
        }
        let more =
            json!({"command": ["sh", "-c", "printf %s \"$KIT_A\""], "env": {"KIT_A": "x\ny $z"}});
        let ran2 = ran(bench, peer, lease, more)?;
        match ran2.stdout == b"x\ny $z" {
            true => Ok(()),
            false => fault("KIT_A=x\\ny $z", "the same", String::from_utf8_lossy(&ran2.stdout)),
        }
    })
}

fn signalled(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        let ran = ran(bench, peer, lease, sh("kill -TERM $$"))?;
        match ran.result["exitCode"] == 143 {
            true => Ok(()),
            false => fault("kill -TERM $$", "exitCode 143, signal TERM", ran.result),
        }
    })
}

/// A tree with one file, packed as the provider wants it.
fn packed(gzip: bool, name: &str) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(6);
    header.set_mode(0o755);
    tar.append_data(&mut header, name, &b"hello\n"[..])?;
    let plain = tar.into_inner()?;
    if !gzip {
        return Ok(plain);
    }
    let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
    zip.write_all(&plain)?;
    zip.finish()
}

/// Runs a line in a tree with one file.
fn in_tree(
    bench: &Bench<'_>,
    peer: &mut Peer,
    lease: &Value,
    name: &str,
    line: &str,
) -> Outcome<Ran> {
    let gzip = bench.subject.entry.provider.features.iter().any(|f| f == "workspace-gzip");
    let file = bench.subject.state.path().join("kit-tree.tar");
    let archive = packed(gzip, name);
    let archive = match archive.and_then(|bytes| std::fs::write(&file, &bytes).map(|()| bytes)) {
        Ok(archive) => archive,
        Err(e) => return fault("a tree", "a tar file", e),
    };
    let blob = peer.host.adopt(archive);
    let command = ["sh", "-c", line];
    let more = json!({"command": command, "workspace": file, "workspaceBlob": blob});
    ran(bench, peer, lease, more)
}

fn replaced(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        in_tree(bench, peer, lease, "old", "test -f old")?;
        let ran = in_tree(bench, peer, lease, "new", "ls")?;
        match ran.stdout == b"new\n" {
            true => Ok(()),
            false => fault(
                "a tree with `old`, then one with `new`",
                "only `new`",
                String::from_utf8_lossy(&ran.stdout),
            ),
        }
    })
}

fn tree(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        let line = "cat 'dir/hello world'; test -x 'dir/hello world' && echo x";
        let ran = in_tree(bench, peer, lease, "dir/hello world", line)?;
        match ran.stdout == b"hello\nx\n" {
            true => Ok(()),
            false => {
                fault("cat 'dir/hello world'", "hello, x", String::from_utf8_lossy(&ran.stdout))
            }
        }
    })
}

fn cancelled(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        let params = json!({"runId": "run_0123456789ab", "lease": lease, "env": {},
            "command": ["sh", "-c", "echo begun; sleep 60"]});
        let id = peer.request("run.start", params)?;
        peer.until("echo begun", PROMPT * 2, |peer| {
            peer.events.iter().any(|event| event["method"] == "event/output")
        })?;
        peer.send(
            json!({"method": "$/cancel", "params": {"id": id, "reason": "user", "graceMs": 5000}}),
        )?;
        match peer.answer(id, Duration::from_secs(5) + PROMPT / 5) {
            Ok(Err(error)) if error["data"]["outcome"].is_string() => Ok(()),
            Ok(Ok(result)) if result["exitCode"].is_i64() => Ok(()),
            Ok(Err(other) | Ok(other)) => fault("$/cancel", "an error with an outcome", other),
            Err(why) => fault("$/cancel of a command", "an answer within its grace", &why.got),
        }
    })
}

fn missing(bench: &Bench<'_>) -> Outcome {
    bench.with_box(|peer, lease| {
        let params = json!({"runId": "run_0123456789ab", "lease": lease, "env": {},
            "command": ["kit-no-such-program"]});
        match peer.ask("run.start", params)? {
            Ok(result) if result["exitCode"] == 0 => fault("kit-no-such-program", "127", result),
            _ => Ok(()),
        }
    })
}
