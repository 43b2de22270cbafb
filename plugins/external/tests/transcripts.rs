//! Replays golden transcripts: what an adapter is asked, word for word, and what comes of its answers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crabbox_plugin_sdk::testkit::replay;

fn replay_all(transcripts: &str) -> usize {
    let sessions: Vec<_> = transcripts.split("\n\n").collect();
    for session in &sessions {
        replay(crabbox_provider_external::plugin(|_| None), session).unwrap();
    }
    sessions.len()
}

#[test]
fn an_adapter_is_asked_in_the_words_of_version_1() {
    replay_all(include_str!("transcripts/protocol.jsonl"));
}

#[test]
fn settings_that_make_no_sense_are_refused_at_once() {
    assert!(replay_all(include_str!("transcripts/refused.jsonl")) >= 7);
}
