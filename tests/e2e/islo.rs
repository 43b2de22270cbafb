//! Commands in sandboxes of Islo, from the command line to a small Islo that really runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_tests::sandboxes::{dirty, on, timing, warm};
use crabbox_tests::{IsloFake, Room, eventually};
use rustix::process::Signal;
use serde_json::json;

/// A room with an Islo, and a checkout with changes that nobody committed.
pub(crate) fn stage() -> (Room, IsloFake, PathBuf) {
    let room = Room::new();
    let islo = IsloFake::start(&room);
    let repo = dirty(&room);
    (room, islo, repo)
}

#[test]
fn a_dirty_checkout_runs_in_a_sandbox_that_is_given_back() {
    let (room, islo, repo) = stage();
    let line = "cat hello.txt 'new file.txt'; echo \"$GREETING\" >&2; exit 37";
    let words = ["run", "--env", "GREETING=a b\nc", "--", "sh", "-c", line];
    let ended = room.crabbox(&repo, words).limit(Duration::from_secs(60)).run().expect(37);
    assert_eq!(ended.out(), "hello\nchanged\nnew\n");
    let _ = ended.says(&["a b\nc\n", "provisioned lease=cbx_", "type=2cpu-4096mb", "exit=37"]);
    assert_eq!(islo.boxes(), [""; 0]);
    room.assert_nothing_left();
    let logs = room.crabbox(&repo, ["logs"]).ok();
    assert!(logs.out().contains("changed"), "{logs}");
    let record = room.crabbox(&repo, ["history", "--json"]).ok().json();
    let run = &record[0];
    assert_eq!((&run["exitCode"], &run["by"]), (&json!(37), &json!("remote")), "{record}");
}

#[test]
fn only_the_provider_line_of_the_repository_changes() {
    let (room, islo, repo) = stage();
    islo.configure(&room, "");
    let config = fs::read_to_string(room.at("config/crabbox/config.yaml")).unwrap();
    room.configure(&config.replace("provider: islo\n", ""));
    for provider in ["local", "islo"] {
        fs::write(repo.join(".crabbox.yaml"), format!("provider: {provider}\n")).unwrap();
        let words = ["run", "--", "cat hello.txt && exit 3"];
        let ended = room.crabbox(&repo, words).limit(Duration::from_secs(60)).run().expect(3);
        assert_eq!(ended.out(), "hello\nchanged\n");
    }
    assert!(islo.asked().contains(&"POST /sandboxes".to_owned()));
}

#[test]
fn a_box_that_holds_the_tree_is_asked_for_proof_and_sent_nothing() {
    let (room, islo, repo) = stage();
    let id = warm(&room, &repo);
    let uploads = || islo.asked().iter().filter(|asked| asked.ends_with("/files-archive")).count();
    let first = on(&room, &repo, &id, "cat hello.txt").expect(0);
    assert_eq!((uploads(), &timing(&first)["syncSkipped"]), (1, &json!(false)));
    let again = on(&room, &repo, &id, "cat hello.txt; mkdir out; echo built >out/thing").expect(0);
    assert_eq!((uploads(), &timing(&again)["syncSkipped"]), (1, &json!(true)));
    let _ = again.says(&["No changes detected", "sync_skipped=true", "compare:"]);

    // What a command leaves beside the tree stays; what it changes in the tree is repaired.
    let spoilt = on(&room, &repo, &id, "cat out/thing; echo spoilt >>hello.txt").expect(0);
    assert_eq!((uploads(), spoilt.out().as_str()), (1, "built\n"));
    let mended = on(&room, &repo, &id, "cat hello.txt; ls").expect(0);
    assert_eq!(mended.out(), "hello\nchanged\nhello.txt\nnew file.txt\n");
    assert_eq!(uploads(), 2);

    // A change here, a file less here, and a user who trusts nothing.
    fs::write(repo.join("hello.txt"), "other\n").unwrap();
    fs::remove_file(repo.join("new file.txt")).unwrap();
    assert_eq!(on(&room, &repo, &id, "cat hello.txt; ls").expect(0).out(), "other\nhello.txt\n");
    assert_eq!(uploads(), 3);
    let words = ["run", "--id", &id, "--checksum", "--", "true"];
    let _ = room.crabbox(&repo, words).limit(Duration::from_secs(60)).ok();
    assert_eq!(uploads(), 4);
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
    assert_eq!(islo.boxes(), [""; 0]);
    room.assert_nothing_left();
}

#[test]
fn a_box_is_found_by_every_name_listed_page_by_page_and_stopped_twice() {
    let (room, islo, repo) = stage();
    let ids: Vec<_> = (0..3).map(|_| warm(&room, &repo)).collect();
    for cursors in [true, false] {
        islo.set(&json!({"page": 1, "cursors": cursors}));
        let listed = room.crabbox(&repo, ["list", "--json"]).ok().json();
        assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
    }
    let listed = room.crabbox(&repo, ["list", "--json"]).ok().json();
    let lease = &listed[0];
    for key in ["id", "slug", "name", "cloudId"] {
        let name = lease[key].as_str().unwrap();
        let status = room.crabbox(&repo, ["status", name]).ok();
        assert!(status.out().contains("state=ready"), "{key} {name}: {status}");
    }
    for id in &ids {
        let _ = room.crabbox(&repo, ["stop", id]).ok();
    }
    let _ = room.crabbox(&repo, ["stop", &ids[0]]).run();
    assert_eq!(islo.boxes(), [""; 0]);
    room.assert_nothing_left();
}

#[test]
fn an_interrupt_ends_the_command_in_the_sandbox() {
    let (room, islo, repo) = stage();
    let id = warm(&room, &repo);
    let name = islo.boxes().remove(0);
    let line = "trap 'echo bye; exit 9' TERM; echo begun; sleep 300 & echo $! >child; wait";
    let words = ["run", "--id", &id, "--", "sh", "-c", line];
    let running = room.crabbox(&repo, words).limit(Duration::from_secs(60)).start();
    running.prints("begun");
    let child = fs::read_to_string(islo.folder(&name, "workspace/crabbox/child")).unwrap();
    let alive = || Path::new("/proc").join(child.trim()).exists();
    assert!(alive());
    running.signal(Signal::INT);
    let ended = running.wait().expect(130);
    assert_eq!(ended.out(), "begun\nbye\n", "what it said last is not lost: {ended}");
    eventually("the command and its children end", Duration::from_secs(10), || !alive());
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
    room.assert_nothing_left();
}

#[test]
fn a_command_whose_time_is_over_is_stopped() {
    let (room, islo, repo) = stage();
    let words = ["run", "--timeout", "1s", "--", "sh", "-c", "echo begun; sleep 300"];
    let ended = room.crabbox(&repo, words).limit(Duration::from_secs(60)).run().expect(124);
    let _ = ended.says(&["the command was stopped after 1s", "--timeout"]);
    assert_eq!(islo.boxes(), [""; 0]);
}

#[test]
fn a_run_under_way_is_followed_from_its_journal() {
    let (room, islo, repo) = stage();
    let id = warm(&room, &repo);
    let name = islo.boxes().remove(0);
    let line = "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two; exit 5";
    let words = ["run", "--id", &id, "--", "sh", "-c", line];
    let running = room.crabbox(&repo, words).limit(Duration::from_secs(60)).start();
    running.prints("one");
    let following = room.crabbox(&repo, ["attach"]).limit(Duration::from_secs(60)).start();
    following.prints("one");
    fs::write(islo.folder(&name, "workspace/crabbox/go"), "").unwrap();
    assert_eq!(following.wait().expect(5).out(), "one\ntwo\n");
    assert_eq!(running.wait().expect(5).out(), "one\ntwo\n");
    assert_eq!(room.crabbox(&repo, ["logs"]).ok().out(), "one\ntwo\n");
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
}

#[test]
fn what_islo_cannot_do_is_refused_before_anything_is_asked_of_it() {
    let (room, islo, repo) = stage();
    fs::write(repo.join("job.sh"), "true\n").unwrap();
    for (options, why) in [
        (&["--sync-only"][..], "cannot do --sync-only"),
        (&["--detach", "--", "true"], "cannot do --detach"),
        (&["--isolate", "--", "true"], "cannot do --isolate"),
        (&["--pty", "--", "true"], "cannot do --pty"),
        (&["--script", "job.sh"], "cannot do --script"),
        (&["--download", "a=b", "--", "true"], "cannot do --download"),
        (&["--type", "cx22", "--", "true"], "no machine type cx22"),
    ] {
        let words = ["run"].iter().chain(options);
        let ended = room.crabbox(&repo, words.copied()).run().expect(2);
        let _ = ended.says(&[why]);
    }
    assert!(!islo.asked().contains(&"POST /sandboxes".to_owned()), "{:?}", islo.asked());
    room.assert_nothing_left();
}

#[test]
fn the_doctor_says_what_is_wrong_with_the_key() {
    let (room, islo, repo) = stage();
    let well = room.crabbox(&repo, ["doctor"]).ok();
    assert!(well.out().contains("islo.key the key is good"), "{well}");
    assert!(well.out().contains("islo.sandboxes 0 of ours"), "{well}");
    let key = "cmd:echo wrong";
    let config = fs::read_to_string(room.at("config/crabbox/config.yaml")).unwrap();
    room.configure(&config.replace("cmd:printf 'ak-%s-51' c4n4ry", key));
    let ill = room.crabbox(&repo, ["doctor"]).run();
    assert!(format!("{ill}").contains("ISLO_API_KEY"), "{ill}");
    room.configure(&config);
    islo.fault("GET /sandboxes", 403, &json!({"code": "ACCESS_DENIED", "message": "no"}), false);
    let barred = room.crabbox(&repo, ["doctor"]).run();
    assert!(format!("{barred}").contains("right to manage sandboxes"), "{barred}");
    let made = |asked: &String| asked == "POST /sandboxes" || asked.starts_with("DELETE");
    assert!(!islo.asked().iter().any(made));
}
