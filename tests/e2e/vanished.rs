//! Boxes and state that vanish under crabbox: it notices, and keeps nothing of them.

use std::fs;
use std::time::Duration;

use crabbox_tests::Room;
use rustix::process::{Signal, kill_process};

/// Ends every process of the room's boxes as a crash of the machine would.
fn crash(room: &Room) {
    for (pid, line) in room.processes() {
        if line.contains("--keeper") || line.contains("--serve-box") {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    room.assert_no_process_within(Duration::from_secs(10));
}

#[test]
fn a_kept_box_that_is_gone_is_forgotten_by_cleanup() {
    let room = Room::new();
    let repo = room.repo("app");
    let _ = crate::local::warm(&room, &repo);
    crash(&room);
    let boxes = room.call("find").arg(room.at("state")).args(["-type", "d", "-name", "cbx_*"]).ok();
    for folder in boxes.out().lines() {
        let _ = fs::remove_dir_all(folder);
    }
    let planned = room.crabbox(&repo, ["cleanup", "--dry-run"]).ok();
    assert!(planned.out().contains("its box is gone"), "{planned}");
    assert_eq!(room.state_files("claims").len(), 1, "a dry run changes nothing");
    let _ = room.crabbox(&repo, ["cleanup"]).ok();
    room.assert_nothing_left();
}

#[test]
fn a_box_whose_folder_was_removed_ends_by_itself() {
    let room = Room::new();
    let repo = room.repo("app");
    let _ = crate::local::warm(&room, &repo);
    fs::remove_dir_all(room.at("state")).expect("the state is there");
    room.assert_no_process_within(Duration::from_secs(20));
}

#[test]
fn a_box_that_dies_young_is_missed_soon() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = crate::local::warm(&room, &repo);
    crash(&room);
    let ended = room.crabbox(&repo, ["run", "--id", &slug, "--", "true"]);
    let ended = ended.limit(Duration::from_secs(40)).run();
    assert!(ended.code != 0 && !ended.err().contains("panicked"), "{ended}");
    let _ = room.crabbox(&repo, ["stop", &slug]).ok();
    room.assert_nothing_left();
}

#[test]
fn output_that_cannot_be_written_is_not_lost_in_silence() {
    if !std::path::Path::new("/dev/full").exists() {
        return; // only Linux has a device that is always full
    }
    let room = Room::new();
    let repo = room.repo("app");
    let crabbox = crabbox_tests::binary("crabbox-under-test");
    let script = format!("exec '{}' run -- echo hi >/dev/full", crabbox.display());
    let said = room.call("sh").dir(&repo).args(["-c", &script]).run().expect(1);
    let _ = said.says(&["output is lost here", "cannot write standard output"]);
    let run = &room.crabbox(&repo, ["history", "--json"]).ok().json()[0];
    assert_eq!((&run["exitCode"], &run["by"]), (&1.into(), &"crabbox".into()), "{run}");
    let script = format!("exec '{}' history >/dev/full", crabbox.display());
    let _ = room.call("sh").dir(&repo).args(["-c", &script]).run().expect(1);
}
