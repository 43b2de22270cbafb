//! Trees with a command: one flight, one start, and others that wait or are refused.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::event::Event;
use crabbox_kernel::helper::Incoming;
use crabbox_kernel::ports::{EventSink, Stop, Urgency};
use crabbox_kernel::sync::flight::{Flight, Launch, Launched, fly};
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::helper::{
    Action, Blob, BoxStat, Exited, LockAsk, Role, RunSpec, method, note,
};

use crate::pipe::Time;
use crate::rig::{Rig, launch, output};
use crate::trees::{look_at, noise, put};

#[tokio::test]
async fn tree_and_command_fly_in_one_round_trip() {
    let rig = Rig::new();
    put(&rig.here("a"), "from here\n");
    let mut helper = rig.helper().await;
    let (tree, command) = (rig.tree(), launch([1; 6], "cat a; pwd"));
    let before = rig.to.wire.turns.get();
    let flown =
        rig.fly_with(&mut helper, Some(&tree), Some(&command), &mut Vec::new()).await.unwrap();
    let Launched::Now(started) = flown.launched else { panic!("{flown:?}") };
    assert_eq!(started.run_id, command.spec.run_id);
    let text = output(&mut helper, flown.channels).await;
    assert_eq!(rig.to.wire.turns.get() - before, 1);
    assert_eq!(
        String::from_utf8(text).unwrap(),
        format!("from here\n{}\n", rig.there("").to_str().unwrap().trim_end_matches('/'))
    );
    helper.forget(flown.channels);
    let again =
        rig.fly_with(&mut helper, Some(&tree), Some(&command), &mut Vec::new()).await.unwrap();
    assert_eq!(again.launched, Launched::Earlier, "one id is one start");
    let script =
        Launch { script: Some(Bytes::from("#!/bin/sh\necho $0 $1 | wc -w")), ..launch([2; 6], "") };
    let spec =
        RunSpec { action: Action::Script(vec![Blob::Text("x".into())]), ..script.spec.clone() };
    let flown = rig
        .fly_with(&mut helper, None, Some(&Launch { spec, ..script }), &mut Vec::new())
        .await
        .unwrap();
    assert!(flown.pushed.is_none());
    assert_eq!(output(&mut helper, flown.channels).await, b"2\n");
}

#[tokio::test]
async fn a_work_tree_in_use_is_refused_or_waited_for() {
    let rig = Rig::new();
    put(&rig.here("a"), "1");
    let mut first = rig.helper().await;
    let tree = rig.tree();
    let command = launch([3; 6], "read line; echo $line");
    let spec = RunSpec { stdin: true, ..command.spec };
    let command = Launch { spec, script: None };
    let flown =
        rig.fly_with(&mut first, Some(&tree), Some(&command), &mut Vec::new()).await.unwrap();
    let mut second = rig.helper().await;
    let mut flight = Flight {
        place: &rig.place,
        tree: Some((&tree, &rig.rules)),
        lock: LockAsk { owner: "another".to_owned(), wait_ms: 0 },
        isolate: false,
        checkout: None,
        launch: None,
    };
    let (to, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (mut events, stop) = (Told(to), Stop::never());
    let refused = fly(&mut second, &flight, &rig.state, &mut events, &stop, &Time).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Busy);
    assert!(refused.message.contains("a test"), "{refused}");
    flight.lock.wait_ms = 60_000;
    let waiting = fly(&mut second, &flight, &rig.state, &mut events, &stop, &Time);
    let release = async {
        loop {
            if let Event::Waiting { owner } = told.recv().await.unwrap() {
                assert_eq!(owner, "a test");
                break;
            }
        }
        first.send(Role::Stdin.of(flown.channels), Bytes::from("go on\n"), true);
        output(&mut first, flown.channels).await
    };
    let (landed, said) = tokio::join!(waiting, release);
    assert_eq!(said, b"go on\n");
    let pushed = landed.unwrap().pushed.unwrap();
    assert!(pushed.skipped);
    let steps: Vec<&str> = pushed.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(steps, ["preflight", "send", "check", "queue", "apply", "finalize"]);
}

#[tokio::test]
async fn a_flight_that_is_stopped_starts_nothing_and_the_next_one_finishes_it() {
    let rig = Rig::new();
    for n in 0..40 {
        put(&rig.here(&format!("{n}")), noise(n, 500_000));
    }
    let mut helper = rig.helper().await;
    let tree = rig.tree();
    let command = launch([4; 6], "echo never >>../log");
    let flight = Flight {
        place: &rig.place,
        tree: Some((&tree, &rig.rules)),
        lock: LockAsk { owner: "a test".to_owned(), wait_ms: 0 },
        isolate: false,
        checkout: None,
        launch: Some(&command),
    };
    let (wish, stop) = Stop::new();
    let mut events = Vec::new();
    let before = rig.to.wire.written.get();
    let flying = fly(&mut helper, &flight, &rig.state, &mut events, &stop, &Time);
    let stopping = async {
        while rig.to.wire.written.get() < before + (3 << 20) {
            tokio::task::yield_now().await;
        }
        wish.send(Urgency::Gentle).unwrap();
        std::future::pending::<()>().await;
    };
    let stopped = tokio::select! {
        stopped = flying => stopped,
        () = stopping => unreachable!("it only wishes"),
    };
    let error = stopped.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::Cancelled, Some(Outcome::NotStarted)));
    rig.exact(&mut helper).await;
    assert!(!Path::new(&rig.place.base_dir).join("log").exists());
}

#[tokio::test]
async fn bytes_flow_both_ways_at_once_and_requests_overtake_them() {
    let rig = Rig::new();
    let mut helper = rig.helper().await;
    let command = launch([5; 6], "exec cat");
    let spec = RunSpec { stdin: true, ..command.spec };
    let command = Launch { spec, script: None };
    let flown = rig.fly_with(&mut helper, None, Some(&command), &mut Vec::new()).await.unwrap();
    let (stdin, stdout) = (Role::Stdin.of(flown.channels), Role::Stdout.of(flown.channels));
    let sent = noise(6, 40 << 20);
    let (mut parts, mut came) = (sent.chunks(60_000).peekable(), Vec::new());
    let mut asked = 0;
    let exited = loop {
        let next = match parts.peek() {
            Some(_) => helper.next_or_room(stdin, |i| i.concerns(flown.channels)).await.unwrap(),
            None => Some(helper.next(|i| i.concerns(flown.channels)).await.unwrap()),
        };
        match next {
            None => {
                let part = Bytes::copy_from_slice(parts.next().unwrap());
                helper.send(stdin, part, parts.peek().is_none());
            }
            Some(Incoming::Bytes { data, .. }) if data.is_empty() => {}
            Some(Incoming::Bytes { channel, data, offset, .. }) => {
                assert_eq!((channel, offset), (stdout, came.len() as u64));
                helper.consumed(channel, data.len() as u64).unwrap();
                came.extend_from_slice(&data);
            }
            Some(note) => {
                if let Some(exited) = note.note::<Exited>(note::EXITED) {
                    break exited.unwrap();
                }
            }
        }
        if came.len() > asked * (8 << 20) {
            asked += 1;
            let limit = Duration::from_secs(20);
            let root = rig.to.work_root();
            let stat: BoxStat = helper
                .call(method::BOX_STAT, &serde_json::json!({ "baseDir": root }), limit, &Time)
                .await
                .unwrap();
            assert!(stat.cpus > 0 && stat.disk_bytes > 0, "{stat:?}");
        }
    };
    assert!(came == sent, "{} of {} bytes", came.len(), sent.len());
    assert_eq!(exited.exit.unwrap().code, 0);
    helper.forget(flown.channels);
}

#[tokio::test]
async fn a_try_whose_connection_hangs_does_not_keep_its_successor_out() {
    let mut rig = Rig::new();
    rig.wait_ms = 0;
    for n in 0..40 {
        put(&rig.here(&format!("{n}")), noise(n, 500_000));
    }
    let (tree, command) = (rig.tree(), launch([6; 6], "cat 39 | wc -c"));
    let mut hung = rig.helper().await;
    let before = rig.to.wire.written.get();
    let mut events = Vec::new();
    let half = async {
        while rig.to.wire.written.get() < before + (3 << 20) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        landed = rig.fly_with(&mut hung, Some(&tree), Some(&command), &mut events) => panic!("{landed:?}"),
        () = half => {}
    }
    let mut helper = rig.helper().await;
    let flown =
        rig.fly_with(&mut helper, Some(&tree), Some(&command), &mut Vec::new()).await.unwrap();
    assert!(matches!(flown.launched, Launched::Now(_)), "{flown:?}");
    assert_eq!(output(&mut helper, flown.channels).await, b"500000\n");
    assert!(look_at(&rig.there("")) == look_at(rig.local.path()));
    drop(hung);
}

/// Passes on what is told while it is told.
struct Told(tokio::sync::mpsc::UnboundedSender<Event>);

impl EventSink for Told {
    fn emit(&mut self, event: Event) {
        self.0.send(event).unwrap();
    }
}
