//! Commands in testboxes, from the command line to a small Blacksmith that sends the checkout and runs them over SSH.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_tests::{Blacksmith, Call, Room};
use serde_json::json;

/// A room with a Blacksmith, and a checkout with changes that nobody committed.
pub(crate) fn stage(machines: usize) -> (Room, Blacksmith, PathBuf) {
    let room = Room::new();
    let smith = Blacksmith::start(&room, machines);
    let repo = room.repo("app");
    fs::write(repo.join("hello.txt"), "hello\nchanged\n").unwrap();
    fs::write(repo.join("new file.txt"), "new\n").unwrap();
    (room, smith, repo)
}

pub(crate) fn call(room: &Room, repo: &Path, words: &[&str]) -> Call {
    room.crabbox(repo, words.to_vec()).limit(Duration::from_secs(90))
}

#[test]
fn a_dirty_checkout_runs_in_a_testbox_that_is_given_back() {
    let (room, smith, repo) = stage(1);
    let line = "cat hello.txt 'new file.txt'; echo \"it's $((1+1))\" >&2; exit 37";
    let ended = call(&room, &repo, &["run", "--", "sh", "-c", line]).run().expect(37);
    assert_eq!(ended.out(), "hello\nchanged\nnew\n");
    let _ = ended.says(&["it's 2\n", "sync=delegated", "delegated:skipped", "exit=37"]);
    assert_eq!(smith.boxes(), []);
    room.assert_nothing_left();
    let logs = call(&room, &repo, &["logs"]).ok();
    assert!(logs.out().contains("changed"), "{logs}");
    let record = call(&room, &repo, &["history", "--json"]).ok().json();
    let run = &record[0];
    assert_eq!((&run["exitCode"], &run["by"]), (&json!(37), &json!("remote")), "{record}");
    let asked = smith.asked();
    let words = asked.iter().find(|asked| asked["args"][3] == "warmup").unwrap();
    let words: Vec<_> =
        words["args"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    assert_eq!(
        words[..10],
        [
            "--org",
            "example",
            "testbox",
            "warmup",
            "ci.yml",
            "--job",
            "test",
            "--ref",
            "main",
            "--ssh-public-key"
        ]
    );
    assert_eq!(words[11..], ["--idle-timeout", "30"]);
}
