//! A WASI command speaks for itself, and the world it is in is empty.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crabbox_plugin_sdk::testkit::replay_command;
use crabbox_tests::{Room, binaries, unproven};

use crate::guest::{ECHO, HELLO, Stage, call, command_guests, shared_cache};

/// Plays the doctor of the command, of either generation; exactly these doors must be open.
fn open_doors(more: &[&str], open: &[&str]) -> Option<[Stage; 2]> {
    Some(command_guests()?.map(|guest| doors_of(&guest, more, open)))
}

fn doors_of(guest: &Path, more: &[&str], open: &[&str]) -> Stage {
    let stage = Stage::new(&ECHO).with(&["--command"]).with(more);
    fs::copy(guest, stage.dir.path().join("guest.wasm")).unwrap();
    let doors = [
        "env.home",
        "env.path",
        "env.granted",
        "args",
        "file.read",
        "file.list",
        "file.write",
        "file.climb",
        "tcp",
        "udp",
        "lookup",
        "marked",
    ];
    let row = |id: &&str| {
        let status = if open.contains(id) { "ok" } else { "fail" };
        format!(r#"{{"id":"{id}","status":"{status}"}}"#)
    };
    let rows: Vec<_> = doors.iter().map(row).collect();
    let asked = call(2, "doctor", 60_000, "");
    let mut command = stage.command();
    command.env("XDG_CACHE_HOME", shared_cache()).env("GRANTED", "yes").env("PATH", "/bin");
    let transcript = format!(
        r#"{HELLO}{asked}{{"d":"<","match":{{"id":2,"result":{{"checks":[{}]}}}}}}
{{"d":">","m":{{"id":3,"method":"shutdown","params":{{}}}}}}
{{"d":"<","match":{{"id":3,"result":{{}}}}}}
"#,
        rows.join(",")
    );
    replay_command(command, &transcript).unwrap();
    stage
}

#[test]
fn a_command_finds_nothing_but_the_wire() {
    let Some(stages) = open_doors(&[], &["marked"]) else { return };
    assert!(!stages.iter().any(|stage| stage.dir.path().join("files").exists()));
}

#[test]
fn a_command_has_the_folder_and_the_variables_it_was_granted() {
    let granted = ["--allow", "files", "--env", "GRANTED", "--env", "UNSET"];
    let open = ["marked", "env.granted", "file.list", "file.write"];
    let Some(stages) = open_doors(&granted, &open) else { return };
    for stage in stages {
        assert_eq!(fs::read(stage.dir.path().join("files/kept")).unwrap(), b"x");
    }
}

#[test]
fn a_command_that_is_a_whole_provider_passes_the_kit_as_component_and_as_module() {
    let Some(guests) = command_guests() else { return };
    for guest in guests {
        let room = Room::new();
        let folder = room.at("toy");
        fs::create_dir(&folder).unwrap();
        let name = guest.file_name().unwrap().to_string_lossy().replace("guest", "toy");
        fs::copy(guest.with_file_name(name), folder.join("toy.wasm")).unwrap();
        fs::write(folder.join("crabbox-plugin.toml"), TOY).unwrap();
        let words = ["plugin", "test", "--json", "--patience", "10", "toy"];
        let ended = room
            .crabbox(room.path(), words)
            .env("XDG_CACHE_HOME", shared_cache().display().to_string())
            .limit(Duration::from_secs(300))
            .run()
            .expect(0);
        let told = &ended.json()["providers"][0];
        assert_eq!(
            (&told["runtime"], &told["failed"]),
            (&"wasi-stdio".into(), &0.into()),
            "{ended}"
        );
        assert!(told["passed"].as_u64() >= Some(50), "{ended}");
    }
}

/// The manifest of a provider whose boxes are files in its own folder.
const TOY: &str = r#"manifest = 1
id = "example.dev/toy"
version = "1.0.0"
protocols = ["1"]
description = "Boxes that are files"
license = "MIT"

[[provider]]
name = "toy"
kind = "ssh-lease"
targets = ["linux"]

[[artifact]]
runtime = "wasi-stdio"
path = "toy.wasm"

[grants]
powers = ["files"]
"#;

#[test]
fn a_provider_in_go_passes_the_kit_as_a_program_and_as_a_command() {
    let Some(go) = std::env::var_os("CRABBOX_TEST_GO") else {
        return unproven("a WASI command in Go (CRABBOX_TEST_GO names no Go of 1.21 or newer)");
    };
    let room = Room::new();
    let folder = room.at("toy");
    fs::create_dir(&folder).unwrap();
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for file in [
        "plugin-sdk/go/crabbox_plugin.go",
        "plugin-sdk/go/crabbox_plugin_wasip1.go",
        "plugin-sdk/templates/go/go.mod",
        "tests/fixtures/wasi-go/provider.go",
    ] {
        let file = top.join(file);
        fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    let asks_the_host = TOY.replace("powers = [\"files\"]", "");
    let program = "[[artifact]]\nruntime = \"stdio\"\npath = \"toy\"\n\n[grants]";
    let manifest = asks_the_host.replace("[grants]", program);
    fs::write(folder.join("crabbox-plugin.toml"), manifest).unwrap();
    for (made, machine) in
        [("toy", &[][..]), ("toy.wasm", &[("GOOS", "wasip1"), ("GOARCH", "wasm")])]
    {
        let mut build = room.call(&go).args(["build", "-o", made, "."]).dir(&folder);
        for (name, value) in machine {
            build = build.env(name, value);
        }
        build = build.env("GOCACHE", binaries().join("go-cache")).env("GOTOOLCHAIN", "local");
        let _ = build.limit(Duration::from_secs(280)).ok();
    }
    for (runtime, least) in [("stdio", 50), ("wasi-stdio", 55)] {
        let words = ["plugin", "test", "--json", "--patience", "10", "--runtime", runtime, "toy"];
        let cache = shared_cache().display().to_string();
        let call = room.crabbox(room.path(), words).env("XDG_CACHE_HOME", cache);
        let ended = call.limit(Duration::from_secs(300)).run().expect(0);
        let told = &ended.json()["providers"][0];
        assert_eq!((&told["runtime"], &told["failed"]), (&runtime.into(), &0.into()), "{ended}");
        assert!(told["passed"].as_u64() >= Some(least), "{ended}");
    }
}

#[test]
fn a_core_module_is_no_component() {
    let Some([_, module]) = command_guests() else { return };
    let stage = Stage::new(&ECHO);
    fs::copy(module, stage.dir.path().join("guest.wasm")).unwrap();
    let mut command = stage.command();
    command.env("XDG_CACHE_HOME", shared_cache());
    let greeted = HELLO.split_once('\n').unwrap().0;
    let refused =
        r#"{"d":"<","match":{"id":1,"error":{"message":{"$contains":"is no component"}}}}"#;
    replay_command(command, &format!("{greeted}\n{refused}\n")).unwrap();
}

#[test]
fn a_runner_started_by_hand_says_so() {
    for args in [&["--command"][..], &[]] {
        let stage = Stage::new(&ECHO).with(args);
        let ended = stage.command().output().unwrap();
        assert_eq!((ended.status.code(), ended.stdout.len()), (Some(64), 0));
        assert_eq!(String::from_utf8(ended.stderr).unwrap().lines().count(), 1);
    }
}
