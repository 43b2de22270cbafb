//! Plugins that misbehave, seen from the command line.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crabbox_tests::{Ended, Room, Sshd, binary};
use rustix::process::Signal;

/// A room that knows the scripted provider, with these settings.
fn scripted(settings: &str) -> (Room, PathBuf) {
    let room = Room::new();
    binary("provider-scripted");
    room.plugins(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/scripted"));
    let calls = room.at("calls.jsonl");
    let calls = calls.display();
    room.configure(&format!(
        "provider: scripted\nproviders:\n  scripted:\n    state-file: {calls}\n{settings}"
    ));
    let repo = room.repo("app");
    (room, repo)
}

fn run(room: &Room, repo: &Path) -> Ended {
    room.crabbox(repo, ["run", "--json", "--", "true"]).limit(Duration::from_secs(120)).run()
}

#[test]
fn an_error_of_the_provider_has_its_own_status() {
    for (kind, code, word) in [
        ("auth", 3, "auth"),
        ("capacity", 4, "capacity"),
        ("quota", 4, "quota"),
        ("transient", 5, "transient"),
    ] {
        let (room, repo) = scripted(&format!("    acquire: fail:{kind}:not-started\n"));
        let ended = run(&room, &repo).expect(code);
        assert_eq!(ended.json()["error"]["errorKind"], word, "{ended}");
        let followed = room.crabbox(&repo, ["attach"]).run().expect(code);
        let _ = followed.says(&["crabbox ended run_", "not its command"]);
        room.assert_nothing_left();
    }
}

#[test]
fn what_a_dead_plugin_made_is_found_and_given_back() {
    let (room, repo) = scripted("    acquire: make-then-die\n");
    let _ = run(&room, &repo).expect(1);
    let settings = std::fs::read_to_string(room.at("config/crabbox/config.yaml")).unwrap();
    room.configure(&settings.replace("make-then-die", "ok"));
    let ended = room.crabbox(&repo, ["cleanup"]).ok();
    room.assert_nothing_left();
    let boxes = std::fs::read_to_string(room.at("calls.jsonl.boxes.json")).unwrap();
    assert_eq!(boxes, "{}", "{ended}");
}

#[test]
fn a_setting_that_does_not_fit_the_schema_is_named() {
    let (room, repo) = scripted("    ssh-port: many\n");
    let _ = room
        .crabbox(&repo, ["run", "--", "true"])
        .run()
        .expect(2)
        .says(&["ssh-port", "crabbox providers describe"]);
}

#[test]
fn a_delegated_provider_gets_the_tree_and_runs_the_command_itself() {
    let (room, repo) = scripted("");
    let settings = "provider: scripted-delegated\n";
    room.configure(settings);
    let ended = room
        .crabbox(&repo, ["run", "--", "sh", "-c", "cat hello.txt; echo err >&2; exit 11"])
        .run();
    assert_eq!((ended.code, ended.out().as_str()), (11, "hello\n"), "{ended}");
    room.assert_no_claims();
}

#[test]
fn input_that_a_delegated_provider_would_drop_is_refused_before_anything_is_spent() {
    let (room, repo) = scripted("");
    room.configure("provider: scripted-delegated\n");
    let call = || room.crabbox(&repo, ["run", "--", "sh", "-c", "cat hello.txt"]);
    let refused = ["cannot do piped standard input", "</dev/null"];
    let file = ["-c", "exec \"$@\" <hello.txt", "sh"];
    let _ = call().through("sh", file).run().expect(2).says(&refused);
    let _ = call().stdin("for the command\n").run().expect(2).says(&refused);
    // An empty pipe that ended, and one that never ends and says nothing.
    assert_eq!(call().stdin("").ok().out(), "hello\n");
    let _ = room.call("mkfifo").arg(room.at("silent")).ok();
    let open = ["-c", "p=$1; shift; exec 3<>\"$p\"; exec \"$@\" <&3", "sh"];
    let open = open.map(Into::into).into_iter().chain([room.at("silent").into_os_string()]);
    let ended = call().through("sh", open).ok().says(&["runs commands without input"]);
    assert_eq!(ended.out(), "hello\n");
    room.assert_no_claims();
}

#[test]
fn a_leased_box_of_any_provider_is_used_like_every_other() {
    let (room, repo) = scripted("");
    let sshd = Sshd::start(&room);
    let keys = sshd.key.with_file_name("authorized_keys");
    let settings = format!(
        "provider: scripted\nproviders:\n  scripted:\n    state-file: {}\n    ssh-port: {}\n    ssh-user: {}\n    \
         work-root: {}\n    authorized-keys: {}\n",
        room.at("calls.jsonl").display(),
        sshd.port,
        sshd.user,
        sshd.work_root.display(),
        keys.display()
    );
    room.configure(&settings);
    let ended =
        room.crabbox(&repo, ["run", "--", "sh", "-c", "cat hello.txt; exit 12"]).run().expect(12);
    assert_eq!(ended.out(), "hello\n");
    let calls = std::fs::read_to_string(room.at("calls.jsonl")).unwrap();
    assert_eq!(calls.matches("\"method\":\"lease.acquire\"").count(), 1, "{calls}");
    assert!(calls.contains("\"method\":\"lease.release\""), "{calls}");
    drop(sshd);
    room.assert_nothing_left();
}

#[test]
fn a_second_interrupt_gives_up_a_release_that_stalls_and_cleanup_finishes_it() {
    let (room, repo) = scripted("");
    let calls = room.at("calls.jsonl");
    let settings = |release: &str| {
        let state = calls.display();
        room.configure(&format!(
            "provider: scripted-delegated\nproviders:\n  scripted-delegated:\n    state-file: {state}\n    release: {release}\n"
        ));
    };
    settings("stall");
    let running = room.crabbox(&repo, ["run", "--", "true"]).limit(Duration::from_secs(60)).start();
    let began = Instant::now();
    while !std::fs::read_to_string(&calls).unwrap_or_default().contains("run.stop") {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", running.stderr());
        std::thread::yield_now();
    }
    let asked = Instant::now();
    running.signal(Signal::INT);
    running.signal(Signal::TERM);
    let ended = running.wait().says(&["was not given back in time", "crabbox cleanup"]);
    assert_eq!(ended.code, 0, "the command itself had succeeded: {ended}");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    settings("ok");
    let _finished = room.crabbox(&repo, ["cleanup"]).ok();
    room.assert_no_claims();
}
