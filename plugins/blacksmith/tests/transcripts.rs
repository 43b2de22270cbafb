//! Replays the golden transcripts, in process and against the real program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use crabbox_plugin_sdk::testkit::{replay, replay_binary};

fn both(transcript: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_crabbox-provider-blacksmith"));
    replay(crabbox_provider_blacksmith::plugin(), transcript).unwrap();
    replay_binary(program, transcript).unwrap();
}

#[test]
fn a_testbox_is_made_used_and_ended() {
    both(include_str!("transcripts/testbox.jsonl"));
}

#[test]
fn what_makes_no_sense_or_is_not_ours_is_refused_and_touches_nothing() {
    let sessions: Vec<_> = include_str!("transcripts/refused.jsonl").split("\n\n").collect();
    assert!(sessions.len() >= 11);
    sessions.into_iter().for_each(both);
}
