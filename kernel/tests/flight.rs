//! Flights with the real helper: the tree on the box is exact, in as few round trips as possible, whatever breaks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test program uses its part of the box")]
mod pipe;
mod trees;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::error::Result;
use crabbox_kernel::event::Event;
use crabbox_kernel::helper::{Binaries, Helper, Incoming, Opened, open};
use crabbox_kernel::ports::{EventSink, Stop, Urgency};
use crabbox_kernel::state::State;
use crabbox_kernel::sync::flight::{Flight, Flown, Launch, Launched, Place, fly};
use crabbox_kernel::sync::known;
use crabbox_kernel::sync::push::{PushSpec, Pushed, push_after};
use crabbox_kernel::sync::{LocalTree, ScanOptions, SyncRules, scan};
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::helper::{
    Action, Blob, BoxStat, Exited, LockAsk, Role, RunSpec, method, note,
};
use crabbox_schemas::ids::LeaseId;
use proptest::prelude::*;

use pipe::{PipeBox, Time};
use trees::{chmod, edit, edits, look_at, noise, odd, put};

/// Where `./build-helper.sh` puts it: beside the executables of the profile this test was built with.
fn binaries() -> Binaries {
    let me = std::env::current_exe().unwrap();
    let dir = me.parent().and_then(Path::parent).unwrap().to_owned();
    let file = format!("crabbox-helper-linux-{}", std::env::consts::ARCH);
    assert!(
        dir.join(&file).exists(),
        "{file} is not in {}: run ./build-helper.sh debug",
        dir.display()
    );
    Binaries::in_dir(dir)
}

/// A directory here, a box, and what is remembered of it.
struct Rig {
    to: PipeBox,
    local: tempfile::TempDir,
    state: State,
    place: Place,
    rules: SyncRules,
    wait_ms: u64,
}

impl Rig {
    fn new() -> Self {
        let to = PipeBox::new();
        let state = State { root: to.at("state"), config: to.at("config") };
        let place = Place {
            lease: LeaseId::mint([1; 6]),
            base_dir: format!("{}/cbx_010101010101", to.work_root()),
            repo: "repo".to_owned(),
        };
        let (local, rules) = (tempfile::tempdir().unwrap(), SyncRules::default());
        // Who cuts and comes back at once meets what is just going away there.
        Self { to, local, state, place, rules, wait_ms: 10_000 }
    }

    fn here(&self, path: &str) -> PathBuf {
        self.local.path().join(path)
    }

    fn there(&self, path: &str) -> PathBuf {
        Path::new(&self.place.base_dir).join("repo").join(path)
    }

    fn tree(&self) -> LocalTree {
        scan(self.local.path(), &self.rules, &ScanOptions::default()).unwrap().0
    }

    async fn helper(&self) -> Helper {
        self.try_helper().await.unwrap()
    }

    async fn try_helper(&self) -> Result<Helper> {
        let root = self.to.work_root();
        match open(&self.to, &binaries(), &root, &Time, &mut Vec::new()).await? {
            Opened::Helper(helper) => Ok(helper),
            Opened::Shell { why } => panic!("{why}"),
        }
    }

    async fn fly_with(
        &self,
        helper: &mut Helper,
        tree: Option<&LocalTree>,
        launch: Option<&Launch>,
        events: &mut Vec<Event>,
    ) -> Result<Flown> {
        let flight = Flight {
            place: &self.place,
            tree: tree.map(|tree| (tree, &self.rules)),
            lock: LockAsk { owner: "a test".to_owned(), wait_ms: self.wait_ms },
            isolate: false,
            checkout: None,
            launch,
        };
        fly(helper, &flight, &self.state, events, &Stop::never(), &Time).await
    }

    async fn try_sync(&self, helper: &mut Helper) -> Result<Pushed> {
        let flown = self.fly_with(helper, Some(&self.tree()), None, &mut Vec::new()).await?;
        assert_eq!(flown.launched, Launched::Nothing);
        Ok(flown.pushed.unwrap())
    }

    async fn sync(&self, helper: &mut Helper) -> Pushed {
        self.try_sync(helper).await.unwrap()
    }

    /// Syncs, and checks that the box holds exactly what is here, and in how many round trips.
    async fn mirror(&self, helper: &mut Helper, turns: usize) -> Pushed {
        let before = self.to.wire.turns.get();
        let pushed = self.exact(helper).await;
        assert_eq!(self.to.wire.turns.get() - before, turns, "round trips: {pushed:?}");
        pushed
    }

    /// Syncs, and checks that the box holds exactly what is here.
    async fn exact(&self, helper: &mut Helper) -> Pushed {
        let pushed = self.sync(helper).await;
        assert!(look_at(&self.there("")) == look_at(self.local.path()), "the box holds the tree");
        pushed
    }
}

fn numbers(pushed: &Pushed) -> (bool, u64, u64, u64) {
    (pushed.skipped, pushed.sent_files, pushed.deleted, pushed.drifted)
}

#[tokio::test]
async fn every_odd_entry_arrives_and_the_second_flight_finds_nothing_to_do() {
    let rig = Rig::new();
    odd(rig.local.path());
    let mut helper = rig.helper().await;
    let pushed = rig.mirror(&mut helper, 2).await;
    assert_eq!(numbers(&pushed), (false, rig.tree().files(), 0, 0));
    assert!(rig.mirror(&mut helper, 1).await.skipped);
    let mut other = rig.helper().await;
    assert!(rig.mirror(&mut other, 1).await.skipped, "what was remembered is right");
}

#[tokio::test]
async fn a_few_files_take_one_round_trip_and_so_does_nothing() {
    let rig = Rig::new();
    for n in 0..200 {
        put(&rig.here(&format!("src/{n}")), format!("file {n}"));
    }
    let mut helper = rig.helper().await;
    assert_eq!(numbers(&rig.mirror(&mut helper, 1).await), (false, 200, 0, 0));
    assert_eq!(numbers(&rig.mirror(&mut helper, 1).await), (true, 0, 0, 0));
    for n in 0..20 {
        put(&rig.here(&format!("src/{n}")), "changed");
        std::fs::remove_file(rig.here(&format!("src/{}", 100 + n))).unwrap();
    }
    chmod(&rig.here("src/50"), 0o755);
    assert_eq!(numbers(&rig.mirror(&mut helper, 1).await), (false, 21, 20, 0));
}

#[tokio::test]
async fn drift_takes_one_round_trip_more_and_only_drift_is_repaired() {
    let rig = Rig::new();
    odd(rig.local.path());
    let mut helper = rig.helper().await;
    rig.mirror(&mut helper, 2).await;
    put(&rig.there("README"), "not what was sent");
    chmod(&rig.there("~"), 0o755);
    std::fs::remove_file(rig.there("link")).unwrap();
    std::fs::remove_file(rig.there("empty")).unwrap();
    symlink("README", rig.there("empty")).unwrap();
    let pushed = rig.mirror(&mut helper, 2).await;
    assert_eq!((pushed.skipped, pushed.drifted), (false, 4));
    put(&rig.there("with space"), "gone here, drifted there");
    std::fs::remove_file(rig.here("with space")).unwrap();
    put(&rig.there("*"), "new here, drifted there");
    put(&rig.here("*"), "new here");
    assert_eq!(rig.mirror(&mut helper, 1).await.drifted, 0, "the delta repairs them anyway");
}

#[tokio::test]
async fn what_is_remembered_wrongly_costs_a_round_trip_and_nothing_else() {
    let rig = Rig::new();
    put(&rig.here("a"), "1");
    let mut helper = rig.helper().await;
    rig.mirror(&mut helper, 1).await;
    std::fs::remove_dir_all(rig.state.boxes()).unwrap();
    assert!(rig.mirror(&mut helper, 2).await.skipped);
    assert!(rig.mirror(&mut helper, 1).await.skipped, "it is remembered again");
    let old = rig.to.at("old");
    std::fs::rename(rig.state.boxes(), &old).unwrap();
    put(&rig.here("a"), "2");
    put(&rig.here("b"), "2");
    rig.mirror(&mut helper, 2).await;
    std::fs::remove_dir_all(rig.state.boxes()).unwrap();
    std::fs::rename(&old, rig.state.boxes()).unwrap();
    std::fs::remove_file(rig.here("b")).unwrap();
    assert_eq!(rig.mirror(&mut helper, 2).await.deleted, 1);
    std::fs::remove_dir_all(&rig.place.base_dir).unwrap();
    rig.mirror(&mut helper, 2).await;
}

#[tokio::test]
async fn what_the_box_made_itself_stays_and_without_delete_so_does_everything() {
    let mut rig = Rig::new();
    put(&rig.here("src/a"), "1");
    put(&rig.here("src/b"), "1");
    put(&rig.here("x"), "file");
    let mut helper = rig.helper().await;
    rig.mirror(&mut helper, 1).await;
    put(&rig.there("src/built"), "output");
    std::fs::remove_file(rig.here("src/a")).unwrap();
    std::fs::remove_file(rig.here("x")).unwrap();
    put(&rig.here("x/inside"), "now a directory");
    rig.rules.delete = false;
    let pushed = rig.sync(&mut helper).await;
    assert!(rig.there("src/a").exists() && rig.there("x/inside").exists(), "{pushed:?}");
    assert!(rig.sync(&mut helper).await.skipped);
    rig.rules.delete = true;
    assert_eq!(rig.sync(&mut helper).await.deleted, 1);
    let there: Vec<_> = look_at(&rig.there("")).into_keys().collect();
    assert_eq!(there, ["src/b", "src/built", "x/inside"].map(PathBuf::from));
}

#[tokio::test]
async fn a_full_resync_and_checksum_read_everything() {
    let mut rig = Rig::new();
    odd(rig.local.path());
    let mut helper = rig.helper().await;
    rig.mirror(&mut helper, 2).await;
    rig.rules.full_resync = true;
    put(&rig.there("README"), "hellO\n");
    std::fs::remove_file(rig.there("run.sh")).unwrap();
    let pushed = rig.exact(&mut helper).await;
    assert!(pushed.sent_files >= 2, "{pushed:?}");
    rig.rules.full_resync = false;
    rig.rules.checksum = true;
    assert!(rig.mirror(&mut helper, 1).await.skipped);
    put(&rig.there("README"), "hellO\n");
    assert_eq!(rig.mirror(&mut helper, 2).await.drifted, 1);
}

#[tokio::test]
async fn many_and_large_files_arrive_and_a_change_in_a_large_one_sends_little() {
    let rig = Rig::new();
    for n in 0..3000u32 {
        put(&rig.here(&format!("d{}/{n}", n % 50)), noise(n, 2000));
    }
    let mut large = noise(9, 12 << 20);
    put(&rig.here("large"), &large);
    let mut helper = rig.helper().await;
    rig.exact(&mut helper).await;
    large.splice(5_000_000..5_000_001, *b"inserted");
    put(&rig.here("large"), &large);
    let before = rig.to.wire.written.get();
    rig.exact(&mut helper).await;
    let sent = rig.to.wire.written.get() - before;
    assert!(sent < 1 << 20, "{sent} bytes were sent for a small change");
    std::fs::rename(rig.here("large"), rig.here("renamed")).unwrap();
    let before = rig.to.wire.written.get();
    rig.exact(&mut helper).await;
    let sent = rig.to.wire.written.get() - before;
    assert!(sent < 200 << 10, "{sent} bytes were sent for a rename");
}

#[tokio::test]
async fn two_hundred_thousand_files_arrive_and_one_change_is_one_change() {
    let mut rig = Rig::new();
    rig.rules.fail_files = 200_000;
    for dir in 0..400 {
        let at = rig.here(&format!("d{}/{dir}", dir % 20));
        std::fs::create_dir_all(&at).unwrap();
        (0..500).for_each(|n| drop(std::fs::File::create(at.join(n.to_string())).unwrap()));
    }
    let mut helper = rig.helper().await;
    assert_eq!(numbers(&rig.sync(&mut helper).await), (false, 200_000, 0, 0));
    put(&rig.here("d7/7/7"), "seven");
    std::fs::remove_file(rig.here("d9/9/9")).unwrap();
    assert_eq!(numbers(&rig.sync(&mut helper).await), (false, 1, 1, 0));
    let there = look_at(&rig.there(""));
    assert_eq!(there.len(), 199_999);
    assert!(there == look_at(rig.local.path()), "the box holds the tree");
    assert!(rig.sync(&mut helper).await.skipped);
}

#[tokio::test]
async fn a_file_that_changed_after_it_was_described_arrives_as_it_is_now() {
    let rig = Rig::new();
    for n in 0..30 {
        put(&rig.here(&format!("{n}")), noise(n, 100_000));
    }
    put(&rig.here("large"), noise(77, 3 << 20));
    let tree = rig.tree();
    put(&rig.here("3"), "shorter");
    put(&rig.here("17"), noise(1000, 100_000));
    put(&rig.here("large"), noise(78, 2 << 20));
    std::fs::remove_file(rig.here("20")).unwrap();
    std::fs::remove_file(rig.here("21")).unwrap();
    symlink("22", rig.here("21")).unwrap();
    let mut helper = rig.helper().await;
    rig.fly_with(&mut helper, Some(&tree), None, &mut Vec::new()).await.unwrap();
    assert!(look_at(&rig.there("")) == look_at(rig.local.path()));
    assert!(rig.mirror(&mut helper, 1).await.skipped, "what was remembered is what was sent");
}

#[tokio::test]
async fn helper_and_shell_take_turns_and_neither_trusts_stale_notes() {
    let rig = Rig::new();
    for (n, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        put(&rig.here(name), "old");
        put(&rig.here(&format!("gone{n}")), "goes");
    }
    let mut helper = rig.helper().await;
    for round in 0..4 {
        put(&rig.here("a"), format!("round {round}"));
        std::fs::remove_file(rig.here(&format!("gone{round}"))).unwrap();
        put(&rig.here(&format!("new{round}")), "new");
        if round > 0 {
            std::fs::remove_file(rig.here(&format!("new{}", round - 1))).unwrap();
        }
        if round % 2 == 1 {
            rig.exact(&mut helper).await;
            continue;
        }
        let spec = PushSpec {
            workdir: rig.there("").to_str().unwrap().trim_end_matches('/').to_owned(),
            rules: rig.rules.clone(),
        };
        let noted = known::noted(&rig.state, &rig.place.lease, &rig.place.repo);
        let (stop, mut events) = (Stop::never(), Vec::new());
        push_after(&rig.to, &rig.tree(), &spec, &noted, &mut events, &stop, &Time).await.unwrap();
        assert!(look_at(&rig.there("")) == look_at(rig.local.path()), "round {round}");
    }
}

fn launch(run: [u8; 6], line: &str) -> Launch {
    Launch {
        spec: RunSpec {
            run_id: crabbox_schemas::ids::RunId::mint(run).to_string(),
            action: Action::Shell(Blob::Text(line.to_owned())),
            env: Default::default(),
            pty: None,
            stdin: false,
            timeout_ms: None,
            spool_bytes: 1 << 20,
        },
        script: None,
    }
}

/// What a started command printed, to its end.
async fn output(helper: &mut Helper, channels: u32) -> Vec<u8> {
    let mut text = Vec::new();
    loop {
        let incoming = helper.next(|i| i.concerns(channels)).await.unwrap();
        match incoming {
            Incoming::Bytes { channel, data, .. } if channel == Role::Stdout.of(channels) => {
                helper.consumed(channel, data.len() as u64).unwrap();
                text.extend_from_slice(&data);
            }
            Incoming::Note { method, .. } if method == "run.exited" => return text,
            _ => {}
        }
    }
}

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
    assert!(landed.unwrap().pushed.unwrap().skipped);
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

/// How many random cases: `CRABBOX_TEST_CASES`, else a quick hundred.
fn cases() -> u32 {
    #[expect(clippy::disallowed_methods, reason = "a test is told how long it may take")]
    let cases = std::env::var("CRABBOX_TEST_CASES");
    cases.ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_edits_on_both_sides_and_any_cut_the_box_holds_the_tree(
        first in edits(), here in edits(), there in edits(), cut in prop::option::of(0usize..40_000),
    ) {
        let rig = Rig::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        first.iter().for_each(|e| edit(rig.local.path(), e));
        let mut helper = runtime.block_on(rig.helper());
        runtime.block_on(rig.sync(&mut helper));
        let before = look_at(&rig.there(""));
        prop_assert!(before == look_at(rig.local.path()));
        here.iter().for_each(|e| edit(rig.local.path(), e));
        there.iter().for_each(|e| edit(&rig.there(""), e));
        let harmed = look_at(&rig.there(""));
        if cut.is_some() {
            rig.to.wire.cut_after.set(cut);
            if let Err(error) = runtime.block_on(rig.try_sync(&mut helper)) {
                prop_assert_eq!(error.code, ErrorCode::ConnectionLost, "{}", error);
            }
            rig.to.wire.cut_after.set(None);
            drop(helper);
            helper = runtime.block_on(rig.helper());
        }
        runtime.block_on(rig.sync(&mut helper));
        let (wanted, after) = (look_at(rig.local.path()), look_at(&rig.there("")));
        for (path, entry) in &wanted {
            prop_assert!(after.get(path) == Some(entry), "{:?}", path);
        }
        for (path, entry) in after.iter().filter(|(path, _)| !wanted.contains_key(*path)) {
            prop_assert!(!before.contains_key(path), "{:?} was sent once and should be gone", path);
            prop_assert!(harmed.get(path) == Some(entry), "{:?} is the box's own", path);
        }
        prop_assert!(runtime.block_on(rig.sync(&mut helper)).skipped);
    }
}

#[tokio::test]
async fn a_cut_transfer_goes_on_where_it_was() {
    let rig = Rig::new();
    for n in 0..40 {
        put(&rig.here(&format!("{n}")), noise(n, 900_000));
    }
    let mut helper = rig.helper().await;
    rig.to.wire.cut_after.set(Some(26 << 20));
    let lost = rig.try_sync(&mut helper).await.unwrap_err();
    assert_eq!(lost.code, ErrorCode::ConnectionLost);
    rig.to.wire.cut_after.set(None);
    drop(helper);
    let mut helper = rig.helper().await;
    let before = rig.to.wire.written.get();
    rig.exact(&mut helper).await;
    let sent = rig.to.wire.written.get() - before;
    // What was on its way when it was cut, at most a window and a block or two, travels again.
    assert!(sent < 22 << 20, "{sent} bytes were sent again");
}

#[tokio::test]
async fn cut_anywhere_a_command_starts_once() {
    let rig = Rig::new();
    put(&rig.here("a"), noise(5, 20_000));
    let mut helper = rig.helper().await;
    rig.sync(&mut helper).await;
    for n in 0..40u8 {
        put(&rig.here("a"), noise(u32::from(n) + 100, 20_000));
        let (tree, log) = (rig.tree(), rig.to.at("log"));
        let command = launch([n, 9, 9, 9, 9, 9], &format!("echo {n} >>{}", log.display()));
        rig.to.wire.cut_after.set(Some(usize::from(n) * 600));
        let cut = rig.fly_with(&mut helper, Some(&tree), Some(&command), &mut Vec::new()).await;
        rig.to.wire.cut_after.set(None);
        drop(helper);
        helper = rig.helper().await;
        if cut.is_err() {
            let flown = rig
                .fly_with(&mut helper, Some(&tree), Some(&command), &mut Vec::new())
                .await
                .unwrap();
            assert_ne!(flown.launched, Launched::Nothing);
        }
        let line = format!("{n}");
        let count = || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.lines().filter(|l| **l == *line).count()
        };
        for _ in 0..1000 {
            if count() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(count(), 1, "cut after {}: {cut:?}", usize::from(n) * 600);
        // The lock is given back when the command has ended; the next flight must not meet it.
        let mut free = false;
        for _ in 0..1000 {
            free = rig.try_sync(&mut helper).await.is_ok();
            if free {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(free);
    }
}
