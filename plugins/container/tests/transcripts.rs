//! Replays golden transcripts: every word that is said to Docker and Podman, and what their complaints come to.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use crabbox_plugin_sdk::testkit::replay;
use tempfile::TempDir;

/// A folder of crabbox's programs, with box servers for two processors.
fn programs() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for machine in ["x86_64", "aarch64"] {
        fs::write(dir.path().join(format!("crabbox-box-server-linux-{machine}")), "").unwrap();
    }
    dir
}

/// Replays sessions that are separated by empty lines.
fn replay_all(transcripts: &str) -> usize {
    let programs = programs();
    let sessions: Vec<_> = transcripts.split("\n\n").collect();
    for session in &sessions {
        if let Err(why) = replay(crabbox_provider_container::plugin(programs.path()), session) {
            panic!("{why}\nin:\n{session}");
        }
    }
    sessions.len()
}

#[test]
fn a_box_lives_in_docker() {
    replay_all(include_str!("transcripts/docker.jsonl"));
}

#[test]
fn a_box_lives_in_podman_on_this_machines_network() {
    replay_all(include_str!("transcripts/podman.jsonl"));
}

#[test]
fn a_runtime_that_does_not_answer_hides_no_boxes_of_the_other_and_proves_nothing() {
    replay_all(include_str!("transcripts/both.jsonl"));
}

#[test]
fn what_a_runtime_complains_about_has_the_right_kind_and_leaves_nothing() {
    assert!(replay_all(include_str!("transcripts/complaints.jsonl")) >= 10);
}

#[test]
fn dangerous_and_senseless_settings_are_refused_at_once() {
    assert!(replay_all(include_str!("transcripts/refused.jsonl")) >= 8);
}

#[test]
fn doctor_says_which_runtime_whose_rights_and_what_it_cannot_do() {
    replay_all(include_str!("transcripts/doctor.jsonl"));
}

#[test]
fn an_image_for_a_processor_without_a_box_server_is_refused_before_anything_is_made() {
    let empty = tempfile::tempdir().unwrap();
    let transcript = include_str!("transcripts/podman.jsonl");
    let begin: Vec<_> = transcript.lines().take(10).collect();
    let refused = r#"{"d":"<","match":{"id":2,"error":{"data":{"kind":"unsupported","outcome":"not-started"}}}}"#;
    let session = format!("{}\n{refused}\n", begin.join("\n"));
    replay(crabbox_provider_container::plugin(empty.path()), &session).unwrap();
}
