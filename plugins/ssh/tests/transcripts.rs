//! Replays the golden transcripts, in process and against the real program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use crabbox_plugin_sdk::testkit::{replay, replay_binary};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_crabbox-provider-ssh"))
}

fn both(transcript: &str) {
    replay(crabbox_provider_ssh::plugin(), transcript).unwrap();
    replay_binary(program(), transcript).unwrap();
}

#[test]
fn a_configured_host_lives_through_every_method() {
    both(include_str!("transcripts/host.jsonl"));
}

#[test]
fn an_alias_leaves_everything_to_the_users_ssh_configuration() {
    both(include_str!("transcripts/alias.jsonl"));
}

#[test]
fn a_chosen_id_and_system_win() {
    both(include_str!("transcripts/own-id.jsonl"));
}

#[test]
fn a_lease_remembers_its_host_without_any_settings() {
    both(include_str!("transcripts/no-host.jsonl"));
}

#[test]
fn a_host_no_longer_configured_is_absent_unless_remembered() {
    both(include_str!("transcripts/other-host.jsonl"));
}

#[test]
fn dangerous_and_senseless_settings_are_refused_at_once() {
    let sessions: Vec<_> = include_str!("transcripts/refused.jsonl").split("\n\n").collect();
    assert!(sessions.len() >= 8);
    for session in sessions {
        replay(crabbox_provider_ssh::plugin(), session).unwrap();
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "starts the plugin as a person would")]
fn started_by_hand_it_says_one_line_and_exits_64() {
    let output = std::process::Command::new(program()).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(output.stdout, b"");
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
}
