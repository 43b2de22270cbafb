//! Islo's own SDK as a second client of the small Islo: what the plugin is tested against is no fancy of ours.

use std::time::Duration;

use crabbox_tests::{ISLO_KEY, IsloFake, Room, binaries, gone_without};

#[test]
fn islos_own_sdk_makes_runs_copies_and_removes_at_the_small_islo() {
    if gone_without("CRABBOX_TEST_SDK", "Islo's Python SDK") {
        return;
    }
    let python = binaries().join("../clients/bin/python");
    assert!(python.is_file(), "{} is missing: ./test.sh installs it", python.display());
    let room = Room::new();
    let islo = IsloFake::alone();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/islo/fake/second_client.py");
    let call = room.call(python).args([script, ISLO_KEY, &islo.url()]);
    let ended = call.env("PYTHONDONTWRITEBYTECODE", "1").limit(Duration::from_secs(120)).ok();
    assert_eq!(ended.out(), "created, listed, ran, uploaded, deleted\n", "{ended}");
    assert_eq!(islo.boxes(), [""; 0]);
}
