//! A pumped process: exact bytes, an honest end, and never a second start.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test program uses its part of the fakes")]
mod fakes;

use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::error::Result;
use crabbox_kernel::event::{Event, Stream};
use crabbox_kernel::ports::{Exit, Stop, Urgency};
use crabbox_kernel::run::process::{CAPTURE_LIMIT, Console, End, Killer, capture, pump};
use crabbox_schemas::error::{ErrorCode, Outcome};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use fakes::scripted::{Script, Step};
use fakes::{Room, shell::Shell};

use Stream::{Stderr, Stdout};

const SECOND: Duration = Duration::from_secs(1);

fn killer() -> Killer {
    Killer { gently: "gently".into(), at_once: "at once".into() }
}

/// A console, the end that types and the end that resizes.
fn console() -> (Console, mpsc::Sender<Bytes>, watch::Sender<(u32, u32)>) {
    let (typing, stdin) = mpsc::channel(8);
    let (resizing, size) = watch::channel((80, 24));
    (Console { stdin, size }, typing, resizing)
}

/// Pumps `main` with nobody at the console.
async fn pumped(
    script: &Script,
    timeout: Option<Duration>,
    stop: &Stop,
) -> (Result<End>, Vec<Event>) {
    let (mut console, typing, _resizing) = console();
    drop(typing);
    let (room, mut events) = (Room::new(), Vec::new());
    let end =
        pump(script, "main", None, &mut console, &killer(), timeout, &room.time, &mut events, stop)
            .await;
    (end, events)
}

fn exited(code: i32) -> Result<End> {
    Ok(End::Exited(Exit { code, signal: None }))
}

fn raised(urgency: Urgency) -> Stop {
    let (raise, stop) = Stop::new();
    raise.send(urgency).unwrap();
    stop
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_exactly_each_stream_with_its_own_offsets_and_the_status_last() {
    let script = Script::new(vec![
        Step::Print(Stdout, b"one\0\xff"),
        Step::Print(Stderr, b"oops"),
        Step::Wait(SECOND),
        Step::Print(Stdout, b"two"),
        Step::Print(Stderr, b"!"),
        Step::Exit(37),
    ]);
    let (end, events) = pumped(&script, None, &Stop::never()).await;
    assert_eq!(end, exited(37));
    let got: Vec<_> = events
        .into_iter()
        .map(|event| match event {
            Event::Output { stream, offset, data } => (stream, offset, data),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected: [(Stream, u64, &[u8]); 4] =
        [(Stdout, 0, b"one\0\xff"), (Stderr, 0, b"oops"), (Stdout, 5, b"two"), (Stderr, 4, b"!")];
    assert_eq!(got, expected.map(|(s, o, d)| (s, o, Bytes::from_static(d))));
    assert_eq!(script.commands(), ["main"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_in_doubt_and_nothing_is_started_again() {
    let script = Script::new(vec![Step::Print(Stdout, b"half"), Step::Cut]);
    let (end, events) = pumped(&script, None, &Stop::never()).await;
    let error = end.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::ConnectionLost, Some(Outcome::Uncertain)));
    assert_eq!(events.len(), 1);
    assert_eq!(script.commands(), ["main"], "started exactly once, and nothing else");
}

#[tokio::test(start_paused = true)]
async fn a_stop_sends_the_gentle_killer_and_waits_for_the_end() {
    let script = Script::new(vec![
        Step::UntilKilled("gently"),
        Step::Print(Stdout, b"bye"),
        Step::Exit(130),
    ]);
    let (raise, stop) = Stop::new();
    let begun = Instant::now();
    let later = async {
        sleep(5 * SECOND).await;
        raise.send(Urgency::Gentle).unwrap();
    };
    let ((end, events), ()) = tokio::join!(pumped(&script, None, &stop), later);
    assert_eq!(end, Ok(End::Stopped));
    assert_eq!(begun.elapsed(), 5 * SECOND);
    assert_eq!(script.commands(), ["main", "gently"]);
    assert!(matches!(events[..], [Event::Output { .. }]), "its last words are heard");
}

#[tokio::test(start_paused = true)]
async fn a_second_stop_kills_at_once() {
    let mut script = Script::new(vec![Step::UntilKilled("at once"), Step::Exit(137)]);
    script.others = SECOND;
    let (raise, stop) = Stop::new();
    let begun = Instant::now();
    let later = async {
        raise.send(Urgency::Gentle).unwrap();
        sleep(SECOND / 2).await;
        raise.send(Urgency::Now).unwrap();
    };
    // The command is running when the first stop arrives.
    let ((end, _), ()) = tokio::join!(pumped(&script, None, &stop), async {
        sleep(SECOND).await;
        later.await;
    });
    assert_eq!(end, Ok(End::Stopped));
    assert_eq!(script.commands(), ["main", "gently", "at once"]);
    assert!(begun.elapsed() < 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_box_that_confirms_no_end_is_waited_for_three_seconds_and_said() {
    for (steps, others) in [
        (vec![Step::Hang], Duration::ZERO),
        (vec![Step::Hang], 60 * SECOND),
        (vec![Step::UntilKilled("gently"), Step::Cut], Duration::ZERO),
    ] {
        let mut script = Script::new(steps);
        script.others = others;
        let (raise, stop) = Stop::new();
        let begun = Instant::now();
        let later = async {
            sleep(SECOND).await;
            raise.send(Urgency::Gentle).unwrap();
        };
        let ((end, _), ()) = tokio::join!(pumped(&script, None, &stop), later);
        let error = end.unwrap_err();
        assert_eq!((error.code, error.outcome), (ErrorCode::Cancelled, Some(Outcome::Uncertain)));
        assert!(begun.elapsed() <= 4 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_runs_out_of_time() {
    let script = Script::new(vec![Step::UntilKilled("gently"), Step::Exit(143)]);
    let begun = Instant::now();
    let (end, _) = pumped(&script, Some(90 * SECOND), &Stop::never()).await;
    assert_eq!((end, begun.elapsed()), (Ok(End::TimedOut), 90 * SECOND));
    assert_eq!(script.commands(), ["main", "gently"]);
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_stop_that_was_there_before_starts_nothing() {
    let script = Script::new(vec![Step::Exit(0)]);
    let (end, _) = pumped(&script, None, &raised(Urgency::Gentle)).await;
    assert_eq!(end, Ok(End::Stopped));
    assert!(script.commands().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_typed_is_passed_on_and_ended_and_sizes_too() {
    let script = Script::new(vec![Step::Wait(5 * SECOND), Step::Exit(0)]);
    let (mut console, typing, resizing) = console();
    let room = Room::new();
    let mut events = Vec::new();
    let person = async {
        typing.send(Bytes::from_static(b"yes\n")).await.unwrap();
        sleep(SECOND).await;
        resizing.send((120, 40)).unwrap();
        typing.send(Bytes::from_static(b"\x04")).await.unwrap();
        assert!(!script.ended.get());
        drop(typing);
    };
    let stop = Stop::never();
    let killer = killer();
    let pumping =
        pump(&script, "main", None, &mut console, &killer, None, &room.time, &mut events, &stop);
    let (end, ()) = tokio::join!(pumping, person);
    assert_eq!(end, exited(0));
    assert_eq!(*script.typed.borrow(), b"yes\n\x04");
    assert!(script.ended.get());
    assert_eq!(*script.sizes.borrow(), [(120, 40)]);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_takes_no_input_still_tells_its_status() {
    let mut script = Script::new(vec![Step::Wait(SECOND), Step::Exit(3)]);
    script.deaf = true;
    let (mut console, typing, _resizing) = console();
    typing.send(Bytes::from_static(b"unwanted")).await.unwrap();
    let (room, mut events, stop) = (Room::new(), Vec::new(), Stop::never());
    let end =
        pump(&script, "main", None, &mut console, &killer(), None, &room.time, &mut events, &stop)
            .await;
    assert_eq!(end, exited(3));
}

#[tokio::test]
async fn a_captured_command_tells_why_it_failed_rather_than_that_it_took_no_input() {
    let dir = tempfile::tempdir().unwrap();
    let shell = Shell::new(dir.path().to_owned());
    let much = Bytes::from(vec![b'x'; 1 << 20]);
    let got = capture(&shell, "echo no space >&2; exit 4", much.clone()).await.unwrap();
    assert_eq!((got.code, &got.stderr[..]), (4, &b"no space\n"[..]));
    let got = capture(&shell, "cat; echo done >&2", much.clone()).await.unwrap();
    assert_eq!((got.code, got.stdout.len()), (0, much.len()));
    assert!(much.len() < CAPTURE_LIMIT);
}
