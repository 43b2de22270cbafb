//! What the journal of a run promises.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::ids::RunId;

use super::*;

const NOW: u64 = 1_778_148_251_000;

struct Room {
    _dir: tempfile::TempDir,
    state: State,
}

fn room() -> Room {
    let dir = tempfile::tempdir().unwrap();
    let state = State { root: dir.path().join("state"), config: dir.path().join("config") };
    Room { state, _dir: dir }
}

fn id(n: u8) -> RunId {
    RunId::mint([n; 6])
}

impl Room {
    fn begin(&self, n: u8, max_bytes: u64, now_ms: u64) -> Recorder {
        let record = RunRecord {
            id: id(n).to_string(),
            lease_id: "cbx_abcdef123456".into(),
            slug: format!("slug-{n}"),
            ..RunRecord::default()
        };
        Recorder::begin(&self.state, record, Limits { max_bytes }, now_ms).unwrap()
    }

    fn store(&self) -> RunStore {
        RunStore::new(&self.state)
    }

    fn file(&self, n: u8, name: &str) -> Vec<u8> {
        std::fs::read(self.state.run(&id(n)).join(name)).unwrap()
    }
}

fn out(offset: u64, text: impl Into<Bytes>) -> Event {
    Event::Output { stream: Stream::Stdout, offset, data: text.into() }
}

fn started() -> Event {
    Event::CommandStarted {
        host: "h".into(),
        workdir: "/w".into(),
        command: "true".into(),
        acknowledged: false,
    }
}

fn finished(exit_code: i32) -> Event {
    Event::CommandFinished { exit_code, signal: None, ms: 40 }
}

fn end(exit_code: i32) -> RunEnd {
    RunEnd { exit_code, signal: None, error: None, timing: Timing::default() }
}

fn broken(outcome: Outcome) -> RunEnd {
    let error = KernelError::new(ErrorCode::ConnectionLost, "gone").outcome(outcome);
    RunEnd { exit_code: 7, signal: None, error: Some(error), timing: Timing::default() }
}

fn kinds(events: &[RunEvent]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

#[test]
fn a_run_leaves_its_record_its_events_and_its_output() {
    let room = room();
    let mut run = room.begin(1, 1000, NOW);
    let live = room.store().find("latest").unwrap();
    assert_eq!((live.state.as_str(), live.phase.as_str()), ("running", "leasing"));
    run.take(&started(), NOW);
    assert_eq!(room.store().find("latest").unwrap().phase, "command");
    run.take(&out(0, "hello\n"), NOW);
    run.take(&Event::Debug { message: "not told".into() }, NOW);
    run.take(&finished(37), NOW + 50);
    let record = run.finish(&end(37), NOW + 60);
    assert_eq!(room.store().find(id(1).as_str()).unwrap(), record);
    assert_eq!((record.state.as_str(), record.exit_code), ("failed", Some(37)));
    assert_eq!((record.by.as_deref(), record.started.as_deref()), (Some("remote"), Some("yes")));
    assert_eq!((record.command_ms, record.duration_ms, record.log_bytes), (40, 60, 6));
    assert_eq!(room.file(1, "stdout"), b"hello\n");
    let events = room.store().events(&id(1), 0, 100).unwrap();
    assert_eq!(kinds(&events), ["command.started", "stdout", "command.finished"]);
    assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(events[1].message.as_deref(), Some("hello\n"));
    assert_eq!(events[2].exit_code, Some(37));
    assert!(events.iter().all(|e| e.run_id == id(1).as_str() && e.phase == "command"));
    assert_eq!(kinds(&room.store().events(&id(1), 1, 1).unwrap()), ["stdout"]);
}

#[test]
fn everything_is_private() {
    let room = room();
    let run = room.begin(1, 1000, NOW);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&run.dir), 0o700);
    for name in ["run.json", "events.jsonl", "stdout", "stderr", "lock"] {
        assert_eq!(mode(&run.dir.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_run_is_begun_once() {
    let room = room();
    let _run = room.begin(1, 1000, NOW);
    let again = RunRecord { id: id(1).to_string(), ..RunRecord::default() };
    assert!(Recorder::begin(&room.state, again, Limits { max_bytes: 1 }, NOW).is_err());
    let bad = RunRecord { id: "../x".into(), ..RunRecord::default() };
    assert!(Recorder::begin(&room.state, bad, Limits { max_bytes: 1 }, NOW).is_err());
}

#[test]
fn output_beyond_the_limit_is_dropped_and_said_once() {
    let room = room();
    let mut run = room.begin(1, 8, NOW);
    run.take(&out(0, "12345"), NOW);
    let told = run.take(&out(5, "67890"), NOW);
    assert_eq!(kinds(&told), ["output.truncated", "stdout"]);
    assert_eq!(told[0].data.as_ref().unwrap()["offset"], 8);
    assert_eq!(kinds(&run.take(&out(10, "x"), NOW)), ["stdout"]);
    let record = run.finish(&end(0), NOW);
    assert!(record.log_truncated);
    assert_eq!((record.log_bytes, record.state.as_str()), (8, "succeeded"));
    assert_eq!(room.file(1, "stdout"), b"12345678");
}

#[test]
fn bytes_that_come_twice_are_kept_once_and_missing_ones_are_named() {
    let room = room();
    let mut run = room.begin(1, 100, NOW);
    run.take(&out(0, "abc"), NOW);
    run.take(&out(1, "bcd"), NOW);
    run.take(&out(0, "ab"), NOW);
    assert!(!run.record().log_truncated);
    let told = run.take(&out(10, "z"), NOW);
    assert_eq!(told[0].data.as_ref().unwrap()["bytes"], 6);
    assert!(run.record().log_truncated);
    drop(run);
    assert_eq!(room.file(1, "stdout"), b"abcdz");
}

#[test]
fn previews_are_small_pieces_of_whole_characters_and_end() {
    let room = room();
    let mut run = room.begin(1, 1 << 20, NOW);
    let text = "€".repeat(100_000);
    let told = run.take(&out(0, text.clone()), NOW);
    let pieces: Vec<_> = told.iter().filter(|e| e.kind == "stdout").collect();
    assert!(pieces.iter().all(|e| e.message.as_ref().unwrap().len() <= PREVIEW_PIECE));
    let shown: String = pieces.iter().map(|e| e.message.as_deref().unwrap()).collect();
    assert!(text.starts_with(&shown) && shown.len() > PREVIEW_TOTAL - 10);
    assert_eq!(told.last().unwrap().kind, "output.truncated");
    assert!(run.take(&out(300_000, "more"), NOW).is_empty());
    assert!(!run.record().log_truncated, "the log has it all");
    drop(run);
    assert_eq!(room.file(1, "stdout").len(), 300_004);
}

#[test]
fn single_bytes_cannot_flood_the_events() {
    let room = room();
    let mut run = room.begin(1, 1 << 20, NOW);
    (0..5000).for_each(|at| drop(run.take(&out(at, "x"), NOW)));
    assert!(run.record().event_count <= 1025, "{}", run.record().event_count);
    let wait = || Event::BootstrapWaiting { stage: "tcp".into(), message: "refused".into() };
    assert_eq!((run.take(&wait(), NOW).len(), run.take(&wait(), NOW).len()), (1, 0));
}

#[test]
fn a_dead_writer_leaves_a_lost_run_that_knows_whether_it_started() {
    let room = room();
    for (n, events, started) in
        [(1, vec![], "no"), (2, vec![started()], "maybe"), (3, vec![started(), out(0, "x")], "yes")]
    {
        let mut run = room.begin(n, 100, NOW);
        events.iter().for_each(|event| drop(run.take(event, NOW)));
        assert!(room.store().is_live(&id(n)));
        drop(run);
        assert!(!room.store().is_live(&id(n)));
        let record = room.store().find(id(n).as_str()).unwrap();
        assert_eq!((record.state.as_str(), record.started.as_deref()), ("lost", Some(started)));
        assert_eq!(record.exit_code, None);
    }
}

#[test]
fn a_run_that_its_box_took_over_is_lost_with_the_box_and_not_with_its_crabbox() {
    let room = room();
    let lease = crabbox_schemas::ids::LeaseId::parse("cbx_abcdef123456").unwrap();
    let mut run = room.begin(1, 100, NOW);
    let Event::CommandStarted { host, workdir, command, .. } = started() else { panic!() };
    let event = Event::CommandStarted { host, workdir, command, acknowledged: true };
    run.take(&event, NOW);
    drop(run);
    let state = || room.store().find(id(1).as_str()).unwrap().state;
    assert_eq!(state(), "lost", "its box is not on record");
    let claims = crate::lease::claim::Claims::new(room.state.claims());
    let claim = json!({"leaseID": lease, "repoRoot": "", "claimedAt": "", "lastUsedAt": ""});
    std::fs::create_dir_all(room.state.claims()).unwrap();
    claims.put(&serde_json::from_value(claim).unwrap()).unwrap();
    assert_eq!(state(), "running");
    claims.remove(&lease).unwrap();
    assert_eq!(state(), "lost");
}

#[test]
fn an_uncertain_end_is_lost_and_a_certain_one_is_failed() {
    let room = room();
    for (n, outcome, state, word) in
        [(1, Outcome::Uncertain, "lost", "maybe"), (2, Outcome::NotStarted, "failed", "no")]
    {
        let mut run = room.begin(n, 100, NOW);
        run.take(&started(), NOW);
        let record = run.finish(&broken(outcome), NOW);
        assert_eq!((record.state.as_str(), record.started.as_deref()), (state, Some(word)));
        assert_eq!(record.error_kind.as_deref(), Some("connection_lost"));
        assert_eq!(record.by.as_deref(), Some("crabbox"));
    }
}

#[test]
fn a_journal_that_cannot_be_written_complains_once_and_goes_on() {
    let room = room();
    let mut run = room.begin(1, 100, NOW);
    std::fs::remove_dir_all(&run.dir).unwrap();
    let told = run.take(&started(), NOW);
    assert_eq!(kinds(&told), ["command.started", "warning"]);
    assert!(run.complaint().unwrap().starts_with("the journal of this run is incomplete"));
    assert_eq!(run.complaint(), None);
    assert_eq!(kinds(&run.take(&finished(0), NOW)), ["command.finished"]);
    assert_eq!(run.finish(&end(0), NOW).state, "succeeded");
}

#[test]
fn runs_are_listed_newest_first_and_found_by_name() {
    let room = room();
    for n in [0x1a, 0x1b, 0x2c] {
        room.begin(n, 100, NOW + u64::from(n) * 1000).finish(&end(i32::from(n == 0x1b)), NOW);
    }
    let store = room.store();
    let ids = |filter| store.list(&filter).into_iter().map(|run| run.slug).collect::<Vec<_>>();
    assert_eq!(ids(Filter::default()), ["slug-44", "slug-27", "slug-26"]);
    assert_eq!(ids(Filter { limit: Some(1), ..Filter::default() }), ["slug-44"]);
    assert_eq!(ids(Filter { state: Some("failed".into()), ..Filter::default() }), ["slug-27"]);
    assert_eq!(ids(Filter { lease: Some("slug-26".into()), ..Filter::default() }), ["slug-26"]);
    assert_eq!(store.find("latest").unwrap().slug, "slug-44");
    assert_eq!(store.find("2c").unwrap().slug, "slug-44");
    assert_eq!(store.find("run_1b").unwrap().slug, "slug-27");
    assert_eq!(store.find("1").unwrap_err().code, ErrorCode::Ambiguous);
    for nothing in ["", "run_", "zz", "../2c", "run_ffffffffffff"] {
        assert_eq!(store.find(nothing).unwrap_err().code, ErrorCode::NotFound, "{nothing}");
    }
}

#[test]
fn pruning_takes_old_finished_runs_and_never_a_live_one() {
    let room = room();
    let hour = 3_600_000;
    let live = room.begin(1, 100, NOW);
    for n in 2..=5 {
        room.begin(n, 100, NOW + u64::from(n) * hour).finish(&end(0), NOW);
    }
    let now = NOW + 6 * hour;
    let keep = Retention { max_runs: 2, max_age: Duration::from_secs(7 * 3600) };
    let mut gone = room.store().prune(keep, now);
    gone.sort();
    assert_eq!(gone, [id(2), id(3)]);
    let keep = Retention { max_runs: 9, max_age: Duration::from_secs(90 * 60) };
    assert_eq!(room.store().prune(keep, now), [id(4)]);
    drop(live);
    assert_eq!(room.store().prune(keep, now), [id(1)], "its writer died");
    assert_eq!(room.store().list(&Filter::default()).len(), 1);
}

#[test]
fn a_folder_without_a_record_goes_when_it_cannot_be_a_birth() {
    let room = room();
    make_dir(&room.state.run(&id(1))).unwrap();
    let keep = Retention { max_runs: 9, max_age: Duration::MAX };
    let made = std::fs::metadata(room.state.run(&id(1))).unwrap().modified().unwrap();
    let made = made.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(room.store().prune(keep, made + 1000).is_empty());
    assert_eq!(room.store().prune(keep, made + 3_600_000), [id(1)]);
}

#[test]
fn a_follower_sees_every_byte_once_and_then_the_end() {
    let room = room();
    let mut run = room.begin(1, 1 << 30, NOW);
    let noise: Vec<u8> = (0..1_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    run.take(&out(0, noise[..600_000].to_vec()), NOW);
    let mut follow = Follow::open(&room.store(), &id(1)).unwrap();
    let mut seen = Vec::new();
    for _ in 0..10 {
        collect(&mut follow, &mut seen);
    }
    assert_eq!(seen, noise[..600_000]);
    assert!(follow.poll().unwrap().is_empty(), "it is alive");
    run.take(&out(600_000, noise[600_000..].to_vec()), NOW);
    run.finish(&end(37), NOW);
    let mut ended = None;
    for _ in 0..10 {
        ended = ended.or(collect(&mut follow, &mut seen));
    }
    assert_eq!(seen, noise);
    assert_eq!(ended.unwrap().exit_code, Some(37));
    assert!(follow.poll().unwrap().is_empty(), "nothing follows the end");
}

fn collect(follow: &mut Follow, seen: &mut Vec<u8>) -> Option<RunRecord> {
    let mut ended = None;
    for step in follow.poll().unwrap() {
        match step {
            Followed::Output { offset, bytes, .. } => {
                assert_eq!(offset, seen.len() as u64);
                assert!(bytes.len() <= 256 * 1024);
                seen.extend_from_slice(&bytes);
            }
            Followed::End(record) => ended = Some(*record),
        }
    }
    ended
}

#[test]
fn a_torn_line_hides_only_itself() {
    let room = room();
    let mut run = room.begin(1, 100, NOW);
    run.take(&started(), NOW);
    run.events.write_all(b"{\"seq\":7,\"ty").unwrap();
    drop(run);
    assert_eq!(kinds(&room.store().events(&id(1), 0, 9).unwrap()), ["command.started"]);
}
