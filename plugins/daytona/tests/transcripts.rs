//! Replays the golden transcripts, in process and against the real program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use crabbox_plugin_sdk::testkit::{replay, replay_binary};

fn both(transcript: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_crabbox-provider-daytona"));
    replay(crabbox_provider_daytona::plugin(), transcript).unwrap();
    replay_binary(program, transcript).unwrap();
}

#[test]
fn a_sandbox_is_made_let_into_and_removed() {
    both(include_str!("transcripts/sandbox.jsonl"));
}

#[test]
fn what_makes_no_sense_or_is_not_ours_is_refused_and_touches_nothing() {
    let sessions: Vec<_> = include_str!("transcripts/refused.jsonl").split("\n\n").collect();
    assert!(sessions.len() >= 7);
    sessions.into_iter().for_each(both);
}
