//! One run from plan to outcome, on a box with a real shell.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test program uses its part of the fakes")]
mod fakes;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::event::Event;
use crabbox_kernel::lease::lock::{Patience, lock};
use crabbox_kernel::lease::tailnet::Tailnet;
use crabbox_kernel::lease::{Ask, Fate, Held, NewLease};
use crabbox_kernel::plan::{Plan, Supply, Sync};
use crabbox_kernel::ports::{Clock, EventSink, Stop, Urgency};
use crabbox_kernel::run::collect::Download;
use crabbox_kernel::run::command::{Action, Command};
use crabbox_kernel::run::process::Console;
use crabbox_kernel::run::reach::reach;
use crabbox_kernel::run::{Outcome, run};
use crabbox_kernel::sync::{ScanOptions, SyncRules, scan};
use crabbox_schemas::error::{ErrorCode, Outcome as World};
use crabbox_schemas::ids::RunId;
use crabbox_schemas::lease::SshEndpoint;
use crabbox_schemas::plugin::{ProviderKind, RunStartResult};
use tokio::sync::{mpsc, watch};

use fakes::{Act, Room, checkout, error, existing, new_lease, one_shot, warnings};

fn script(text: &str) -> Option<Command> {
    Some(Command {
        action: Action::Exec(["sh", "-c", text].map(Into::into).to_vec()),
        env: BTreeMap::from([("GREETING".to_owned(), "hello there".into())]),
        pty: None,
        shown: vec![text.to_owned()],
    })
}

/// A run of `text` on a new box, without a sync.
fn plan(text: &str) -> Plan {
    Plan {
        run_id: RunId::mint([3; 6]),
        ask: one_shot(),
        keep: None,
        keep_on_failure: false,
        repo_root: checkout(),
        repo_name: "app".into(),
        sync: Sync::Off,
        command: script(text),
        commits: Ok(None),
        input: Supply::Nothing,
        detach: false,
        isolate: false,
        reconnect: Duration::ZERO,
        owner: "run_2 on here".into(),
        spool_bytes: 1 << 20,
        timeout: None,
        patience: Patience(Duration::ZERO),
        junit: Vec::new(),
        downloads: Vec::new(),
        label: None,
    }
}

/// A small tree to send.
fn tree(room: &Room) -> Sync {
    let root = room.dir.path().join("here");
    std::fs::create_dir_all(root.join("src")).unwrap();
    std::fs::write(root.join("src/lib.rs"), "fn main() {}\n").unwrap();
    let rules = SyncRules::default();
    Sync::Tree { tree: scan(&root, &rules, &ScanOptions::default()).unwrap().0, rules }
}

fn nobody() -> Console {
    Console { stdin: mpsc::channel(1).1, size: watch::channel((80, 24)).1 }
}

async fn go(room: &Room, plan: &Plan) -> (Outcome, Vec<Event>) {
    let mut events = Vec::new();
    let outcome = run(&room.bench(), plan, &mut nobody(), &mut events, &Stop::never()).await;
    (outcome, events)
}

fn printed(events: &[Event]) -> String {
    let pieces = events.iter().filter_map(|event| match event {
        Event::Output { data, .. } => Some(data.to_vec()),
        _ => None,
    });
    String::from_utf8(pieces.flatten().collect()).unwrap()
}

/// How often the user's command was started.
fn starts(room: &Room) -> usize {
    let started = room.shell.started.borrow();
    started.iter().filter(|c| c.starts_with("exec sh /") && c.ends_with(".sh")).count()
}

fn gone_everywhere(room: &Room) {
    assert!(room.toy.boxes.borrow().is_empty());
    assert_eq!(room.traces(), Vec::<String>::new());
}

#[tokio::test]
async fn the_commands_own_status_comes_through_as_the_boxs_word() {
    let room = Room::new();
    let mut plan =
        plan("cat src/lib.rs; printf '%s|%s' \"$GREETING\" \"$CRABBOX_RUN_ID\" >&2; exit 37");
    plan.sync = tree(&room);
    let (outcome, events) = go(&room, &plan).await;
    assert_eq!((outcome.exit_code, outcome.timing.by.as_str()), (37, "remote"), "{events:?}");
    assert!(outcome.error.is_none() && outcome.fate == Some(Fate::Released));
    let said = printed(&events);
    assert!(said.contains("fn main() {}\n"), "{said}");
    assert!(said.contains(&format!("hello there|{}", plan.run_id)), "{said}");
    assert_eq!(starts(&room), 1);
    assert_eq!(outcome.timing.stop_command, None);
    gone_everywhere(&room);
    let order = [
        "LeasingStarted",
        "LeaseCreated",
        "SyncStarted",
        "SyncFinished",
        "CommandStarted",
        "CommandFinished",
        "Released",
    ];
    let seen: Vec<String> = events.iter().map(|e| format!("{e:?}")).collect();
    let mut at = order.iter().map(|word| seen.iter().position(|e| e.starts_with(word)).unwrap());
    let first = at.next().unwrap();
    at.fold(first, |before, now| {
        assert!(before < now);
        now
    });
}

#[tokio::test]
async fn a_failure_of_crabbox_names_its_stage_and_starts_nothing() {
    let room = Room::new();
    room.shell.unreachable.set(Some(ErrorCode::SshTcp));
    let (outcome, events) = go(&room, &plan("true")).await;
    let error = outcome.error.unwrap();
    assert_eq!((error.code, error.stage), (ErrorCode::SshTcp, Some("connect")));
    assert_eq!(outcome.exit_code, ErrorCode::SshTcp.exit_status());
    assert_eq!(outcome.timing.by, "crabbox");
    assert!(matches!(events.last(), Some(Event::Failed { .. })));
    assert_eq!(starts(&room), 0);
    gone_everywhere(&room);
}

#[tokio::test]
async fn keep_on_failure_keeps_after_failures_only() {
    for (text, fate) in [("exit 1", Fate::Kept), ("exit 0", Fate::Released)] {
        let room = Room::new();
        let (outcome, _) = go(&room, &Plan { keep_on_failure: true, ..plan(text) }).await;
        assert_eq!(outcome.timing.stop_command.is_some(), fate == Fate::Kept);
        assert_eq!(outcome.fate, Some(fate), "{text}");
    }
}

#[tokio::test]
async fn evidence_comes_back_also_after_a_failed_command() {
    let room = Room::new();
    let mut plan = plan(
        "echo '<testsuite name=\"a\" tests=\"1\"><testcase name=\"t\"><failure/></testcase></testsuite>' >r.xml; echo data >'-o ut'; exit 5",
    );
    plan.junit = vec!["*.xml".into()];
    let local = room.dir.path().join("got/out");
    plan.downloads = vec![Download { remote: "-o ut".into(), local: local.clone() }];
    let (outcome, events) = go(&room, &plan).await;
    assert_eq!(outcome.exit_code, 5);
    assert_eq!(std::fs::read_to_string(local).unwrap(), "data\n");
    let results = events.iter().find_map(|e| match e {
        Event::ResultsCollected { results } => Some(results),
        _ => None,
    });
    assert_eq!(results.unwrap().failures, 1);
    assert!(warnings(&events).is_empty(), "{events:?}");
}

#[tokio::test]
async fn evidence_that_cannot_be_had_is_a_warning_and_changes_no_status() {
    for code in [0, 5] {
        let room = Room::new();
        let mut plan = plan(&format!("echo '<broken' >bad.xml; mkfifo pipe; exit {code}"));
        plan.junit = vec!["*.xml".into(), "none/*.xml".into()];
        let local: PathBuf = room.dir.path().join("got");
        let wanted = |remote: &str| Download { remote: remote.into(), local: local.clone() };
        plan.downloads = ["missing", "pipe", "."].map(wanted).to_vec();
        let (outcome, events) = go(&room, &plan).await;
        assert_eq!((outcome.exit_code, outcome.timing.by.as_str()), (code, "remote"));
        let warnings = warnings(&events);
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        for warning in &warnings[2..] {
            assert!(warning.contains("not a regular file"), "{warnings:?}");
        }
        assert!(warnings[1].contains("missing"), "{warnings:?}");
        assert!(!local.exists());
    }
}

#[tokio::test]
async fn sync_only_sends_the_tree_and_starts_nothing() {
    let room = Room::new();
    let plan =
        Plan { sync: tree(&room), command: None, keep: Some("--keep was given"), ..plan("") };
    let (outcome, events) = go(&room, &plan).await;
    assert_eq!((outcome.exit_code, outcome.fate), (0, Some(Fate::Kept)));
    assert!(events.iter().any(|e| matches!(e, Event::SyncFinished { skipped: false, .. })));
    let workdir = PathBuf::from(outcome.timing.workdir.unwrap());
    assert!(workdir.join("src/lib.rs").exists());
    assert_eq!(starts(&room), 0);
}

#[tokio::test]
async fn without_sync_the_tree_on_the_box_is_not_touched() {
    let room = Room::new();
    let first = Plan {
        sync: tree(&room),
        keep: Some("--keep was given"),
        ..plan("echo changed >src/lib.rs")
    };
    let (outcome, _) = go(&room, &first).await;
    let ask = existing(&outcome.timing.slug.unwrap());
    let mut again = Plan { ask, ..plan("cat src/lib.rs") };
    again.run_id = RunId::mint([4; 6]);
    let (outcome, events) = go(&room, &again).await;
    assert_eq!((outcome.exit_code, outcome.fate), (0, Some(Fate::Kept)));
    assert_eq!(printed(&events), "changed\n");
    assert!(!events.iter().any(|e| matches!(e, Event::SyncStarted { .. })));
}

#[tokio::test]
async fn a_known_box_that_moved_is_found_again_by_its_provider() {
    let room = Room::new();
    let kept = room.kept().await;
    *room.shell.moved_to.borrow_mut() = Some("elsewhere".into());
    room.toy.boxes.borrow_mut().get_mut(&kept.lease_id).unwrap().ssh =
        Some(SshEndpoint { host: "elsewhere".into(), ..SshEndpoint::default() });
    for run in [1, 2] {
        let run_id = RunId::mint([run; 6]);
        let plan = Plan { run_id, ask: existing(&kept.slug), ..plan("echo found") };
        let (outcome, events) = go(&room, &plan).await;
        assert_eq!((outcome.exit_code, printed(&events).as_str()), (0, "found\n"), "{events:?}");
        assert_eq!(room.toy.count("resolve Use"), 1, "then it is known where it is");
    }
}

#[tokio::test]
async fn a_known_box_that_is_gone_is_said_to_be_gone() {
    let room = Room::new();
    let kept = room.kept().await;
    room.toy.boxes.borrow_mut().clear();
    room.shell.unreachable.set(Some(ErrorCode::SshTcp));
    let plan = Plan { ask: existing(&kept.slug), ..plan("true") };
    let error = go(&room, &plan).await.0.error.unwrap();
    assert_eq!((error.code, error.stage), (ErrorCode::NotFound, Some("resolve")));
    room.toy.will("resolve", Act::Refuse(ErrorCode::Transient, None));
    let plan = Plan { run_id: RunId::mint([9; 6]), ..plan };
    let error = go(&room, &plan).await.0.error.unwrap();
    assert_eq!((error.code, error.stage), (ErrorCode::SshTcp, Some("connect")));
}

/// Raises a wish to stop when the command prints.
struct StopAtOutput {
    events: Vec<Event>,
    raise: watch::Sender<Urgency>,
    urgency: Urgency,
}

impl EventSink for StopAtOutput {
    fn emit(&mut self, event: Event) {
        if matches!(event, Event::Output { .. }) {
            self.raise.send(self.urgency).unwrap();
        }
        self.events.push(event);
    }
}

#[tokio::test]
async fn an_interrupt_ends_the_whole_group_on_the_box_and_brings_no_evidence() {
    for (urgency, text) in [
        (Urgency::Gentle, "sleep 1000 & echo $! $$; wait"),
        (Urgency::Gentle, "trap '' INT TERM; sleep 1000 & echo $! $$; wait; wait"),
        (Urgency::Now, "trap '' INT TERM; sleep 1000 & echo $! $$; wait; wait"),
    ] {
        let room = Room::new();
        let (raise, stop) = Stop::new();
        let mut sink = StopAtOutput { events: Vec::new(), raise, urgency };
        let mut plan = plan(text);
        plan.junit = vec!["*.xml".into()];
        let from = room.time.monotonic_ms();
        let outcome = run(&room.bench(), &plan, &mut nobody(), &mut sink, &stop).await;
        let error = outcome.error.unwrap();
        assert_eq!((error.code, error.outcome), (ErrorCode::Cancelled, None), "{text}");
        assert_eq!(outcome.exit_code, ErrorCode::Cancelled.exit_status());
        assert!(room.time.monotonic_ms() - from < 5000, "{text}");
        assert_eq!(outcome.fate, Some(Fate::Released));
        let warnings = warnings(&sink.events);
        assert!(warnings.len() == 1 && warnings[0].contains("interrupted"), "{warnings:?}");
        let pids = printed(&sink.events);
        let alive = format!("kill -0 {pids}");
        let seen = crabbox_kernel::run::process::capture(&room.shell, &alive, Bytes::new());
        assert_ne!(seen.await.unwrap().code, 0, "{text}: {pids} live on");
        assert_eq!(starts(&room), 1);
    }
}

#[tokio::test]
async fn a_command_that_runs_out_of_time_is_stopped_and_said() {
    let room = Room::new();
    let plan = Plan { timeout: Some(Duration::from_millis(500)), ..plan("sleep 1000") };
    let (outcome, _) = go(&room, &plan).await;
    let error = outcome.error.unwrap();
    assert_eq!((error.code, error.stage), (ErrorCode::CommandTimeout, Some("command")));
    gone_everywhere(&room);
}

#[tokio::test]
async fn two_runs_on_one_lease_take_turns_or_fail_clearly() {
    let room = Room::new();
    let kept = room.kept().await;
    let stop = Stop::never();
    let mut events = Vec::new();
    let zero = Patience(Duration::ZERO);
    let id = &kept.lease_id;
    let first = lock(&room.state, id, "run_1", zero, &room.time, &mut events, &stop).await.unwrap();
    let waiting = |secs| Plan {
        ask: Ask::Existing { name: kept.slug.clone(), reclaim: false },
        patience: Patience(Duration::from_secs(secs)),
        ..plan("echo my turn")
    };
    let (outcome, _) = go(&room, &waiting(0)).await;
    let error = outcome.error.unwrap();
    assert_eq!((error.code, error.stage), (ErrorCode::Busy, Some("lock")));
    assert_eq!(starts(&room), 0);
    let free = async {
        room.time.sleep(Duration::from_millis(300)).await;
        drop(first);
    };
    let plan = waiting(60);
    let ((outcome, events), ()) = tokio::join!(go(&room, &plan), free);
    assert_eq!(outcome.exit_code, 0);
    assert_eq!(printed(&events), "my turn\n");
    assert_eq!(events.iter().filter(|e| matches!(e, Event::Waiting { .. })).count(), 1);
}

#[tokio::test]
async fn a_delegated_run_hands_the_words_over_and_passes_the_status_on() {
    let room = Room::of(ProviderKind::DelegatedRun);
    let answer = RunStartResult { exit_code: 37, signal: None };
    *room.toy.answer.borrow_mut() = Some(Ok(answer));
    let plan = Plan { sync: tree(&room), ..plan("exit 37") };
    let (outcome, events) = go(&room, &plan).await;
    assert_eq!((outcome.exit_code, outcome.timing.by.as_str()), (37, "remote"));
    assert_eq!(room.toy.count("run sh -c exit 37"), 1);
    assert!(events.iter().any(|e| matches!(e, Event::CommandFinished { exit_code: 37, .. })));
    assert!(room.shell.started.borrow().is_empty(), "nothing is run over a connection");
    gone_everywhere(&room);
}

#[tokio::test]
async fn a_delegated_run_that_fails_says_where_and_is_tried_once() {
    let room = Room::of(ProviderKind::DelegatedRun);
    let lost = error(ErrorCode::PluginFault, Some(World::Uncertain));
    *room.toy.answer.borrow_mut() = Some(Err(lost));
    let (outcome, _) = go(&room, &plan("true")).await;
    let error = outcome.error.unwrap();
    assert_eq!((error.stage, error.outcome), (Some("command"), Some(World::Uncertain)));
    assert_eq!(room.toy.count("run sh -c true"), 1);
    gone_everywhere(&room);

    let (outcome, _) = go(&room, &Plan { command: None, ..plan("") }).await;
    assert_eq!(outcome.error.unwrap().code, ErrorCode::Unsupported);
    gone_everywhere(&room);
}

#[tokio::test]
async fn no_status_of_a_delegated_run_can_pass_for_another() {
    for code in [256, -1, 1 << 20] {
        let room = Room::of(ProviderKind::DelegatedRun);
        let answer = RunStartResult { exit_code: code, signal: None };
        *room.toy.answer.borrow_mut() = Some(Ok(answer));
        let (outcome, _) = go(&room, &plan("true")).await;
        assert_eq!(outcome.error.unwrap().code, ErrorCode::PluginFault, "{code}");
        assert!(outcome.exit_code != 0);
    }
}

#[tokio::test]
async fn a_new_box_joins_the_tailnet_with_a_key_that_nobody_else_sees() {
    let key = "tskey-auth-c4n4ry";
    for (script, told) in [
        ("#!/bin/sh\ncat >got\necho \"$*\" >>got\necho 100.64.0.7\n", "100.64.0.7"),
        ("#!/bin/sh\nread key\necho no. >&2\necho key $key expired >&2\nexit 1\n", "expired"),
    ] {
        let room = Room::new();
        let sudo = "#!/bin/sh\nshift\nexec \"$@\"\n";
        for (name, text) in [("crabbox-tailnet", script), ("sudo", sudo)] {
            let path = room.shell.home.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let tailnet = Tailnet {
            key: key.to_owned(),
            tags: vec!["tag:crabbox".to_owned(), "tag:ci".to_owned()],
            hostname: "box-{slug}".to_owned(),
            exit: None,
        };
        let new = NewLease { tailnet: Some(tailnet), slug: Some("mine".to_owned()), ..new_lease() };
        let bench = room.bench();
        let joining = async |held: &Held, events: &mut dyn EventSink| {
            reach(&bench, held, events, &Stop::never()).await.map(drop)
        };
        let (done, events) = room.lease(&Ask::New(new), &Stop::never(), None, joining).await;
        let outcome = done.unwrap().0;
        let said = format!("{events:?} {outcome:?} {:?}", room.shell.started.borrow());
        assert!(said.contains(told) && !said.contains(key), "{said}");
        match outcome {
            Ok(()) => {
                let got = std::fs::read_to_string(room.shell.home.join("got")).unwrap();
                assert_eq!(got, format!("{key}\nbox-mine tag:crabbox,tag:ci\n"));
            }
            Err(error) => assert_eq!(error.code, ErrorCode::Bootstrap),
        }
        gone_everywhere(&room);
    }
}

#[tokio::test]
async fn a_command_finds_the_display_and_the_browser_it_asked_for() {
    for (features, seen) in [
        (&[][..], "none none\n"),
        (&["desktop"], ":99 none\n"),
        (&["desktop", "browser"], ":99 /usr/local/bin/crabbox-browser\n"),
    ] {
        let mut room = Room::new();
        room.toy.about.features = vec!["cloud-init".to_owned()];
        let mut new = new_lease();
        new.request.features = features.iter().map(|&feature| feature.to_owned()).collect();
        let plan = Plan { ask: Ask::New(new), ..plan("echo ${DISPLAY-none} ${CHROME_BIN-none}") };
        let (outcome, events) = go(&room, &plan).await;
        assert_eq!((outcome.exit_code, printed(&events)), (0, seen.to_owned()), "{events:?}");
    }
}
