//! Golden transcripts, in process and against the real program.

use std::path::Path;

use crabbox_plugin_sdk::testkit::{replay, replay_binary};

#[test]
fn what_cannot_be_is_refused_and_nothing_is_asked() {
    let program = Path::new(env!("CARGO_BIN_EXE_crabbox-provider-aws"));
    for session in include_str!("transcripts/refused.jsonl").split("\n\n") {
        replay(crabbox_provider_aws::plugin(), session)
            .unwrap_or_else(|e| panic!("{e}\n{session}"));
        replay_binary(program, session).unwrap();
    }
}
