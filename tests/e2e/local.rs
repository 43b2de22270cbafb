//! `crabbox run` on a box on this machine.

use std::fs;

use crabbox_tests::Room;

#[test]
fn a_dirty_checkout_is_what_the_command_sees_and_its_status_comes_through() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join("hello.txt"), "changed\n").unwrap();
    fs::write(repo.join("new.txt"), "untracked\n").unwrap();
    let ended = room
        .crabbox(&repo, ["run", "--", "sh", "-c", "cat hello.txt new.txt; echo bad >&2; exit 37"])
        .run();
    assert_eq!((ended.code, ended.out().as_str()), (37, "changed\nuntracked\n"), "{ended}");
    assert!(ended.err().contains("bad\n"), "{ended}");
    room.assert_nothing_left();
}
