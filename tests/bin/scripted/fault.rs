//! Faults after which there is no answer.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::{STALL, Scene};

impl Scene {
    /// Whether the behaviour was a fault after which there is no answer.
    pub(crate) fn fault(&self, word: &str, argument: &str) -> bool {
        let plugin = &self.plugin;
        match word {
            "die" => die(),
            "record-then-die" => {
                self.resource("record", "doomed");
                die();
            }
            "make-then-die" => {
                let lease = self.make();
                self.resource("record", lease["cloudId"].as_str().unwrap_or_default());
                die();
            }
            "garbage" => plugin.raw(b"Segmentation fault?\n"),
            "half-line" => plugin.raw(b"{\"jsonrpc\":\"2.0\",\"id\":"),
            "bom" => plugin.raw("\u{feff}{}\n".as_bytes()),
            "not-utf8" => plugin.raw(b"{\"a\":\"\xff\"}\n"),
            "batch" => plugin.raw(b"[{\"jsonrpc\":\"2.0\"}]\n"),
            "deep" => plugin.raw(format!("{{\"a\":{}\n", "[".repeat(70)).as_bytes()),
            "oversize" => plugin.raw(&vec![b'x'; (1 << 20) + 1]),
            "wrong-answer-id" => plugin.send(json!({"id": 4_000_000, "result": {}})),
            "overdraft" => self.overdraft(),
            "ignore-cancel" => std::thread::sleep(STALL),
            "close-stdout" => close_stdout(),
            "fork-holds-stdout" => {
                spawn_holder("sleep", &["300"]);
                die();
            }
            "escapee-holds-stdout" => {
                spawn_holder("setsid", &["sleep", argument]);
                die();
            }
            _ => return false,
        }
        true
    }
}

fn die() -> ! {
    let mut stderr = std::io::stderr().lock();
    let _ = (0..30).try_for_each(|n| writeln!(stderr, "last words {n}"));
    std::process::exit(9)
}

fn spawn_holder(program: &str, args: &[&str]) {
    let _ = Command::new(program).args(args).stdin(Stdio::null()).spawn();
}

/// Stdout ends, the program does not.
fn close_stdout() {
    let _ = Command::new("/bin/sh").args(["-c", "exec >&- 2>&-; sleep 300"]).exec();
}
