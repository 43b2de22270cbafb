//! Golden transcripts, in process and against the real program.

use std::path::Path;

use crabbox_plugin_sdk::testkit::{replay, replay_binary};

fn both(transcript: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_crabbox-provider-aws"));
    for session in transcript.split("\n\n") {
        replay(crabbox_provider_aws::plugin(), session)
            .unwrap_or_else(|e| panic!("{e}\n{session}"));
        replay_binary(program, session).unwrap_or_else(|e| panic!("{e}\n{session}"));
    }
}

#[test]
fn an_instance_lives_through_every_method() {
    both(include_str!("transcripts/instance.jsonl"));
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_asked() {
    both(include_str!("transcripts/refused.jsonl"));
}
