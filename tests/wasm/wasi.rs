//! A WASI command speaks for itself, and the world it is in is empty.

use std::fs;

use crabbox_plugin_sdk::testkit::replay_command;

use crate::guest::{ECHO, HELLO, Stage, call, command_guest, shared_cache};

/// Plays the doctor of the command; exactly these doors must be open.
fn open_doors(more: &[&str], open: &[&str]) -> Option<Stage> {
    let guest = command_guest()?;
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
    Some(stage)
}

#[test]
fn a_command_finds_nothing_but_the_wire() {
    let Some(stage) = open_doors(&[], &["marked"]) else { return };
    assert!(!stage.dir.path().join("files").exists());
}

#[test]
fn a_command_has_the_folder_and_the_variables_it_was_granted() {
    let granted = ["--allow", "files", "--env", "GRANTED", "--env", "UNSET"];
    let open = ["marked", "env.granted", "file.list", "file.write"];
    let Some(stage) = open_doors(&granted, &open) else { return };
    assert_eq!(fs::read(stage.dir.path().join("files/kept")).unwrap(), b"x");
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
