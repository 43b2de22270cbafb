//! Our own provider as a component: the same transcripts, the same kit, and a real run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crabbox_plugin_sdk::testkit::{replay_binary, replay_command};
use crabbox_tests::{IsloFake, Room, Sshd, binary};

use crate::guest::{our_component, shared_cache};

fn plugin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/ssh")
}

#[test]
fn the_same_transcripts_hold_for_the_program_and_the_component() {
    if our_component().is_none() {
        return;
    }
    for (provider, powers, sessions) in [("ssh", &[][..], 12), ("islo", &["--allow", "http"], 10)] {
        assert!(replayed(provider, powers) >= sessions, "{provider}");
    }
}

/// Replays every session of a provider's transcripts with both.
fn replayed(provider: &str, powers: &[&str]) -> usize {
    let folder = plugin().join(format!("../{provider}/tests/transcripts"));
    let program = format!("crabbox-provider-{provider}");
    let mut count = 0;
    for file in fs::read_dir(folder).unwrap().flatten() {
        let text = fs::read_to_string(file.path()).unwrap();
        let parted = file.file_name() == "refused.jsonl";
        let sessions: Vec<&str> = if parted { text.split("\n\n").collect() } else { vec![&text] };
        for session in sessions {
            let mut runner = Command::new(binary("crabbox-wasm-runner"));
            let component = binary(&format!("{program}.wasm"));
            runner.env_clear().env("XDG_CACHE_HOME", shared_cache());
            runner.args(powers).arg(component);
            replay_command(runner, session)
                .unwrap_or_else(|e| panic!("{}: {e}", file.path().display()));
            replay_binary(&binary(&program), session).unwrap();
            count += 1;
        }
    }
    count
}

/// A folder with a provider as a component and nothing else.
fn only_component(room: &Room, provider: &str) -> PathBuf {
    let from = plugin().join(format!("../{provider}"));
    let folder = room.at("data/plugins").join(provider);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(from.join("config.schema.json"), folder.join("config.schema.json")).unwrap();
    let component = binary(&format!("crabbox-provider-{provider}.wasm"));
    fs::copy(component, folder.join("provider.wasm")).unwrap();
    let manifest = fs::read_to_string(from.join("crabbox-plugin.toml")).unwrap();
    let (head, grants) = (manifest.split("[[artifact]]").next(), manifest.split("[grants]").nth(1));
    let artifact = "[[artifact]]\nruntime = \"wasm\"\npath = \"provider.wasm\"\n";
    let grants = grants.map(|grants| format!("[grants]{grants}")).unwrap_or_default();
    let text = format!("{}{artifact}{grants}", head.unwrap());
    fs::write(folder.join("crabbox-plugin.toml"), text).unwrap();
    folder
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
    if our_component().is_none() {
        return;
    }
    let room = Room::new();
    let sshd = Sshd::start(&room);
    room.configure(&sshd.config());
    run_with(&room, &only_component(&room, "ssh"));
}

#[test]
fn a_command_runs_at_a_service_through_a_component_that_sees_no_key() {
    if our_component().is_none() {
        return;
    }
    let room = Room::new();
    let islo = IsloFake::start(&room);
    run_with(&room, &only_component(&room, "islo"));
    assert_eq!(islo.boxes(), [""; 0]);
}

#[test]
fn the_component_passes_the_kit() {
    if our_component().is_none() {
        return;
    }
    let room = Room::new();
    let folder = plugin().display().to_string();
    let words = [
        "plugin",
        "test",
        &folder,
        "--runtime",
        "wasm",
        "--patience",
        "10",
        "--set",
        "host=127.0.0.1",
    ];
    let ended = room
        .crabbox(room.path(), words)
        .env("XDG_CACHE_HOME", shared_cache().display().to_string())
        .limit(Duration::from_secs(300))
        .run();
    assert_eq!(ended.code, 0, "{ended}");
}
