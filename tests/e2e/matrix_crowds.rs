//! Two clients at one work tree: they take turns, and whoever is killed holds nobody up.

use std::fs;
use std::time::{Duration, Instant};

use crabbox_tests::line::Shape;
use crabbox_tests::{Running, eventually};
use rustix::process::Signal;

use crate::matrix::{Dice, Field};

/// How soon the next one has its turn.
const SOON: Duration = Duration::from_secs(2);

fn runs_soon(field: &Field, mark: &str, from: Instant) {
    eventually("the other's turn", Duration::from_secs(20), || field.room.at(mark).exists());
    assert!(from.elapsed() < SOON, "{:?}", from.elapsed());
}

/// Starts a run that waits for its turn and then leaves a mark.
fn queued(field: &Field, mark: &str) -> Running {
    let script = format!("touch {}", field.room.at(mark).display());
    let queued = field.run(&[], &script).start();
    queued.says("waiting");
    queued
}

#[test]
fn a_client_killed_during_its_sync_gives_the_tree_back_at_once() {
    for daemon in [false, true] {
        let field = Field::new(daemon);
        fs::write(field.repo.join("large"), Dice::new(3).noise(3_000_000)).unwrap();
        field.line.reshape(Shape::rtt_ms(6).mbit(8));
        let up = field.line.bytes_up();
        let first = field.run(&[], "true").start();
        eventually("it sends", Duration::from_secs(20), || field.line.bytes_up() > up + 400_000);
        let second = queued(&field, "second");
        field.line.reshape(Shape::rtt_ms(6));
        first.signal(Signal::KILL);
        let killed = Instant::now();
        let _ = first.wait();
        runs_soon(&field, "second", killed);
        let _ = second.wait().expect(0);
        field.assert_tree();
        field.close();
    }
}

#[test]
fn a_client_killed_during_its_command_leaves_the_command_its_turn_and_no_more() {
    for daemon in [false, true] {
        let field = Field::new(daemon);
        let (go, over) = (field.room.at("go"), field.room.at("over"));
        let script = format!(
            "echo begun; while [ ! -e {} ]; do sleep 0.05; done; touch {}",
            go.display(),
            over.display()
        );
        let first = field.run(&[], &script).start();
        first.prints("begun");
        let second = queued(&field, "second");
        first.signal(Signal::KILL);
        let _ = first.wait();
        let busy = field.run(&["--no-wait"], "true").run().expect(6);
        assert!(busy.err().contains("in use by run_"), "{busy}");
        let beside = field.run(&["--isolate"], "cat hello.txt").ok();
        assert_eq!(beside.out(), "hello\n");
        assert!(!field.room.at("second").exists(), "the tree is the first one's until it ends");
        fs::write(&go, "").unwrap();
        let freed = Instant::now();
        runs_soon(&field, "second", freed);
        assert!(over.exists());
        let _ = second.wait().expect(0);
        field.assert_tree();
        field.close();
    }
}

#[test]
fn a_killed_keeper_and_a_killed_queue_hold_nobody_up() {
    for daemon in [false, true] {
        let field = Field::new(daemon);
        let first = field.run(&[], "echo begun; exec sleep 300").start();
        first.prints("begun");
        let (mut second, third) = (queued(&field, "second"), queued(&field, "third"));
        second.signal(Signal::KILL);
        eventually("the second is gone", SOON, || second.ended());
        let pids = field.helpers("work");
        assert!(!pids.is_empty());
        for pid in pids {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let killed = Instant::now();
        runs_soon(&field, "third", killed);
        assert!(!field.room.at("second").exists(), "who was killed in the queue has no turn");
        let _ = first.wait().expect(7);
        let _ = third.wait().expect(0);
        let left = field.room.processes();
        assert!(!left.iter().any(|(_, line)| line == "sleep 300 "), "{left:?}");
        field.close();
    }
}
