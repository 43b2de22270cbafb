//! Our own provider as a component: the same transcripts, the same kit, and a real run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crabbox_plugin_sdk::testkit::{replay_binary, replay_command};
use crabbox_tests::{Blacksmith, Ended, IsloFake, Room, Sshd, binary};

use crate::guest::{ECHO, Guest, our_component, shared_cache};

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

/// A folder whose component and program are these.
fn twins(room: &Room, component: &Path, program: &str) -> PathBuf {
    let folder = room.at("data/plugins/twins");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(plugin("ssh").join("config.schema.json"), folder.join("config.schema.json")).unwrap();
    fs::copy(component, folder.join("provider.wasm")).unwrap();
    fs::write(folder.join("provider"), program).unwrap();
    fs::set_permissions(folder.join("provider"), fs::Permissions::from_mode(0o755)).unwrap();
    let manifest = fs::read_to_string(plugin("ssh").join("crabbox-plugin.toml")).unwrap();
    let (head, grants) = (manifest.split("[[artifact]]").next(), manifest.split("[grants]").nth(1));
    let grants = grants.map(|grants| format!("[grants]{grants}")).unwrap_or_default();
    let artifacts = "[[artifact]]\nruntime = \"wasm\"\npath = \"provider.wasm\"\n\n[[artifact]]\nruntime = \"stdio\"\npath = \"provider\"\n";
    let text = format!("{}{artifacts}{grants}", head.unwrap());
    fs::write(folder.join("crabbox-plugin.toml"), text).unwrap();
    folder
}

/// The kit's word on one check of a folder's component.
fn checked(room: &Room, folder: &Path, check: &str) -> Ended {
    let folder = folder.display().to_string();
    let words = ["plugin", "test", &folder, "--runtime", "wasm", "--only", check];
    let call = room.crabbox(room.path(), words.iter().chain(&["--set", "host=127.0.0.1"]));
    let cache = shared_cache().display().to_string();
    call.env("XDG_CACHE_HOME", cache).limit(Duration::from_secs(120)).run()
}

#[test]
fn a_component_that_answers_otherwise_than_its_program_is_found_out() {
    let Some(component) = our_component("ssh") else { return };
    let room = Room::new();
    let program = binary("crabbox-provider-ssh").display().to_string();
    let honest = twins(&room, &component, &format!("#!/bin/sh\nexec {program}\n"));
    let _ = checked(&room, &honest, "W3").expect(0).says(&["1 passed"]);
    let filter = "sed -u 's/\"complete\":true/\"complete\":false/'";
    let other = twins(&room, &component, &format!("#!/bin/sh\n{program} | {filter}\n"));
    let told = checked(&room, &other, "W3").expect(1);
    assert!(told.out().contains("FAIL  W3"), "{told}");
}

#[test]
fn a_component_that_lets_one_call_hold_up_another_is_found_out() {
    let room = Room::new();
    // The seventh letter tells lease.list from lease.acquire.
    let stuck = Guest {
        body: "(if (i32.eq (i32.load8_u offset=6 (local.get $method)) (i32.const 108)) (then (loop $for_ever (br $for_ever))))
               (i32.store8 (i32.const 1024) (i32.const 0))
               (i32.store (i32.const 1028) (local.get $ptr)) (i32.store (i32.const 1032) (local.get $len))",
        ..ECHO
    };
    let component = room.at("stuck.wasm");
    fs::write(&component, stuck.wasm()).unwrap();
    let told = checked(&room, &twins(&room, &component, "#!/bin/sh\n"), "W6").expect(1);
    assert!(told.out().contains("FAIL  W6"), "{told}");
}
