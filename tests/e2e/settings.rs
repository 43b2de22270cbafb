//! Settings: who wins, who may speak, what is shown.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crabbox_tests::{Call, Room, eventually};
use rustix::process::Signal;

/// One setting and its origin, as `config show --json` tells them.
fn shown(call: Call) -> serde_json::Value {
    call.ok().json()
}

fn show(room: &Room, repo: &Path) -> Call {
    room.crabbox(repo, ["config", "show", "--json"])
}

#[test]
fn flags_beat_environment_beats_repository_beats_user_beats_default() {
    let room = Room::new();
    let repo = room.repo("app");
    let warn = |call: Call| shown(call)["sync"]["warnFiles"].clone();
    assert_eq!(warn(show(&room, &repo)), 50_000);
    room.configure("sync:\n  warnFiles: 1001\n");
    assert_eq!(warn(show(&room, &repo)), 1001);
    fs::write(repo.join("crabbox.yaml"), "sync:\n  warnFiles: 1002\n").unwrap();
    assert_eq!(warn(show(&room, &repo)), 1002);
    fs::write(repo.join(".crabbox.yaml"), "sync:\n  warnFiles: 1003\n").unwrap();
    assert_eq!(warn(show(&room, &repo)), 1003);
    let sub = repo.join("deep/er");
    fs::create_dir_all(&sub).unwrap();
    assert_eq!(warn(show(&room, &sub)), 1003, "found at the root of the work tree");
    assert_eq!(warn(show(&room, &repo).env("CRABBOX_SYNC_WARN_FILES", "1004")), 1004);
    let text =
        room.crabbox(&repo, ["config", "show"]).env("CRABBOX_SYNC_WARN_FILES", "1004").ok().out();
    let line = text.lines().find(|l| l.contains("warnFiles")).unwrap_or_default();
    assert!(line.contains("1004") && line.contains("CRABBOX_SYNC_WARN_FILES"), "{text}");
}

#[test]
fn one_file_can_replace_the_whole_search() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join(".crabbox.yaml"), "sync:\n  warnFiles: 1003\n").unwrap();
    let file = room.at("only.yaml");
    fs::write(&file, "sync:\n  warnBytes: 77\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let json = shown(show(&room, &repo).env("CRABBOX_CONFIG", &file));
    assert_eq!(
        (&json["sync"]["warnBytes"], &json["sync"]["warnFiles"]),
        (&77.into(), &50_000.into()),
        "{json}"
    );
}

#[test]
fn secrets_are_shown_only_as_configured_or_missing() {
    let room = Room::new();
    let repo = room.repo("app");
    assert_eq!(shown(show(&room, &repo))["brokerAuth"], "missing");
    let secret = "very-secret-token-of-this-test";
    room.configure(&format!("broker:\n  url: https://broker.invalid\n  token: {secret}\n"));
    let ended = show(&room, &repo).ok();
    assert_eq!(ended.json()["brokerAuth"], "configured", "{ended}");
    let text = room.crabbox(&repo, ["config", "show"]).ok();
    assert!(!ended.out().contains(secret) && !text.out().contains(secret), "{text}");
}

#[test]
fn a_configuration_others_can_read_is_warned_of() {
    let room = Room::new();
    let repo = room.repo("app");
    room.configure("profile: mine\n");
    let file = room.at("config/crabbox/config.yaml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let view = room.crabbox(&repo, ["doctor", "--json"]).run().expect(1).json();
    assert_eq!(view["healthy"], false, "{view}");
    assert!(view.to_string().contains("config.yaml"), "{view}");
}

#[test]
fn only_so_many_runs_are_kept() {
    let room = Room::new();
    room.configure("history:\n  maxRuns: 2\n");
    let dir = room.at("plain");
    fs::create_dir(&dir).unwrap();
    for _ in 0..4 {
        let _ = room.crabbox(&dir, ["run", "--", "true"]).ok();
    }
    let runs = room.crabbox(&dir, ["history", "--json"]).ok().json();
    let count = runs.as_array().map_or(0, Vec::len);
    assert!((2..=3).contains(&count), "{count} runs are kept");
}

#[test]
fn excludes_of_every_layer_add_up() {
    let room = Room::new();
    let repo = room.repo("app");
    room.configure("sync:\n  exclude: [user-only]\n");
    fs::write(repo.join(".crabbox.yaml"), "sync:\n  exclude: [repo-only]\n").unwrap();
    for name in ["user-only", "repo-only", "other"] {
        fs::write(repo.join(name), "x").unwrap();
    }
    let ended = room.crabbox(&repo, ["run", "--", "ls"]).ok();
    assert_eq!(ended.out(), "hello.txt\nother\n");
    assert!(ended.err().contains("left out"), "{ended}");
}

/// A provider whose service is at a port of this machine.
fn with_service(room: &Room, port: u16, more: &str) {
    room.configure(&format!(
        "provider: hetzner\nhetzner:\n  apiUrl: http://127.0.0.1:{port}/v1\n{more}"
    ));
}

#[test]
fn what_is_wrong_in_a_providers_block_is_told_with_its_place_before_the_provider_is_asked() {
    let room = Room::new();
    let repo = room.repo("app");
    let call = |words: &[&str]| room.crabbox(&repo, words).env("HCLOUD_TOKEN", "t0ken");
    with_service(&room, 1, "  locaton: ash\n");
    for words in [&["run", "--", "true"][..], &["list"], &["cleanup"]] {
        let told = call(words).run().err();
        let place = "config.yaml:4: `hetzner.locaton`: the provider has no such setting; perhaps `location` was meant";
        assert_eq!(told.matches(place).count(), 1, "{told}");
    }
    with_service(&room, 1, "  ipv4: perhaps\n");
    let wrong = call(&["run", "--", "true"]).run().expect(2);
    assert!(wrong.err().contains("config.yaml:4: bad setting for provider hetzner"), "{wrong}");
    with_service(&room, 1, "");
    let wrong = call(&["list"]).env("CRABBOX_HETZNER_IPV6", "perhaps").run().expect(2);
    assert!(wrong.err().contains("env CRABBOX_HETZNER_IPV6: `ipv6`"), "{wrong}");
    let shown = call(&["config", "show"]).env("CRABBOX_HETZNER_IPV6", "perhaps").ok();
    assert!(shown.out().contains("unused ipv6 (env CRABBOX_HETZNER_IPV6)"), "{shown}");
}

#[test]
fn a_service_that_never_answers_holds_nobody_who_does_not_want_to_wait() {
    let room = Room::new();
    let repo = room.repo("app");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    with_service(&room, listener.local_addr().unwrap().port(), "");
    for words in [&["list"][..], &["sizes"], &["doctor"], &["stop", "some"], &["cleanup"]] {
        let waiting = room.crabbox(&repo, words).env("HCLOUD_TOKEN", "t0ken").start();
        let mut asked = None;
        eventually("a question", Duration::from_secs(30), || {
            asked = listener.accept().ok();
            asked.is_some()
        });
        waiting.signal(Signal::INT);
        let ended = waiting.wait().expect(130);
        assert!(ended.err().contains("interrupted"), "{words:?}: {ended}");
    }
}

#[test]
fn a_cleanup_that_could_not_look_is_no_success() {
    let room = Room::new();
    let repo = room.repo("app");
    with_service(&room, 1, "");
    let call = room.crabbox(&repo, ["cleanup", "--json"]).env("HCLOUD_TOKEN", "t0ken");
    let ended = call.run().expect(1);
    assert_eq!(ended.json()["unseen"], serde_json::json!(["hetzner"]), "{ended}");
    assert!(ended.err().contains("could not be looked at"), "{ended}");
}
