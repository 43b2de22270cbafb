//! The conformance kit on the provider, with recorded exchanges: as a program, and as a component.

use std::time::Duration;

use crabbox_tests::{Room, gone_without};

use super::plugin;

/// Two secrets are asked for, and one of them is enough: the other is never used.
const EXPECTED: &str = "M5";

fn passes(runtime: &str) {
    let room = Room::new();
    let id = "00000001-0000-4000-8000-000000000000";
    let folder = plugin().display().to_string();
    let cassette = plugin().join("tests/cassette.jsonl").display().to_string();
    let set = ["subscription-id", "tenant-id", "client-id"].map(|name| format!("{name}={id}"));
    let mut words =
        vec!["plugin", "test", "--json", &folder, "--runtime", runtime, "--patience", "10"];
    words.extend(["--cassette", &cassette, "--expect", EXPECTED]);
    words.extend(set.iter().flat_map(|set| ["--set", set]));
    let ended = room.crabbox(room.path(), words).limit(Duration::from_secs(300)).run().expect(0);
    let passed = ended.json()["providers"][0]["passed"].as_u64().unwrap();
    assert!(passed >= 50, "only {passed} checks passed: {ended}");
}

#[test]
fn the_program_passes_the_kit_and_leaves_nothing_after_a_crash_at_any_answer() {
    passes("stdio");
}

#[test]
fn the_component_passes_the_kit_and_leaves_nothing_after_a_crash_at_any_answer() {
    if !gone_without("CRABBOX_TEST_WASM", "a component of ours") {
        passes("wasm");
    }
}
