//! Our own provider as a component: the same transcripts, the same kit, and a real run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crabbox_plugin_sdk::testkit::{replay_binary, replay_command};
use crabbox_tests::{Blacksmith, IsloFake, Room, Sshd, binary};

use crate::guest::{our_component, shared_cache};

fn plugin(provider: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(provider)
}

#[test]
fn the_same_transcripts_hold_for_the_program_and_the_component() {
    let http: &[&str] = &["--allow", "http"];
    let exec: &[&str] = &["--allow", "exec"];
    for (provider, powers, least) in [
        ("ssh", &[][..], 12),
        ("aws", http, 5),
        ("hetzner", http, 6),
        ("islo", http, 10),
        ("azure", http, 7),
        ("blacksmith", exec, 7),
    ] {
        if let Some(count) = replayed(provider, powers) {
            assert!(count >= least, "{provider}: {count}");
        }
    }
}

/// Replays every transcript of a provider with its program and its component; how many sessions there were.
fn replayed(provider: &str, powers: &[&str]) -> Option<usize> {
    let component = our_component(provider)?;
    let program = binary(&format!("crabbox-provider-{provider}"));
    let mut count = 0;
    for file in fs::read_dir(plugin(provider).join("tests/transcripts")).unwrap().flatten() {
        let text = fs::read_to_string(file.path()).unwrap();
        let parted = file.file_name() == "refused.jsonl";
        let sessions: Vec<&str> = if parted { text.split("\n\n").collect() } else { vec![&text] };
        for session in sessions {
            let mut runner = Command::new(binary("crabbox-wasm-runner"));
            runner.env_clear().env("XDG_CACHE_HOME", shared_cache()).args(powers).arg(&component);
            replay_command(runner, session)
                .unwrap_or_else(|e| panic!("{}: {e}\n{session}", file.path().display()));
            replay_binary(&program, session).unwrap();
            count += 1;
        }
    }
    Some(count)
}

/// A folder with a provider as a component and nothing else.
pub(crate) fn only_component(room: &Room, provider: &str) -> Option<PathBuf> {
    let component = our_component(provider)?;
    let folder = room.at("data/plugins").join(provider);
    fs::create_dir_all(&folder).unwrap();
    let schema = plugin(provider).join("config.schema.json");
    fs::copy(schema, folder.join("config.schema.json")).unwrap();
    fs::copy(component, folder.join("provider.wasm")).unwrap();
    let manifest = fs::read_to_string(plugin(provider).join("crabbox-plugin.toml")).unwrap();
    let (head, grants) = (manifest.split("[[artifact]]").next(), manifest.split("[grants]").nth(1));
    let artifact = "[[artifact]]\nruntime = \"wasm\"\npath = \"provider.wasm\"\n";
    let grants = grants.map(|grants| format!("[grants]{grants}")).unwrap_or_default();
    let text = format!("{}{artifact}{grants}", head.unwrap());
    fs::write(folder.join("crabbox-plugin.toml"), text).unwrap();
    Some(folder)
}

fn run_with(room: &Room, folder: &Path) {
    let repo = room.repo("app");
    let dev = folder.display().to_string();
    let words = ["run", "--plugin-dev", &dev, "--", "sh", "-c", "cat hello.txt; exit 3"];
    let ran = room
        .crabbox(&repo, words)
        .env("XDG_CACHE_HOME", shared_cache().display().to_string())
        .limit(Duration::from_secs(120))
        .run()
        .expect(3);
    assert_eq!(ran.out(), "hello\n", "{ran}");
}

#[test]
fn a_run_goes_through_a_provider_that_is_a_component() {
    let room = Room::new();
    let Some(folder) = only_component(&room, "ssh") else { return };
    let sshd = Sshd::start(&room);
    room.configure(&sshd.config());
    run_with(&room, &folder);
}

#[test]
fn a_command_runs_at_a_service_through_a_component_that_sees_no_key() {
    let room = Room::new();
    let Some(folder) = only_component(&room, "islo") else { return };
    let islo = IsloFake::start(&room);
    run_with(&room, &folder);
    assert_eq!(islo.boxes(), [""; 0]);
}

#[test]
fn a_command_runs_in_a_testbox_through_a_component_that_sees_no_key() {
    let room = Room::new();
    let Some(folder) = only_component(&room, "blacksmith") else { return };
    let smith = Blacksmith::start(&room, 1);
    run_with(&room, &folder);
    assert_eq!(smith.boxes(), []);
}

#[test]
fn the_component_of_ssh_passes_the_kit() {
    if our_component("ssh").is_none() {
        return;
    }
    let room = Room::new();
    let folder = plugin("ssh").display().to_string();
    let words = ["plugin", "test", &folder, "--runtime", "wasm", "--patience", "10"];
    let ended = room
        .crabbox(room.path(), words.iter().chain(&["--set", "host=127.0.0.1"]))
        .env("XDG_CACHE_HOME", shared_cache().display().to_string())
        .limit(Duration::from_secs(300))
        .run();
    assert_eq!(ended.code, 0, "{ended}");
}
