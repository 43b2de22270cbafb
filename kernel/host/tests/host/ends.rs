//! However a plugin ends, calls fail with its last words and no process of its group is left.

use std::time::{Duration, Instant};

use crabbox_kernel::error::KernelError;
use crabbox_kernel::ports::{Provider, Stop};
use crabbox_schemas::error::{ErrorCode, Outcome};
use serde_json::json;

use crate::stage::{Stage, lease, told};

async fn acquire(stage: &Stage, script: &str) -> KernelError {
    let session = stage.open(json!({"acquire": script})).await.unwrap();
    let (mut trail, mut events) = (stage.trail(), Vec::new());
    let wanted = stage.wanted();
    let error =
        session.acquire(&wanted, &mut trail, &mut events, &Stop::never()).await.unwrap_err();
    let later = session.touch(&lease(), "running").await.unwrap_err();
    assert_eq!(later.outcome, Some(Outcome::NotStarted), "nothing more is sent");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn every_breach_fails_the_call_and_ends_the_plugin() {
    for (script, words) in [
        ("die", "ended unexpectedly (exit code 9)"),
        ("garbage", "a line is not a JSON object: Segmentation fault?"),
        ("bom", "not a JSON object"),
        ("not-utf8", "not UTF-8"),
        ("batch", "not a JSON object"),
        ("deep", "nested too deeply"),
        ("oversize", "longer than 1048576 bytes: xxx"),
        ("wrong-answer-id", "call 4000000, which was never made"),
        ("fork-holds-stdout", "ended unexpectedly (exit code 9)"),
        ("close-stdout", "ended unexpectedly (signal 9)"),
    ] {
        let stage = Stage::new();
        let error = acquire(&stage, script).await;
        assert_eq!(error.code, ErrorCode::PluginFault, "{script}");
        assert_eq!(error.outcome, Some(Outcome::Uncertain), "{script}");
        assert!(told(&error).contains(words), "{script}: {}", told(&error));
        stage.nobody_is_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_shows_the_last_twenty_lines_of_stderr() {
    let stage = Stage::new();
    let error = acquire(&stage, "die").await;
    assert_eq!(error.causes.len(), 20);
    assert_eq!(error.causes.first().unwrap(), "stderr: last words 10");
    assert_eq!(error.causes.last().unwrap(), "stderr: last words 29");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_line_wastes_no_more_than_the_deadline() {
    let mut stage = Stage::new();
    stage.timeouts.acquire = Duration::from_millis(200);
    stage.timeouts.grace.0 = Duration::from_millis(100);
    let start = Instant::now();
    let error = acquire(&stage, "half-line").await;
    assert_eq!((error.code, error.outcome), (ErrorCode::PluginFault, Some(Outcome::Uncertain)));
    assert!(start.elapsed() < Duration::from_secs(5));
    stage.nobody_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_stderr_does_not_block_the_plugin() {
    let stage = Stage::new();
    let session = stage.open(json!({"acquire": "flood-stderr"})).await.unwrap();
    let (mut trail, mut events) = (stage.trail(), Vec::new());
    session.acquire(&stage.wanted(), &mut trail, &mut events, &Stop::never()).await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_left_the_group_with_our_pipe_cannot_hold_us_up() {
    let stage = Stage::new();
    let start = Instant::now();
    let error = acquire(&stage, "escapee-holds-stdout:4").await;
    assert!(start.elapsed() < Duration::from_secs(3), "waited for the pipe");
    assert!(error.message.contains("exit code 9"), "{error}");
    stage.nobody_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_will_not_go_is_killed() {
    for script in ["stubborn", "ignore-eof"] {
        let stage = Stage::new();
        let session = stage.open(json!({"shutdown": script})).await.unwrap();
        let start = Instant::now();
        session.close().await;
        assert!(start.elapsed() < Duration::from_secs(5), "{script}");
        stage.nobody_is_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_session_leaves_nobody_behind() {
    let stage = Stage::new();
    let session = stage.open(json!({"shutdown": "ignore-eof"})).await.unwrap();
    assert!(cfg!(not(target_os = "linux")) || stage.processes().len() == 1);
    drop(session);
    stage.nobody_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_nobody_waits_for_any_more_is_cancelled_at_the_plugin() {
    let stage = Stage::new();
    let session = stage.open(json!({"doctor": "stall"})).await.unwrap();
    let gave_up = tokio::time::timeout(Duration::from_millis(100), session.doctor()).await;
    assert!(gave_up.is_err());
    assert_eq!(session.list().await.unwrap(), (vec![], true), "the session lives on");
}
