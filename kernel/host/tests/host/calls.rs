//! Calls: answers, lies, deadlines, cancels, output.

use std::time::{Duration, Instant};

use crabbox_kernel::event::{Event, Stream};
use crabbox_kernel::ports::{DelegatedRun, Provider, Query, Stop, Urgency};
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::lease::ReleaseOutcome;
use crabbox_schemas::plugin::{Limits, Purpose};
use serde_json::json;

use crate::stage::{Stage, lease, told};

fn query(id: &str) -> Query {
    Query { id: id.into(), known: None, resources: vec![], purpose: Purpose::Use }
}

fn run(command: &[&str]) -> DelegatedRun {
    DelegatedRun {
        run_id: "run_0123456789ab".into(),
        lease: lease(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        env: [("GREETING".to_owned(), "hi there".to_owned())].into(),
        workspace: None,
        timeout_secs: None,
    }
}

fn output(events: &[Event], wanted: Stream) -> Vec<u8> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Output { stream, data, .. } if *stream == wanted => Some(data.to_vec()),
            _ => None,
        })
        .flatten()
        .collect()
}

fn warnings(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Warning { message } => Some(&**message),
            _ => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_is_made_found_listed_touched_and_given_back_across_sessions() {
    let stage = Stage::new();
    let session = stage.open(json!({"ssh-port": 2222, "ssh-user": "crab"})).await.unwrap();
    let (mut trail, mut events) = (stage.trail(), Vec::new());
    let wanted = stage.wanted();
    let made = session.acquire(&wanted, &mut trail, &mut events, &Stop::never()).await.unwrap();
    assert_eq!(made.lease_id, wanted.desired.lease_id);
    assert_eq!(made.ssh.as_ref().map(|ssh| (ssh.port, &*ssh.user)), Some((2222, "crab")));
    session.close().await;

    let session = stage.open(json!({})).await.unwrap();
    assert_eq!(session.resolve(&query("blue-prawn")).await.unwrap().as_ref(), Some(&made));
    assert_eq!(session.resolve(&query("no-such")).await.unwrap(), None);
    assert_eq!(session.list().await.unwrap(), (vec![made.clone()], true));
    assert_eq!(session.touch(&made, "running").await.unwrap().status, "running");
    assert_eq!(session.release(&made).await.unwrap(), ReleaseOutcome::Released);
    assert_eq!(session.release(&made).await.unwrap(), ReleaseOutcome::AlreadyGone);
    session.close().await;
    stage.nobody_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_keep_kind_outcome_and_causes() {
    for (script, code, outcome) in [
        ("fail:capacity:not-started", ErrorCode::Capacity, Outcome::NotStarted),
        ("fail:quota:rolled-back", ErrorCode::Quota, Outcome::RolledBack),
        ("fail:weather", ErrorCode::PluginFault, Outcome::Uncertain),
    ] {
        let stage = Stage::new();
        let session = stage.open(json!({"acquire": script})).await.unwrap();
        let (mut trail, mut events) = (stage.trail(), Vec::new());
        let error = session
            .acquire(&stage.wanted(), &mut trail, &mut events, &Stop::never())
            .await
            .unwrap_err();
        assert_eq!((error.code, error.outcome), (code, Some(outcome)), "{script}");
        assert_eq!(error.causes, ["the script said so"]);
        assert!(error.message.starts_with("scripted: told to fail"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_the_one_asked_for_is_a_fault() {
    for (script, words) in [("lie-id", "its answer is about cbx_0123456789ab"), ("lie-host", "SSH")]
    {
        let stage = Stage::new();
        let config = json!({"acquire": script, "touch": "lie-id", "resolve": "lie-id"});
        let session = stage.open(config).await.unwrap();
        let (mut trail, mut events) = (stage.trail(), Vec::new());
        let wanted = stage.wanted();
        let error =
            session.acquire(&wanted, &mut trail, &mut events, &Stop::never()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::PluginFault);
        assert_eq!(error.outcome, Some(Outcome::Uncertain));
        assert!(told(&error).contains(words), "{}", told(&error));
        let error = session.touch(&lease(), "running").await.unwrap_err();
        assert_eq!(error.code, ErrorCode::PluginFault);
        let error = session.resolve(&query(wanted.desired.lease_id.as_str())).await.unwrap_err();
        assert_eq!((error.code, error.outcome), (ErrorCode::PluginFault, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_session_run_side_by_side_and_a_second_answer_is_ignored() {
    let stage = Stage::new();
    let config = json!({"doctor": "slow-ms:700", "touch": "double-answer"});
    let session = stage.open(config).await.unwrap();
    let lease = lease();
    let start = Instant::now();
    let touches = async {
        for _ in 0..5 {
            session.touch(&lease, "running").await.unwrap();
        }
        start.elapsed()
    };
    let (slow, quick) = tokio::join!(session.doctor(), touches);
    slow.unwrap();
    assert!(quick < Duration::from_millis(700), "the touches waited: {quick:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_past_its_deadline_is_cancelled_and_its_answer_awaited() {
    let mut stage = Stage::new();
    stage.timeouts.acquire = Duration::from_millis(200);
    let session = stage.open(json!({"acquire": "stall"})).await.unwrap();
    let (mut trail, mut events) = (stage.trail(), Vec::new());
    let stop = Stop::never();
    let error = session.acquire(&stage.wanted(), &mut trail, &mut events, &stop).await.unwrap_err();
    assert_eq!(
        (error.code, error.outcome),
        (ErrorCode::ProviderTimeout, Some(Outcome::RolledBack))
    );
    assert!(error.message.contains("took longer than 200ms"), "{error}");
    session.doctor().await.expect("the session lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cancels_and_the_answer_says_what_is_left() {
    let stage = Stage::new();
    let session = stage.open(json!({"acquire": "stall"})).await.unwrap();
    let (raise, stop) = Stop::new();
    raise.send(Urgency::Gentle).unwrap();
    let (mut trail, mut events) = (stage.trail(), Vec::new());
    let error = session.acquire(&stage.wanted(), &mut trail, &mut events, &stop).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::Cancelled, Some(Outcome::RolledBack)));
    session.doctor().await.expect("the session lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_is_ignored_ends_the_plugin_and_the_outcome_is_uncertain() {
    let mut stage = Stage::new();
    stage.timeouts.grace.0 = Duration::from_secs(60);
    let session = stage.open(json!({"acquire": "ignore-cancel"})).await.unwrap();
    let (raise, stop) = Stop::new();
    raise.send(Urgency::Gentle).unwrap();
    let (mut trail, mut events, wanted) = (stage.trail(), Vec::new(), stage.wanted());
    let start = Instant::now();
    let acquire = session.acquire(&wanted, &mut trail, &mut events, &stop);
    let second = async {
        while !stage.calls().iter().any(|call| call["method"] == "lease.acquire") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        raise.send(Urgency::Now).unwrap();
    };
    let (result, ()) = tokio::join!(acquire, second);
    let error = result.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::Cancelled, Some(Outcome::Uncertain)));
    assert!(start.elapsed() < Duration::from_secs(10), "the second stop waits for no grace");
    stage.nobody_is_left().await;
    assert_eq!(session.doctor().await.unwrap_err().code, ErrorCode::PluginFault);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegated_run_streams_bytes_and_ends_with_the_commands_status() {
    let stage = Stage::delegated();
    let session = stage.open(json!({})).await.unwrap();
    let mut events = Vec::new();
    let script = "printf \"$GREETING\\377\"; echo oops >&2; exit 37";
    let run = run(&["sh", "-c", script]);
    let result = session.run(&run, &mut events, &Stop::never()).await.unwrap();
    assert_eq!(result.exit_code, 37);
    assert_eq!(output(&events, Stream::Stdout), b"hi there\xff");
    assert_eq!(output(&events, Stream::Stderr), b"oops\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_flows_as_credit_allows_and_arrives_whole() {
    let mut stage = Stage::delegated();
    stage.limits = Limits { output_window: 100_000, ..Limits::default() };
    let session = stage.open(json!({"run": "flood-output:8"})).await.unwrap();
    let mut events = Vec::new();
    session.run(&run(&["x"]), &mut events, &Stop::never()).await.unwrap();
    let got = output(&events, Stream::Stdout);
    assert_eq!(got.len(), 8 << 20);
    let chunk = 48 * 1024;
    assert!(got.iter().enumerate().all(|(n, &byte)| byte == (n % chunk % 256) as u8));
    assert!(warnings(&events).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_without_credit_breaks_the_protocol() {
    let stage = Stage::delegated();
    let session = stage.open(json!({"run": "overdraft"})).await.unwrap();
    let (raise, stop) = Stop::new();
    let mut slow = Slow(raise);
    let error = session.run(&run(&["x"]), &mut slow, &stop).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::PluginFault, Some(Outcome::Uncertain)));
    assert!(error.message.contains("gave credit for"), "{error}");
    stage.nobody_is_left().await;
}

/// A sink that takes its time with each chunk.
struct Slow(
    #[expect(dead_code, reason = "keeps the stop from being dropped")]
    tokio::sync::watch::Sender<Urgency>,
);

impl crabbox_kernel::ports::EventSink for Slow {
    fn emit(&mut self, _event: Event) {
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_output_is_dropped_and_lost_output_is_said() {
    let stage = Stage::delegated();
    let session = stage.open(json!({"run": "offsets"})).await.unwrap();
    let mut events = Vec::new();
    session.run(&run(&["x"]), &mut events, &Stop::never()).await.unwrap();
    assert_eq!(output(&events, Stream::Stdout), b"hello worldafterend\xff");
    assert_eq!(
        warnings(&events),
        [
            "stdout bytes 11..20 are lost: the provider skipped them",
            "stdout bytes 25..30 are lost: rotated"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_an_exit_code_is_a_fault() {
    let stage = Stage::delegated();
    let session = stage.open(json!({"run": "no-exit-code"})).await.unwrap();
    let error = session.run(&run(&["x"]), &mut Vec::new(), &Stop::never()).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::PluginFault, Some(Outcome::Uncertain)));
    assert!(error.message.contains("exitCode"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_lines_is_thinned_and_harms_nothing() {
    let stage = Stage::new();
    let session = stage.open(json!({"acquire": "flood-log:50000"})).await.unwrap();
    let (mut trail, mut events) = (stage.trail(), Vec::new());
    session.acquire(&stage.wanted(), &mut trail, &mut events, &Stop::never()).await.unwrap();
    assert!((1..20_000).contains(&events.len()), "{} events", events.len());
}
