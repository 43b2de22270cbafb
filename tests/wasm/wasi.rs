//! A WASI command speaks for itself, and the world it is in is empty.

use std::fs;
use std::path::Path;

use crabbox_plugin_sdk::testkit::replay_command;

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
