//! Commands in testboxes, from the command line to a small Blacksmith that sends the checkout and runs them over SSH.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_tests::sandboxes::dirty;
use crabbox_tests::{Blacksmith, Call, Room, eventually};
use rustix::process::Signal;
use serde_json::json;

/// A Blacksmith, a room with it, and a checkout with changes that nobody committed. The room goes first: boxes it still has
/// are given back to somebody who is there.
pub(crate) fn stage(machines: usize) -> (Blacksmith, Room, PathBuf) {
    let room = Room::new();
    let smith = Blacksmith::start(&room, machines);
    let repo = dirty(&room);
    (smith, room, repo)
}

pub(crate) fn call(room: &Room, repo: &Path, words: &[&str]) -> Call {
    room.crabbox(repo, words.to_vec()).limit(Duration::from_secs(90))
}

#[test]
fn a_dirty_checkout_runs_in_a_testbox_that_is_given_back() {
    let (smith, room, repo) = stage(1);
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

/// A box that stays: its slug, and its testbox.
pub(crate) fn warm(room: &Room, repo: &Path) -> (String, String) {
    let lease = call(room, repo, &["warmup", "--json"]).ok().json();
    let word = |name: &str| lease[name].as_str().unwrap().to_owned();
    (word("slug"), word("serverId"))
}

#[test]
fn a_watch_sees_changes_that_the_tool_sends() {
    let (_smith, room, repo) = stage(2);
    let words = ["watch", "--debounce", "100ms", "--", "cat", "hello.txt"];
    let running = call(&room, &repo, &words).start();
    running.prints("changed");
    eventually("it waits", Duration::from_secs(20), || {
        running.stderr().contains("waiting for changes")
    });
    fs::write(repo.join("hello.txt"), "once more\n").unwrap();
    running.prints("once more");
    running.signal(Signal::INT);
    let _ = running.wait();
    room.assert_nothing_left();
}

#[test]
fn only_the_provider_line_of_the_repository_changes() {
    let (smith, room, repo) = stage(1);
    smith.configure(&room, "");
    for provider in ["local", "blacksmith"] {
        fs::write(repo.join(".crabbox.yaml"), format!("provider: {provider}\n")).unwrap();
        let ended = call(&room, &repo, &["run", "--", "cat hello.txt && exit 3"]).run().expect(3);
        assert_eq!(ended.out(), "hello\nchanged\n");
    }
    assert_eq!((smith.count("warmup"), smith.boxes()), (1, vec![]));
}

#[test]
fn a_kept_box_is_found_by_every_name_used_again_and_stopped_twice() {
    let (smith, room, repo) = stage(2);
    let empty = call(&room, &repo, &["list", "--json"]).ok();
    assert_eq!(empty.json(), json!([]), "a sentence is no row: {empty}");
    assert!(!empty.err().contains("could not list"), "{empty}");
    let (slug, id) = warm(&room, &repo);
    let other = warm(&room, &repo);
    let listed = call(&room, &repo, &["list", "--json"]).ok().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    let lease =
        listed.as_array().unwrap().iter().find(|lease| lease["slug"] == json!(slug)).unwrap();
    for key in ["id", "slug", "name", "cloudId"] {
        let status = call(&room, &repo, &["status", lease[key].as_str().unwrap()]).ok();
        assert!(status.out().contains("state=ready"), "{key}: {status}");
    }
    for (line, code) in [("cat hello.txt; echo built >out; exit 4", 4), ("ls; exit 0", 0)] {
        let ended = call(&room, &repo, &["run", "--id", &slug, "--", "sh", "-c", line]).run();
        assert_eq!(ended.code, code, "{ended}");
    }
    assert_eq!(smith.boxes().len(), 2);
    for name in [&slug, &other.0] {
        let _ = call(&room, &repo, &["stop", name]).ok();
    }
    let _ = call(&room, &repo, &["stop", &slug]).run();
    assert_eq!(smith.boxes(), []);
    assert!(smith.count(&id) >= 3, "used twice and stopped");
    room.assert_nothing_left();
}

#[test]
fn a_testbox_that_comes_slowly_is_waited_for_and_one_in_the_queue_is_explained() {
    let (smith, room, repo) = stage(1);
    smith.hydrates(&["queued", "hydrating", "ready"]);
    let (slug, id) = warm(&room, &repo);
    smith.is_now(&id, "queued");
    let status = call(&room, &repo, &["status", &slug]).ok();
    assert!(
        status.out().contains("state=leased") && status.out().contains("ready=false"),
        "{status}"
    );
    let _ = status.says(&["it is queued", "Actions page", "crabbox stop"]);
    let _ = call(&room, &repo, &["stop", &slug]).ok();
    smith.hydrates(&["queued", "failed"]);
    let ended = call(&room, &repo, &["run", "--", "true"]).run().expect(5);
    let _ = ended.says(&["ended before it was ready", "Actions page"]);
    assert_eq!((smith.count("stop"), smith.count("run")), (2, 0));
    room.assert_nothing_left();
}

#[test]
fn an_interrupt_ends_the_command_in_the_testbox() {
    let (smith, room, repo) = stage(1);
    let (slug, id) = warm(&room, &repo);
    let line = "trap 'echo bye; exit 9' TERM; echo begun; sleep 300 & echo $! >child; wait";
    let running = call(&room, &repo, &["run", "--id", &slug, "--", "sh", "-c", line]).start();
    running.prints("begun");
    let child = fs::read_to_string(smith.tree(&id).join("child")).unwrap();
    let alive = || Path::new("/proc").join(child.trim()).exists();
    assert!(alive());
    running.signal(Signal::INT);
    let ended = running.wait().expect(130);
    assert_eq!(ended.out(), "begun\nbye\n", "what it said last is not lost: {ended}");
    eventually("the command and its children end", Duration::from_secs(10), || !alive());
    let words = ["run", "--id", &slug, "--timeout", "1s", "--", "sleep", "300"];
    let _ = call(&room, &repo, &words).run().expect(124).says(&["stopped after 1s"]);
    let _ = call(&room, &repo, &["stop", &slug]).ok();
    room.assert_nothing_left();
}

#[test]
fn what_cannot_be_honoured_is_refused_before_a_testbox_is_asked_for() {
    let (smith, room, repo) = stage(1);
    fs::write(repo.join("job.sh"), "true\n").unwrap();
    for (options, why) in [
        (&["--sync-only"][..], "cannot do --sync-only"),
        (&["--no-sync", "--", "true"], "cannot do --no-sync: its own tool sends the checkout"),
        (&["--checksum", "--", "true"], "cannot do --checksum"),
        (&["--full-resync", "--", "true"], "cannot do --full-resync"),
        (&["--force-sync-large", "--", "true"], "cannot do --force-sync-large"),
        (&["--actions-runner", "--", "true"], "--actions-runner"),
        (&["--env", "A=1", "--", "true"], "hands on no variables"),
        (&["--detach", "--", "true"], "cannot do --detach"),
        (&["--isolate", "--", "true"], "cannot do --isolate"),
        (&["--pty", "--", "true"], "cannot do --pty"),
        (&["--script", "job.sh"], "cannot do --script"),
        (&["--download", "a=b", "--", "true"], "cannot do --download"),
        (&["--type", "cx22", "--", "true"], "runs-on in the workflow"),
        (&["--browser", "--", "true"], "cannot do --browser"),
        (&["--blacksmith-ref=-x", "--", "true"], "would be read as an option"),
    ] {
        let words: Vec<_> = ["run"].iter().chain(options).copied().collect();
        let _ = call(&room, &repo, &words).run().expect(2).says(&[why]);
    }
    let allowed = call(&room, &repo, &["run", "--", "true"]).env("CRABBOX_ENV_ALLOW", "WANTED");
    let _ = allowed.env("WANTED", "1").run().expect(2).says(&["env.allow"]);
    let config = fs::read_to_string(room.at("config/crabbox/config.yaml")).unwrap();
    room.configure(&config.replace("  workflow: ci.yml\n", ""));
    let _ = call(&room, &repo, &["run", "--", "true"])
        .run()
        .expect(2)
        .says(&["no workflow", "actions.workflow"]);
    assert_eq!(smith.count("warmup"), 0);
    room.assert_nothing_left();
}

#[test]
fn names_that_are_allowed_only_by_default_are_left_out_aloud() {
    let (smith, room, repo) = stage(1);
    let words = ["run", "--", "sh", "-c", "echo \"ci=$CI\""];
    let ended = call(&room, &repo, &words).env("CI", "1").run().expect(0);
    assert_eq!(ended.out(), "ci=\n");
    let _ = ended.says(&["gets no variables: CI"]);
    assert!(smith.asked().iter().all(|asked| asked["env"].get("CI").is_none()));
}

#[test]
fn the_general_workflow_counts_where_there_is_no_own_and_the_tool_is_the_users_to_say() {
    let (smith, room, repo) = stage(1);
    let tool = smith.tool(&room).display().to_string();
    let general = "actions:\n  workflow: .github/workflows/box.yml\n  job: prepare\n  ref: next\n";
    room.configure(&format!("provider: blacksmith\n{general}"));
    fs::write(repo.join(".crabbox.yaml"), "blacksmith:\n  idleTimeout: 61s\n").unwrap();
    let path = format!("{}:/usr/bin:/bin", room.at("tools").display());
    let _ = call(&room, &repo, &["run", "--", "true"]).env("PATH", &path).run().expect(0);
    let asked = smith.asked().iter().map(|asked| asked["args"].to_string()).collect::<String>();
    for words in [
        r#""warmup",".github/workflows/box.yml","--job","prepare","--ref","next""#,
        r#""--idle-timeout","2""#,
    ] {
        assert!(asked.contains(words), "{asked}");
    }
    let _ = call(&room, &repo, &["run", "--", "true"])
        .run()
        .expect(2)
        .says(&["is not installed", "blacksmith.cli"]);
    fs::write(repo.join(".crabbox.yaml"), format!("blacksmith:\n  cli: {tool}\n")).unwrap();
    let before = smith.asked().len();
    let _ = call(&room, &repo, &["run", "--", "true"]).run().expect(2).says(&["blacksmith.cli"]);
    assert_eq!(smith.asked().len(), before, "a repository chooses no program");
}

#[test]
fn the_doctor_says_what_is_wrong_with_the_login() {
    let (smith, room, repo) = stage(1);
    let well = call(&room, &repo, &["doctor"]).ok();
    assert!(well.out().contains("blacksmith.testboxes 0 of 0 testboxes"), "{well}");
    smith.fault("list", json!({"error": "Error: not logged in\n", "exit": 1}));
    let ill = call(&room, &repo, &["doctor"]).run();
    assert!(format!("{ill}").contains("blacksmith auth login"), "{ill}");
    assert_eq!(smith.count("warmup"), 0);
}
