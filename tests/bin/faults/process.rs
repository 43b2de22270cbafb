//! A process that ends badly, or will not end.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};
use serde_json::json;

use crate::call::{Call, Played, failure};

pub(crate) fn play(call: &Call, word: &str, argument: &str) -> Option<Played> {
    match word {
        "dies" => die(argument.parse().unwrap_or(9)),
        "makes-and-dies" => {
            let _ = crate::honest::work(call);
            die(9);
        }
        "aborts" => {
            no_core();
            std::process::abort();
        }
        "eats-memory" => {
            no_core();
            let limit = Rlimit { current: Some(256 << 20), maximum: Some(256 << 20) };
            let _ = setrlimit(Resource::As, limit);
            let mut eaten: Vec<Vec<u8>> = Vec::new();
            loop {
                eaten.push(vec![1; 8 << 20]);
            }
        }
        "overflows-its-stack" => {
            no_core();
            std::hint::black_box(deeper(1));
        }
        "stops-itself" => {
            let _ = kill_process(getpid(), Signal::STOP);
        }
        "spins" => loop {
            std::hint::spin_loop();
        },
        "closes-stdout" => exec("exec >&- 2>&-; sleep 300"),
        "exits-with-a-child-on-the-pipe" => {
            let _ = Command::new("sleep").arg("300").stdin(Stdio::null()).spawn();
            die(9);
        }
        "leaves-grandchildren" => {
            let line = "sleep 300 & (sleep 300; sleep 300) & exec sleep 300";
            let quiet = || Stdio::null();
            let mut sh = Command::new("sh");
            let sh = sh.args(["-c", line]).stdin(quiet()).stdout(quiet()).stderr(quiet());
            let _ = sh.spawn();
            return Some(Played::Go);
        }
        "ignores-sigterm" => {
            call.reply(Ok(json!({})));
            exec("trap '' TERM INT HUP; while :; do sleep 1; done");
        }
        "ignores-the-end" => return Some(Played::Go),
        "swaps-kv-for-a-fifo" => {
            let _ = std::fs::remove_file("kv.json");
            let _ = Command::new("mkfifo").arg("kv.json").status();
            return Some(judge(call.ask("kv.get", json!({"key": "x"}))));
        }
        "swaps-a-lock-for-a-fifo" => {
            let _ = std::fs::create_dir("blobs-mine");
            let _ = Command::new("mkfifo").arg("blobs-mine/lock").status();
            return Some(judge(call.ask("blob.create", json!({}))));
        }
        "swaps-a-blob-for-a-fifo" => {
            let line = "blob=$(echo blobs-*/b1); rm -f $blob; mkfifo $blob";
            let blob = call.ask("blob.create", json!({}));
            let _ = call.ask("blob.seal", json!({"blob": "b1"}));
            let _ = Command::new("sh").args(["-c", line]).status();
            let read = call.ask("blob.read", json!({"blob": "b1", "off": 0, "max": 10}));
            return Some(judge(blob.and(Ok(read.unwrap_or_default()))));
        }
        "dies-after-its-answer" => return Some(Played::Go),
        _ => return None,
    }
    Some(Played::Silent)
}

/// Goes on when it was answered at all.
fn judge(answer: crate::call::Answer) -> Played {
    match answer {
        Ok(_) => Played::Go,
        Err(error) => Played::Answer(Err(failure("internal", &error.to_string()))),
    }
}

fn die(status: i32) -> ! {
    let mut stderr = std::io::stderr().lock();
    let _ = (0..30).try_for_each(|n| writeln!(stderr, "last words {n}"));
    std::process::exit(status)
}

/// Becomes a shell that runs this.
fn exec(line: &str) {
    let error = Command::new("/bin/sh").args(["-c", line]).exec();
    let _ = writeln!(std::io::stderr(), "no shell: {error}");
}

fn no_core() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

#[expect(unconditional_recursion, reason = "that is the fault")]
fn deeper(n: u64) -> u64 {
    std::hint::black_box([n; 4096])[7] + deeper(n + 1)
}
