//! The Daytona provider, from the command line to a small Daytona that really runs commands.

mod faults;
mod kit;
mod runs;
mod secrets;
mod shells;

use std::path::PathBuf;

use crabbox_tests::sandboxes::{dirty, on, warm};
use crabbox_tests::{DaytonaFake, Room};

/// A room with a Daytona, and a checkout with changes that nobody committed.
pub(crate) fn stage() -> (Room, DaytonaFake, PathBuf) {
    let room = Room::new();
    let daytona = DaytonaFake::start(&room);
    let repo = dirty(&room);
    (room, daytona, repo)
}
