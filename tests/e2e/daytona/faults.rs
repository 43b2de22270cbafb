//! A Daytona that has a bad day, boxes of others, and crabbox dying at any moment.

use std::path::Path;
use std::time::Duration;

use crabbox_tests::{Ended, Room, eventually};
use rustix::process::Signal;
use serde_json::json;

use super::{on, stage, warm};
use crate::matrix::wished;

fn run(room: &Room, repo: &Path) -> Ended {
    let words = ["run", "--json", "--", "sh", "-c", "cat hello.txt; exit 4"];
    room.crabbox(repo, words).limit(Duration::from_secs(90)).run()
}

#[test]
fn refusals_have_their_own_status_and_leave_nothing() {
    let (room, daytona, repo) = stage();
    for (status, message, code, kind) in [
        (401, "Invalid credentials", 3, "auth"),
        (403, "Forbidden resource", 3, "permission"),
        (403, "Organization is suspended: Depleted credits", 3, "billing"),
        (403, "Total memory limit exceeded. Maximum allowed: 10GiB", 4, "quota"),
        (400, "No available runners", 4, "capacity"),
        (400, "Snapshot small not found", 2, "config"),
    ] {
        let body = json!({"statusCode": status, "message": message});
        daytona.set(&json!({"faults": [{"on": "POST /sandbox$", "status": status, "body": body}]}));
        let ended = run(&room, &repo).expect(code);
        assert_eq!(ended.json()["error"]["errorKind"], kind, "{ended}");
        assert_eq!(daytona.boxes(), [""; 0]);
        room.assert_nothing_left();
    }
}

#[test]
fn what_daytona_does_not_have_is_refused_before_anything_is_asked_for() {
    let (room, daytona, repo) = stage();
    for (options, why) in [
        (&["--type", "cx22"][..], "no machine type cx22"),
        (&["--class", "large"], "no class large"),
        (&["--detach"], "cannot do --detach"),
        (&["--pty"], "cannot do --pty"),
        (&["--download", "a=b"], "cannot do --download"),
        (&["--daytona-snapshot", ""], "snapshot"),
    ] {
        let words = ["run"].iter().chain(options).chain(&["--", "true"]);
        let _ = room.crabbox(&repo, words.copied()).run().expect(2).says(&[why]);
    }
    assert!(!daytona.asked().contains(&"POST /sandbox".to_owned()), "{:?}", daytona.asked());
    room.assert_nothing_left();
}

#[test]
fn a_busy_daytona_is_waited_for_and_a_lost_answer_is_looked_into() {
    let (room, daytona, repo) = stage();
    let busy = |on: &str| json!({"on": on, "status": 429, "headers": {"retry-after": 1}});
    daytona.set(&json!({"faults": [
        busy("POST /sandbox$"), {"on": "POST /sandbox$", "status": 502, "after": true},
        {"on": "GET /sandbox/", "status": 502}, busy("POST .*/exec$"), busy("DELETE /sandbox"),
    ]}));
    let ended = run(&room, &repo).expect(4);
    let made = |asked: &&String| *asked == "POST /sandbox";
    assert_eq!(daytona.asked().iter().filter(made).count(), 2, "{ended}");
    assert_eq!(daytona.boxes(), [""; 0]);
    room.assert_nothing_left();
}

#[test]
fn a_creation_that_nobody_knows_of_is_looked_for_by_cleanup() {
    let (room, daytona, repo) = stage();
    daytona.set(&json!({"faults": [
        {"on": "POST /sandbox$", "status": 502, "after": true},
        {"on": "GET /sandbox/", "status": 502, "times": 9},
    ]}));
    let _ = run(&room, &repo).expect(5);
    assert_eq!(daytona.boxes().len(), 1);
    daytona.set(&json!({"faults": []}));
    let _ = room.crabbox(&repo, ["cleanup"]).limit(Duration::from_secs(60)).ok();
    assert_eq!(daytona.boxes(), [""; 0]);
    room.assert_nothing_left();
}

#[test]
fn a_command_that_cannot_be_followed_is_lost_and_not_started_again() {
    let (room, daytona, repo) = stage();
    let id = warm(&room, &repo);
    daytona.set(&json!({"faults": [
        {"on": "/logs$", "status": 502, "times": 99}, {"on": "GET .*/command/[^/]*$", "status": 502, "times": 99},
    ]}));
    let ended = on(&room, &repo, &id, "echo once >>../count").expect(5);
    let _ = ended.says(&["no exit status", "not started again"]);
    daytona.set(&json!({"faults": []}));
    assert_eq!(on(&room, &repo, &id, "cat ../count").expect(0).out(), "once\n");
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
}

#[test]
fn boxes_are_listed_page_by_page_found_by_every_name_and_a_circle_has_an_end() {
    let (room, daytona, repo) = stage();
    let ids: Vec<_> = (0..3).map(|_| warm(&room, &repo)).collect();
    daytona.set(&json!({"page": 1, "foreign": ["crabbox-of-somebody-else"]}));
    let listed = room.crabbox(&repo, ["list", "--json"]).ok().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
    for key in ["id", "slug", "name", "cloudId"] {
        let name = listed[0][key].as_str().unwrap();
        let status = room.crabbox(&repo, ["status", name]).ok();
        assert!(status.out().contains("state=ready"), "{key} {name}: {status}");
    }
    daytona.set(&json!({"circle": true}));
    let _ = room.crabbox(&repo, ["list"]).limit(Duration::from_secs(30)).run();
    daytona.set(&json!({"circle": false}));
    let _ = room.crabbox(&repo, ["stop", "crabbox-of-somebody-else"]).run();
    for id in &ids {
        let _ = room.crabbox(&repo, ["stop", id]).ok();
    }
    assert_eq!(daytona.boxes(), ["crabbox-of-somebody-else"]);
    room.assert_nothing_left();
}

#[test]
fn a_box_ends_by_itself_is_noted_as_used_and_is_started_when_it_was_stopped() {
    let (room, daytona, repo) = stage();
    let words = ["warmup", "--json", "--idle-timeout", "90s", "--ttl", "2h"];
    let id = room.crabbox(&repo, words).ok().json()["slug"].as_str().unwrap().to_owned();
    let kept = daytona.kept().remove(0);
    assert_eq!((&kept["autoStopInterval"], &kept["autoDeleteInterval"]), (&json!(2), &json!(0)));
    assert_eq!(kept["ttlMinutes"], 120);
    assert_eq!(kept["labels"]["crabbox"], "true");
    daytona.set(&json!({"states": {(kept["name"].as_str().unwrap()): "stopped"}}));
    assert_eq!(on(&room, &repo, &id, "cat hello.txt").expect(0).out(), "hello\nchanged\n");
    let asked = daytona.asked();
    assert!(asked.iter().any(|asked| asked.ends_with("/start")), "{asked:?}");
    assert!(asked.iter().any(|asked| asked.ends_with("/last-activity")), "{asked:?}");
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
}

#[test]
fn the_doctor_names_the_missing_right_and_makes_nothing() {
    let (room, daytona, repo) = stage();
    let well = room.crabbox(&repo, ["doctor"]).ok();
    assert!(well.out().contains("the key may make and delete sandboxes"), "{well}");
    assert!(well.out().contains("small is there"), "{well}");
    daytona.set(&json!({"rights": ["write:sandboxes"]}));
    let ill = room.crabbox(&repo, ["doctor", "--daytona-snapshot", "huge"]).run();
    let shown = format!("{ill}");
    assert!(shown.contains("lacks the rights delete:sandboxes"), "{shown}");
    let made = |asked: &String| asked == "POST /sandbox" || asked.starts_with("DELETE");
    assert!(!daytona.asked().iter().any(made));
}

#[test]
fn killed_at_any_moment_it_leaves_nothing_that_cleanup_does_not_finish() {
    let (room, daytona, repo) = stage();
    let other = "crabbox-of-somebody-else";
    daytona.set(&json!({"polls": 2, "foreign": [other]}));
    for case in 0..wished("CRABBOX_TEST_CASES").unwrap_or(12) {
        let words = ["run", "--", "sleep", "0.2"];
        let running = room.crabbox(&repo, words).limit(Duration::from_secs(60)).start();
        std::thread::sleep(Duration::from_millis(40 + case * 95 % 1400));
        running.signal(Signal::KILL);
        let _ = running.wait();
    }
    let _ = room.crabbox(&repo, ["cleanup"]).limit(Duration::from_secs(180)).ok();
    eventually("nothing but what is another's is left", Duration::from_secs(5), || {
        daytona.boxes() == [other]
    });
    room.assert_nothing_left();
}
