//! The Daytona provider, from the command line to a small Daytona that really runs commands.

mod faults;
mod kit;
mod runs;
mod secrets;
mod shells;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_tests::{DaytonaFake, Ended, Room};

/// A room with a Daytona, and a checkout with changes that nobody committed.
pub(crate) fn stage() -> (Room, DaytonaFake, PathBuf) {
    let room = Room::new();
    let daytona = DaytonaFake::start(&room);
    let repo = room.repo("app");
    fs::write(repo.join("hello.txt"), "hello\nchanged\n").unwrap();
    fs::write(repo.join("new file.txt"), "new\n").unwrap();
    (room, daytona, repo)
}

/// A box that stays: its slug.
pub(crate) fn warm(room: &Room, repo: &Path) -> String {
    let ended = room.crabbox(repo, ["warmup", "--json"]).limit(Duration::from_secs(60)).ok();
    ended.json()["slug"].as_str().unwrap().to_owned()
}

pub(crate) fn on(room: &Room, repo: &Path, id: &str, line: &str) -> Ended {
    let words = ["run", "--id", id, "--timing-json", "--", "sh", "-c", line];
    room.crabbox(repo, words).limit(Duration::from_secs(60)).run()
}
