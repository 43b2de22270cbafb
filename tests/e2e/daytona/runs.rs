//! Runs through the toolbox: what goes there, what comes back, and how they end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crabbox_tests::eventually;
use crabbox_tests::sandboxes::timing;
use rustix::process::Signal;
use serde_json::json;

use super::{on, stage, warm};

#[test]
fn a_dirty_checkout_runs_in_a_sandbox_that_is_given_back() {
    let (room, daytona, repo) = stage();
    let line = "cat hello.txt 'new file.txt'; echo \"$GREETING\" >&2; exit 37";
    let words = ["run", "--env", "GREETING=a 'b'\nc", "--", "sh", "-c", line];
    let ended = room.crabbox(&repo, words).limit(Duration::from_secs(60)).run().expect(37);
    assert_eq!(ended.out(), "hello\nchanged\nnew\n");
    let _ = ended.says(&["a 'b'\nc\n", "provisioned lease=cbx_", "type=snapshot", "exit=37"]);
    assert_eq!(daytona.boxes(), [""; 0]);
    room.assert_nothing_left();
    let record = room.crabbox(&repo, ["history", "--json"]).ok().json();
    let run = &record[0];
    assert_eq!((&run["exitCode"], &run["by"]), (&json!(37), &json!("remote")), "{record}");
}

#[test]
fn every_byte_comes_back_though_the_stream_is_cut_again_and_again() {
    let (room, daytona, repo) = stage();
    let id = warm(&room, &repo);
    daytona.set(&json!({"cut": 5}));
    let line = r"printf '\377\000\303(\001\002no end'; seq 30000; printf 'err\r' >&2";
    let ended = on(&room, &repo, &id, line).expect(0);
    let rows: String = (1..=30_000).map(|n| format!("{n}\n")).collect();
    let expected = [&b"\xff\x00\xc3(\x01\x02no end"[..], rows.as_bytes()].concat();
    assert!(ended.stdout == expected, "{} bytes", ended.stdout.len());
    let _ = ended.says(&["err\r"]);
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
    room.assert_nothing_left();
}

#[test]
fn a_box_that_holds_the_tree_is_asked_for_proof_and_sent_nothing() {
    let (room, daytona, repo) = stage();
    let id = warm(&room, &repo);
    let uploads = || daytona.asked().iter().filter(|asked| asked.contains("/files/upload")).count();
    let first = on(&room, &repo, &id, "cat hello.txt").expect(0);
    assert_eq!((uploads(), &timing(&first)["syncSkipped"]), (1, &json!(false)));
    let again = on(&room, &repo, &id, "cat hello.txt; echo spoilt >>hello.txt").expect(0);
    assert_eq!((uploads(), &timing(&again)["syncSkipped"]), (1, &json!(true)));
    let mended = on(&room, &repo, &id, "cat hello.txt").expect(0);
    assert_eq!((uploads(), mended.out().as_str()), (2, "hello\nchanged\n"));
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
    let _ = room.crabbox(&repo, ["stop", &id]).run();
    assert_eq!(daytona.boxes(), [""; 0]);
    room.assert_nothing_left();
}

#[test]
fn an_interrupt_ends_the_command_in_the_sandbox() {
    let (room, daytona, repo) = stage();
    let id = warm(&room, &repo);
    let line = "trap 'echo bye; exit 9' TERM; echo begun; sleep 300 & echo $! >child; wait";
    let words = ["run", "--id", &id, "--", "sh", "-c", line];
    let running = room.crabbox(&repo, words).limit(Duration::from_secs(60)).start();
    running.prints("begun");
    let number = daytona.kept()[0]["id"].as_str().unwrap().to_owned();
    let child = daytona.folder(&number, "home/daytona/crabbox/tree/child");
    eventually("the child is noted", Duration::from_secs(10), || {
        fs::read_to_string(&child).is_ok_and(|text| text.ends_with('\n'))
    });
    let child = fs::read_to_string(child).unwrap();
    let alive = || Path::new("/proc").join(child.trim()).exists();
    assert!(alive());
    running.signal(Signal::INT);
    let ended = running.wait().expect(130);
    assert_eq!(ended.out(), "begun\nbye\n", "what it said last is not lost: {ended}");
    eventually("the command and its children end", Duration::from_secs(10), || !alive());
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
    room.assert_nothing_left();
}
