//! `--plugin-transcript`: what kernel and plugin say, so that the bug report of a user becomes somebody's test.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crabbox_plugin_sdk::testkit::replay_binary;
use crabbox_tests::{ISLO_KEY, Room, Sshd, binary};

use crate::islo::stage;

#[test]
fn what_a_plugin_says_is_written_down_and_can_be_replayed() {
    let room = Room::new();
    let sshd = Sshd::start(&room);
    room.configure(&sshd.config());
    let repo = room.repo("app");
    let file = room.at("said.jsonl");
    let words = ["run", "--plugin-transcript", file.to_str().unwrap(), "--", "cat", "hello.txt"];
    assert_eq!(room.crabbox(&repo, words).ok().out(), "hello\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    for says in ["# ssh", "lease.acquire", "\"initialize\"", "\"shutdown\""] {
        assert!(text.contains(says), "{says}: {text}");
    }
    for session in text.split("\n\n").skip(1) {
        replay_binary(&binary("crabbox-provider-ssh"), session)
            .unwrap_or_else(|e| panic!("{e}\n{session}"));
    }
}

#[test]
fn a_transcript_has_no_secret_no_value_of_a_variable_and_no_content() {
    let (room, _islo, repo) = stage();
    let file = room.at("said.jsonl");
    fs::write(repo.join("mine.txt"), "the text of a file\n").unwrap();
    let name = file.to_str().unwrap();
    let words = ["run", "--plugin-transcript", name, "--env", "TOKEN=hunter2", "--", "sh", "-c"];
    let line = "cat mine.txt; echo \"$TOKEN\" >&2";
    let ended = room.crabbox(&repo, words.into_iter().chain([line])).ok();
    assert!(ended.err().contains("hunter2"), "{ended}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("run.start") && text.contains("TOKEN"), "{text}");
    let encoded = "dGhlIHRleHQgb2YgYSBmaWxl"; // "the text of a file", as frames would have it
    for secret in [ISLO_KEY, "session-", "hunter2", "aHVudGVyMg", encoded] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_transcript_has_nothing_of_the_private_key_a_machine_is_given() {
    let sky = crate::hetzner::Sky::new();
    let file = sky.room.at("said.jsonl");
    let words = ["run", "--plugin-transcript", file.to_str().unwrap(), "--", "true"];
    let _ = sky.crabbox(&words).limit(std::time::Duration::from_secs(90)).ok();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"userData\":\"[redacted]\""), "{text}");
    assert!(text.contains("user_data") && !text.contains("PRIVATE KEY"), "{text}");
}

#[test]
fn a_transcript_takes_the_place_of_an_older_one_and_of_nothing_else() {
    let room = Room::new();
    let repo = room.repo("app");
    let file = room.at("said.jsonl");
    let call = || room.crabbox(&repo, ["providers", "--plugin-transcript", file.to_str().unwrap()]);
    fs::write(&file, "# Notes of mine\n").unwrap();
    let _ = call().run().expect(2).says(&["it is there already, and is no transcript"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "# Notes of mine\n");
    fs::write(&file, "").unwrap();
    let _ = call().ok();
    let _ = call().ok();
    assert!(fs::read_to_string(&file).unwrap().starts_with("# What crabbox"));
}

#[test]
fn a_transcript_that_cannot_be_written_is_refused_before_a_box_is_asked_for() {
    let room = Room::new();
    let repo = room.repo("app");
    let words = ["run", "--plugin-transcript", "no/such/folder/file", "--", "true"];
    let ended = room.crabbox(&repo, words).run().expect(2);
    let _ = ended.says(&["cannot write the transcript", "a folder that you may write to"]);
    room.assert_no_claims();
}
