//! An Islo that has a bad day.

use std::path::Path;
use std::time::Duration;

use crabbox_tests::sandboxes::{on, warm};
use crabbox_tests::{Ended, Room};
use rustix::process::Signal;
use serde_json::json;

use crate::islo::stage;

fn run(room: &Room, repo: &Path) -> Ended {
    let words = ["run", "--json", "--", "sh", "-c", "cat hello.txt; exit 4"];
    room.crabbox(repo, words).limit(Duration::from_secs(90)).run()
}

#[test]
fn refusals_have_their_own_status_and_leave_nothing() {
    for (status, body, code, kind) in [
        (401, json!({"code": "AUTH_REQUIRED"}), 3, "auth"),
        (403, json!({"code": "ACCESS_DENIED"}), 3, "permission"),
        (402, json!({"code": "INSUFFICIENT_CREDITS"}), 3, "billing"),
        (503, json!({"code": "RESOURCE_UNAVAILABLE", "message": "full"}), 4, "capacity"),
        (503, json!({"code": "RESOURCE_UNAVAILABLE", "limit": 2, "requested": 4}), 4, "quota"),
        (422, json!({"code": "VALIDATION_ERROR", "message": "no such image"}), 2, "usage"),
    ] {
        let (room, islo, repo) = stage();
        let fault = json!({"on": "POST /sandboxes$", "status": status, "body": body, "times": 9});
        islo.set(&json!({ "faults": [fault] }));
        let ended = run(&room, &repo).expect(code);
        assert_eq!(ended.json()["error"]["errorKind"], kind, "{ended}");
        assert_eq!(islo.boxes(), [""; 0]);
        room.assert_nothing_left();
    }
}

#[test]
fn a_session_that_ends_early_is_exchanged_and_a_busy_islo_is_waited_for() {
    let (room, islo, repo) = stage();
    let busy = |on: &str| json!({"on": on, "status": 429, "headers": {"retry-after": 1}});
    let gone = |on: &str| json!({"on": on, "status": 401, "body": {"code": "AUTH_TOKEN_EXPIRED"}});
    islo.set(&json!({"faults": [
        busy("POST /sandboxes$"), gone("POST /sandboxes$"), gone("exec/stream"), busy("exec/stream"),
        gone("files-archive"), json!({"on": "GET /sandboxes/", "status": 502}), busy("DELETE"),
    ]}));
    let ended = run(&room, &repo).expect(4);
    assert_eq!(islo.boxes(), [""; 0], "{ended}");
    room.assert_nothing_left();
}

#[test]
fn a_creation_whose_answer_is_lost_is_used_when_it_happened() {
    let (room, islo, repo) = stage();
    islo.fault("POST /sandboxes$", 502, &json!({}), true);
    let _ = run(&room, &repo).expect(4);
    assert_eq!(islo.boxes(), [""; 0]);
    let made = |asked: &&String| *asked == "POST /sandboxes";
    assert_eq!(islo.asked().iter().filter(made).count(), 1);
    room.assert_nothing_left();
}

#[test]
fn a_creation_that_nobody_knows_of_is_looked_for_by_cleanup() {
    let (room, islo, repo) = stage();
    let lost = json!({"on": "POST /sandboxes$", "status": 502, "after": true});
    let blind = json!({"on": "GET /sandboxes/", "status": 502, "times": 9});
    islo.set(&json!({"faults": [lost, blind]}));
    let _ = run(&room, &repo).expect(5);
    assert_eq!(islo.boxes().len(), 1);
    islo.set(&json!({"faults": []}));
    let _ = room.crabbox(&repo, ["cleanup"]).limit(Duration::from_secs(60)).ok();
    assert_eq!(islo.boxes(), [""; 0]);
    room.assert_nothing_left();
}

#[test]
fn a_stream_that_ends_without_a_status_is_a_failure_and_the_command_is_not_started_again() {
    let (room, islo, repo) = stage();
    let id = warm(&room, &repo);
    islo.set(&json!({"cut": 1}));
    let ended = on(&room, &repo, &id, "echo once >>../count; echo said").expect(5);
    assert_eq!(ended.out(), "said\n");
    let _ = ended.says(&["no exit status", "not started again"]);
    let count = on(&room, &repo, &id, "cat ../count").expect(0);
    assert_eq!(count.out(), "once\n");
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
}

#[test]
fn an_archive_that_is_refused_goes_in_pieces() {
    let (room, islo, repo) = stage();
    let large: Vec<u8> =
        (0_u32..200_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(repo.join("large.bin"), &large).unwrap();
    islo.set(&json!({"faults": [{"on": "files-archive", "status": 500, "times": 9}]}));
    let words = [
        "run",
        "--",
        "sh",
        "-c",
        "cat hello.txt; sha256sum <large.bin; test ! -e ../.crabbox-crabbox/tree.tgz",
    ];
    let ended = room.crabbox(&repo, words).limit(Duration::from_secs(120)).run().expect(0);
    let sum = room.call("sha256sum").arg(repo.join("large.bin")).ok().out();
    assert!(ended.out().contains(sum.split(' ').next().unwrap()), "{ended}");
    let _ = ended.says(&["unpack:"]);
}

#[test]
fn a_slow_birth_is_waited_for_and_an_interrupt_takes_it_back() {
    let (room, islo, repo) = stage();
    islo.set(&json!({"polls": 100_000}));
    let running = room.crabbox(&repo, ["run", "--", "true"]).limit(Duration::from_secs(60)).start();
    let wait = Duration::from_secs(30);
    crabbox_tests::eventually("it is asked for", wait, || {
        islo.asked().iter().any(|asked| asked.starts_with("GET /sandboxes/"))
    });
    running.signal(Signal::INT);
    let _ = running.wait().expect(130);
    assert_eq!(islo.boxes(), [""; 0]);
    room.assert_nothing_left();
}

#[test]
fn a_deletion_that_takes_time_is_watched_until_the_sandbox_is_gone() {
    let (room, islo, repo) = stage();
    islo.set(&json!({"deleting": 2}));
    let _ = run(&room, &repo).expect(4);
    assert_eq!(islo.boxes(), [""; 0]);
    room.assert_nothing_left();
}

#[test]
fn a_run_whose_crabbox_died_is_lost_and_keeps_its_tree_until_it_ends() {
    let (room, islo, repo) = stage();
    let id = warm(&room, &repo);
    let name = islo.boxes().remove(0);
    let line = "echo begun; while [ ! -e ../go ]; do sleep 0.05; done";
    let words = ["run", "--id", &id, "--", "sh", "-c", line];
    let running = room.crabbox(&repo, words).limit(Duration::from_secs(60)).start();
    running.prints("begun");
    running.signal(Signal::KILL);
    let _ = running.wait();
    let attached = room.crabbox(&repo, ["attach"]).run().expect(7);
    assert_eq!(attached.out(), "begun\n");
    let _ = attached.says(&["was lost; its command was started: yes"]);
    let run = room.crabbox(&repo, ["history", "--json"]).ok().json()[0]["id"].clone();
    let stopped = room.crabbox(&repo, ["stop", run.as_str().unwrap()]).run().expect(2);
    let _ = stopped.says(&["its provider runs commands itself"]);
    let _ = on(&room, &repo, &id, "true").expect(2).says(&["has not ended", "crabbox stop"]);
    std::fs::write(islo.folder(&name, "workspace/go"), "").unwrap();
    let wait = Duration::from_secs(20);
    crabbox_tests::eventually("it ends", wait, || on(&room, &repo, &id, "true").code == 0);
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
}
