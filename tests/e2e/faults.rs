//! Bad plugins get nothing: every row of `faults/table.md`, and a plugin that dies after every frame.

mod service;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crabbox_tests::{Ended, Room, binary, eventually, holders, holds};
use rustix::process::Signal;

use service::Service;

const TABLE: &str = include_str!("faults/table.md");
/// A secret the plugin may see, one it may only use, and one in the user's environment.
const CANARIES: [&str; 3] = ["t0ken-canary-1", "s3aled-canary-2", "amb1ent-canary-3"];
/// No fault may take longer, whatever it is.
const BOUND: Duration = Duration::from_secs(60);
/// Rows that are tried at once.
const LANES: usize = 4;

/// One row of the table.
#[derive(Debug)]
struct Row {
    when: &'static str,
    behaviour: &'static str,
    status: i32,
    kind: &'static str,
    outcome: &'static str,
    reads: &'static str,
    left: &'static str,
}

impl Row {
    fn read(line: &'static str) -> Self {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [when, behaviour, _, status, kind, outcome, reads, left] = cells[..] else {
            panic!("no row: {line}")
        };
        Self { when, behaviour, status: status.parse().unwrap(), kind, outcome, reads, left }
    }
}

fn rows() -> VecDeque<Row> {
    let lines = TABLE.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    lines.filter(|line| line.starts_with('|')).map(Row::read).collect()
}

/// A room with the faulty plugin.
struct Scene {
    room: Room,
    repo: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let room = Room::new();
        binary("provider-faulty");
        room.plugins(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/faulty"));
        let repo = room.repo("app");
        Self { room, repo }
    }

    /// Has the plugin do this from now on; secrets are nowhere in the file that says so.
    fn script(&self, provider: &str, fault: &str, service: &Service) {
        let boxes = self.room.at("boxes.json");
        let split = |text: &str| format!("cmd:printf %s%s {} {}", &text[..4], &text[4..]);
        self.room.configure(&format!(
            "provider: {provider}\nproviders:\n  {provider}:\n    fault: '{fault}'\n    boxes: {}\n    endpoint: {}\n    \
             elsewhere: {}\n    token: {}\n    sealed: {}\n",
            boxes.display(),
            service.url,
            service.elsewhere,
            split(CANARIES[0]),
            split(CANARIES[1]),
        ));
    }

    fn crabbox(&self, args: &[&str]) -> crabbox_tests::Call {
        let call = self.room.crabbox(&self.repo, args.iter().copied()).limit(BOUND);
        call.env("CANARY", CANARIES[2])
    }

    /// Runs a command; who waits for Ctrl-C gets it twice once the fault has begun.
    fn run(&self, status: i32) -> Ended {
        let running = self.crabbox(&["run", "--json", "--", "echo", "done"]).start();
        if status == 130 {
            let struck = self.room.at("boxes.json.struck");
            eventually("the fault begins", BOUND, || struck.exists());
            running.signal(Signal::INT);
            running.signal(Signal::TERM);
        }
        running.wait()
    }

    fn boxes(&self) -> String {
        fs::read_to_string(self.room.at("boxes.json")).unwrap_or_else(|_| "{}".to_owned())
    }

    /// No secret is in anything that was said or written.
    fn assert_no_secret(&self, ended: &Ended) {
        for canary in CANARIES {
            let said = [&ended.stdout, &ended.stderr];
            assert!(!said.iter().any(|bytes| holds(bytes, canary)), "{canary} was said: {ended}");
            let holders = holders(self.room.path(), canary);
            assert_eq!(holders, [] as [PathBuf; 0], "{canary} was written: {ended}");
        }
    }

    /// What is left is what the row says, and all of it goes once the plugin behaves.
    fn assert_left(&self, left: &str, provider: &str, service: &Service) {
        let trails = self.room.state_files("journal");
        match left {
            "nothing" => {
                self.room.assert_nothing_left();
                assert_eq!(self.boxes(), "{}", "boxes are left");
            }
            "open" => assert_eq!(trails.len(), 1, "an open lease says so: {trails:?}"),
            _ => panic!("{left} is no way to be left"),
        }
        self.script(provider, "", service);
        let cleaned = self.crabbox(&["cleanup"]).ok();
        self.room.assert_nothing_left();
        assert_eq!(self.boxes(), "{}", "{cleaned}");
    }
}

/// Tries one row; what is wrong is a panic.
fn try_row(row: &Row, service: &Service) {
    let (provider, at) = match row.when.strip_prefix("boxes ") {
        Some(at) => ("faulty-boxes", at),
        None => ("faulty", row.when),
    };
    let scene = Scene::new();
    scene.script(provider, &format!("{at}:{}", row.behaviour), service);
    let began = Instant::now();
    let ended = scene.run(row.status);
    assert!(began.elapsed() < BOUND, "{:?}: {ended}", began.elapsed());
    assert_eq!(ended.code, row.status, "{ended}");
    let document = ended.json();
    let word = |member: &str| document["error"][member].as_str().unwrap_or("-").to_owned();
    assert_eq!(word("errorKind"), row.kind, "{ended}");
    assert!(row.outcome == "any" || row.outcome == word("outcome"), "{ended}");
    let (out, err) = (ended.out(), ended.err());
    assert!(row.reads == "-" || err.contains(row.reads), "nobody reads {:?}: {ended}", row.reads);
    assert!(!err.contains("panicked") && !err.contains('\u{1b}'), "{ended}");
    assert!(err.len() + out.len() < 1_000_000, "{} + {} bytes", out.len(), err.len());
    scene.room.assert_no_process_within(Duration::from_secs(10));
    scene.assert_no_secret(&ended);
    scene.assert_left(row.left, provider, service);
    assert!(!scene.repo.join("owned").exists());
}

#[test]
fn each_fault_of_a_plugin_costs_what_the_table_says_and_nothing_else() {
    let service = Service::start();
    let rows = rows();
    assert!(rows.len() >= 40, "only {} rows", rows.len());
    let (rows, failed) = (Mutex::new(rows), Mutex::new(Vec::new()));
    let lane = || {
        while let Some(row) = { rows.lock().unwrap().pop_front() } {
            if !wanted(&row) {
                continue;
            }
            let tried = std::panic::catch_unwind(|| try_row(&row, &service));
            if let Err(why) = tried {
                let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
                failed.lock().unwrap().push(format!("== {} {}: {why}", row.when, row.behaviour));
            }
        }
    };
    std::thread::scope(|scope| (0..LANES).for_each(|_| drop(scope.spawn(lane))));
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} rows:\n{}", failed.len(), failed.join("\n"));
    assert_eq!(service.strayed(), 0, "somebody was let through to where nobody may go");
}

/// `CRABBOX_TEST_FAULT=garbage` tries only rows with this in their name.
#[expect(clippy::disallowed_methods, reason = "which rows are tried")]
fn wanted(row: &Row) -> bool {
    std::env::var("CRABBOX_TEST_FAULT").map_or(true, |word| row.behaviour.contains(&word))
}

#[test]
fn a_plugin_that_dies_after_any_of_its_frames_leaves_nothing_that_cleanup_does_not_finish() {
    let service = Service::start();
    for frames in 1.. {
        let scene = Scene::new();
        scene.script("faulty", &format!("any:die-after:{frames}"), &service);
        let ended = scene.run(0);
        let (trails, claims) =
            (scene.room.state_files("journal"), scene.room.state_files("claims"));
        scene.room.assert_no_process_within(Duration::from_secs(10));
        let open = trails.len();
        if scene.boxes() != "{}" {
            assert_eq!(open, 1, "a box without a trail after {frames} frames, {claims:?}: {ended}");
        }
        scene.script("faulty", "", &service);
        let cleaned = scene.crabbox(&["cleanup"]).ok();
        scene.room.assert_nothing_left();
        assert_eq!(scene.boxes(), "{}", "after {frames} frames: {cleaned}");
        if ended.code == 0 && open == 0 {
            assert!(frames > 6, "a whole run has more than {frames} frames");
            return;
        }
        assert!(frames < 30, "no run of {frames} frames ever ended well: {ended}");
    }
}
