//! A Blacksmith that has a bad day, and two people who ask it for the same at once.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crabbox_tests::{Blacksmith, Room, eventually};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::blacksmith::{call, stage, warm};
use crate::matrix::wished;

const SOON: Duration = Duration::from_secs(20);

/// Another person with the same Blacksmith: a room and a checkout.
fn neighbour(smith: &Blacksmith) -> (Room, PathBuf) {
    let room = Room::new();
    smith.configure(&room, "provider: blacksmith-testbox\n");
    let repo = room.repo("app");
    (room, repo)
}

/// Which testboxes were told to end.
fn stopped(smith: &Blacksmith) -> Vec<String> {
    let asked = smith.asked();
    let stops = asked.iter().filter(|asked| asked["args"][3] == "stop");
    stops.map(|asked| asked["args"][5].as_str().unwrap().to_owned()).collect()
}

fn only(smith: &Blacksmith) -> String {
    let boxes = smith.boxes();
    assert_eq!(boxes.len(), 1, "{boxes:?}");
    boxes[0].0.clone()
}

#[test]
fn refusals_have_their_own_status_and_leave_nothing() {
    for (error, code, kind) in [
        ("Error: not logged in. Run `blacksmith auth login`", 3, "auth"),
        ("Error: 403 Forbidden", 3, "permission"),
        ("Error: concurrency limit reached for this organization", 4, "quota"),
        ("Error: workflow not found: ci.yml", 2, "config"),
    ] {
        let (smith, room, repo) = stage(1);
        smith.fault("warmup", json!({"error": format!("{error}\n"), "exit": 1}));
        let ended = call(&room, &repo, &["run", "--json", "--", "true"]).run().expect(code);
        assert_eq!(ended.json()["error"]["errorKind"], kind, "{ended}");
        assert_eq!(smith.boxes(), []);
        room.assert_nothing_left();
    }
}

#[test]
fn a_failed_warm_up_that_printed_an_id_stops_that_box_and_no_other() {
    let (smith, room, repo) = stage(2);
    let (_, kept) = warm(&room, &repo);
    let text = format!("also there: {kept}\nmade {{id}}, but\n");
    let fault = json!({"after": true, "text": text, "error": "Error: 502\n", "exit": 1});
    smith.fault("warmup", fault);
    let ended = call(&room, &repo, &["run", "--", "true"]).run().expect(5);
    assert_eq!((only(&smith), stopped(&smith).len()), (kept, 1), "{ended}");
    assert_eq!(smith.count("run"), 0, "an id that was printed needs no proof");
}

#[test]
fn a_failed_warm_up_without_an_id_finds_its_box_by_its_key_and_leaves_a_neighbours_alone() {
    let (smith, room, repo) = stage(2);
    let (other, their_repo) = neighbour(&smith);
    let fault = json!({"after": true, "sleep": 4, "error": "Error: connection reset\n", "exit": 1});
    smith.fault("warmup", fault);
    let running = call(&room, &repo, &["run", "--", "true"]).start();
    eventually("the first is made", SOON, || smith.boxes().len() == 1);
    let ours = only(&smith);
    let (slug, theirs) = warm(&other, &their_repo);
    let _ = running.wait().expect(5);
    assert_eq!((only(&smith), stopped(&smith)), (theirs.clone(), vec![ours]));
    room.assert_nothing_left();
    let said =
        call(&other, &their_repo, &["run", "--id", &slug, "--", "cat hello.txt"]).run().expect(0);
    assert_eq!(said.out(), "hello\n");
    let asked = smith.asked();
    let proofs: Vec<&Value> =
        asked.iter().filter(|asked| asked["env"]["SSH_AUTH_SOCK"] == "").collect();
    assert!(!proofs.is_empty(), "no key of the agent's is offered: {asked:?}");
    let _ = call(&other, &their_repo, &["stop", &slug]).ok();
}

#[test]
fn a_box_that_cannot_yet_show_whose_it_is_waits_for_cleanup_untouched() {
    let (smith, room, repo) = stage(2);
    let (other, their_repo) = neighbour(&smith);
    smith.hydrates(&["queued"]);
    let fault = json!({"after": true, "sleep": 4, "error": "Error: connection reset\n", "exit": 1});
    smith.fault("warmup", fault);
    let running = call(&room, &repo, &["run", "--", "true"]).start();
    eventually("the first is made", SOON, || smith.boxes().len() == 1);
    let ours = only(&smith);
    smith.hydrates(&["ready"]);
    let (slug, theirs) = warm(&other, &their_repo);
    let ended = running.wait().expect(5);
    let _ = ended.says(&[&ours, "may have been left behind", "crabbox cleanup"]);
    assert_eq!((smith.boxes().len(), stopped(&smith).len()), (2, 0));
    let cleaned = call(&room, &repo, &["cleanup"]).run().expect(1);
    assert!(cleaned.out().contains("not ready to show whose it is"), "{cleaned}");
    assert_eq!(smith.boxes().len(), 2);
    smith.is_now(&ours, "ready");
    let _ = call(&room, &repo, &["cleanup"]).ok();
    assert_eq!((only(&smith), stopped(&smith)), (theirs, vec![ours]));
    room.assert_nothing_left();
    let _ = call(&other, &their_repo, &["stop", &slug]).ok();
}

#[test]
fn killed_while_a_box_is_made_it_is_found_by_cleanup_with_and_without_its_id() {
    for text in ["made {id}\n", ""] {
        let (smith, room, repo) = stage(1);
        let sleep = if text.is_empty() { 30 } else { 0 };
        smith.fault("warmup", json!({"after": true, "text": text, "linger": 30, "sleep": sleep}));
        let running = call(&room, &repo, &["run", "--", "true"]).start();
        eventually("it is made", SOON, || smith.boxes().len() == 1);
        if !text.is_empty() {
            let known = || {
                let trails = fs::read_dir(room.state().join("journal")).unwrap().flatten();
                trails.into_iter().any(|file| {
                    fs::read_to_string(file.path()).unwrap_or_default().contains("tbx_")
                })
            };
            eventually("its id is on record while the tool still runs", SOON, known);
        }
        running.signal(Signal::KILL);
        let _ = running.wait();
        assert_eq!(smith.boxes().len(), 1);
        let _ = call(&room, &repo, &["cleanup"]).ok();
        assert_eq!(smith.boxes(), []);
        room.assert_nothing_left();
    }
}

#[test]
fn a_tool_that_is_killed_is_no_exit_status_of_the_command() {
    let (smith, room, repo) = stage(1);
    let running = call(&room, &repo, &["run", "--", "sh", "-c", "echo begun; sleep 300"]).start();
    running.prints("begun");
    let tool =
        |(_, line): &&(_, String)| line.contains("blacksmith.py") && line.contains("testbox run");
    let processes = room.processes();
    let (pid, _) = processes.iter().find(tool).unwrap();
    kill_process(*pid, Signal::KILL).unwrap();
    let ended = running.wait().expect(5);
    let _ = ended.says(&["ended by signal 9", "the command may go on"]);
    assert_eq!(smith.boxes(), []);
    room.assert_nothing_left();
}

#[test]
fn a_list_that_is_not_understood_proves_nothing() {
    let (smith, room, repo) = stage(1);
    let (slug, id) = warm(&room, &repo);
    for text in ["<html>\n502 Bad Gateway\n", "", "ID  STATUS\n???\n"] {
        smith.fault("list", json!({"text": text, "exit": 0, "times": 9}));
        let _ = call(&room, &repo, &["status", &slug]).run().expect(5).says(&["not understood"]);
        let listed = call(&room, &repo, &["list"]).ok();
        assert!(listed.err().contains("could not list everything"), "{listed}");
    }
    smith.fault("list", json!({}));
    assert_eq!(only(&smith), id);
    smith.is_now(&id, "completed");
    let _ = call(&room, &repo, &["run", "--id", &slug, "--", "true"])
        .run()
        .expect(4)
        .says(&["no longer exists"]);
    let _ = call(&room, &repo, &["stop", &slug]).run();
    room.assert_nothing_left();
}

#[test]
fn a_testbox_of_somebody_else_is_neither_used_nor_stopped() {
    let (smith, room, repo) = stage(1);
    let (other, their_repo) = neighbour(&smith);
    let (slug, theirs) = warm(&other, &their_repo);
    let _ = call(&room, &repo, &["stop", &theirs]).run();
    for words in [&["run", "--id", &theirs, "--", "true"][..], &["status", &theirs]] {
        let _ = call(&room, &repo, words).run().expect(4);
    }
    assert_eq!(call(&room, &repo, &["list", "--json"]).ok().json(), json!([]));
    assert_eq!((only(&smith), stopped(&smith).len(), smith.count("run")), (theirs, 0, 0));
    let _ = call(&other, &their_repo, &["stop", &slug]).ok();
}

#[test]
fn a_stop_whose_answer_is_lost_can_be_repeated() {
    let (smith, room, repo) = stage(1);
    let (slug, _) = warm(&room, &repo);
    smith.fault("stop", json!({"after": true, "error": "Error: 502\n", "exit": 1}));
    let _ = call(&room, &repo, &["stop", &slug]).run().expect(5);
    let _ = call(&room, &repo, &["stop", &slug]).ok();
    assert_eq!(smith.boxes(), []);
    room.assert_nothing_left();
}

#[test]
fn the_boxes_of_many_other_leases_do_not_hide_the_one_nobody_saw() {
    let (smith, room, repo) = stage(9);
    let fault = json!({"after": true, "sleep": 4, "error": "Error: connection reset\n", "exit": 1});
    smith.fault("warmup", fault);
    let running = call(&room, &repo, &["run", "--", "true"]).start();
    eventually("the first is made", SOON, || smith.boxes().len() == 1);
    running.signal(Signal::KILL);
    let _ = running.wait();
    let later: Vec<String> = (0..5).map(|_| warm(&room, &repo).1).collect();
    let _ = call(&room, &repo, &["cleanup"]).ok();
    let left: Vec<String> = smith.boxes().into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, later);
    assert_eq!(smith.count("run"), 1, "only the first is asked whose it is");
}

#[test]
fn killed_at_any_moment_it_leaves_nothing_that_cleanup_does_not_finish() {
    let (smith, room, repo) = stage(16);
    for case in 0..wished("CRABBOX_TEST_CASES").unwrap_or(8).min(14) {
        let running = call(&room, &repo, &["run", "--", "sleep", "0.2"]).start();
        std::thread::sleep(Duration::from_millis(60 + case * 170 % 1300));
        running.signal(Signal::KILL);
        let _ = running.wait();
    }
    eventually("nothing is left of the tool", SOON, || {
        !room.processes().iter().any(|(_, line)| line.contains("blacksmith.py"))
    });
    let _ = call(&room, &repo, &["cleanup"]).ok();
    assert_eq!(smith.boxes(), []);
    room.assert_nothing_left();
}

#[test]
fn the_private_key_is_in_no_frame_no_argument_and_no_file_but_its_own() {
    let (smith, room, repo) = stage(1);
    let plugin = crabbox_tests::tapped(&room, "blacksmith").display().to_string();
    let line = "echo begun; while [ ! -e go ]; do sleep 0.05; done";
    let words = ["run", "--debug", "--plugin-dev", &plugin, "--", "sh", "-c", line];
    let running = call(&room, &repo, &words).start();
    running.prints("begun");
    let keys: Vec<_> =
        fs::read_dir(room.at("config/crabbox/testboxes")).unwrap().flatten().collect();
    assert_eq!(keys.len(), 1);
    let file = keys[0].path().join("id_ed25519");
    let key = fs::read_to_string(&file).unwrap();
    let secret = key.lines().nth(3).unwrap().to_owned();
    for (pid, line) in room.processes() {
        assert!(!line.contains(&secret), "{pid:?}: {line}");
    }
    assert_eq!(crabbox_tests::holders(room.path(), &secret), std::slice::from_ref(&file));
    fs::write(smith.tree(&only(&smith)).join("go"), "").unwrap();
    let _ = running.wait().expect(0);
    let frames = ["frames.in", "frames.out"].map(|name| fs::read_to_string(room.at(name)).unwrap());
    let frames = frames.concat();
    assert!(frames.contains("{lease-key}") && !frames.contains(&secret), "{frames}");
    assert!(!frames.contains(&file.display().to_string()), "not even where it is");
    room.assert_no_claims();
}
