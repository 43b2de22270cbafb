//! Costs that are counted, not timed: round trips, programs, bytes.

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crabbox_tests::line::{Line, Shape};
use crabbox_tests::{Call, Room, Sshd, eventually};
use rustix::process::{Pid, Signal};

/// Round-trip times of the link, in milliseconds: how a run's time grows with them is the number of its round trips,
/// and how busy this machine is hardly matters to that.
const TIMES: [u64; 3] = [0, 100, 200];

/// Runs at each of them; the quickest counts.
const RUNS: usize = 6;

/// A room whose box is at the end of a link, and a lease on it.
struct Far {
    line: Line,
    _sshd: Sshd,
    repo: PathBuf,
    lease: String,
    room: Room,
}

impl Far {
    fn new() -> Self {
        let room = Room::new();
        let sshd = Sshd::start(&room);
        let line = Line::start((Ipv4Addr::LOCALHOST, sshd.port).into(), Shape::default());
        room.configure(&sshd.config_through("127.0.0.1", line.addr().port()));
        let repo = room.repo("app");
        for number in 0..100 {
            fs::write(repo.join(format!("f{number}")), format!("file {number}\n")).unwrap();
        }
        let _ = room.crabbox(&repo, ["warmup"]).ok();
        let lease = room.state_files("claims")[0].trim_end_matches(".json").to_owned();
        let far = Self { line, _sshd: sshd, repo, lease, room };
        far.run();
        far
    }

    /// `crabbox` of a user with a warm daemon.
    fn crabbox(&self, args: &[&str]) -> Call {
        self.room.crabbox(&self.repo, args.iter().copied()).env("CRABBOX_DAEMON", "1")
    }

    fn call(&self) -> Call {
        self.crabbox(&["run", "--quiet", "--id", &self.lease, "--", "true"])
    }

    fn run(&self) {
        let _ = self.call().ok();
    }

    /// Round trips of a call before which something happens.
    fn round_trips(&self, before: impl Fn(&Path), call: impl Fn() -> Call) -> f64 {
        let points = TIMES.map(|ms| {
            self.line.reshape(Shape::rtt_ms(ms));
            let quickest = (0..RUNS).map(|_| {
                before(&self.repo);
                let begun = Instant::now();
                let _ = call().ok();
                begun.elapsed()
            });
            (ms as f64, quickest.min().unwrap().as_secs_f64() * 1e3)
        });
        self.line.reshape(Shape::default());
        slope(&points)
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.crabbox(&["daemon", "stop"]).run();
    }
}

/// The slope of the straight line that fits the points best.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / count, y + p.1 / count));
    let rise: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let run: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    rise / run
}

/// Insists on one round trip: a second one would make it two, and none at all would mean that nothing was asked.
fn assert_one_round_trip(counted: f64) {
    assert!((0.7..=1.3).contains(&counted), "{counted:.2} round trips");
}

/// Programs that a call or a daemon starts; the call's own is no part of it.
fn programs(room: &Room, call: Call, daemon: Pid) -> Vec<String> {
    let options = ["-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o"];
    let (mine, theirs) = (room.at("mine.trace"), room.at("theirs.trace"));
    let watch = room.call("strace").args(options).arg(&theirs);
    let watch = watch.args(["-p".to_owned(), daemon.as_raw_nonzero().to_string()]).start();
    eventually("strace watches (sudo apt-get install strace)", Duration::from_secs(10), || {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.as_raw_nonzero()));
        status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    });
    let words = options.map(OsString::from).into_iter().chain([mine.clone().into()]);
    let _ = call.through("strace", words).ok();
    watch.signal(Signal::INT);
    let _ = watch.wait();
    let started = |trace: &Path| -> Vec<String> {
        let text = fs::read_to_string(trace).unwrap_or_default();
        let done = text.lines().filter(|l| l.contains("execve(") && !l.contains("= -1"));
        done.map(str::to_owned).collect()
    };
    let mine = started(&mine);
    assert!(mine.first().is_some_and(|line| line.contains("crabbox")), "{mine:?}");
    mine.into_iter().skip(1).chain(started(&theirs)).collect()
}

#[test]
fn a_warm_run_with_nothing_changed_crosses_the_link_once() {
    let far = Far::new();
    assert_one_round_trip(far.round_trips(|_| (), || far.call()));
}

#[test]
fn a_warm_run_with_one_file_changed_crosses_the_link_once() {
    let far = Far::new();
    let edit = |repo: &Path| {
        let old = fs::read(repo.join("f7")).unwrap();
        fs::write(repo.join("f7"), [old.as_slice(), b"more\n"].concat()).unwrap();
    };
    assert_one_round_trip(far.round_trips(edit, || far.call()));
}

#[test]
fn a_run_on_a_connection_of_its_own_crosses_the_link_at_most_ten_times() {
    let far = Far::new();
    let counted = far.round_trips(|_| (), || far.call().env("CRABBOX_DAEMON", "0"));
    assert!((3.0..=10.0).contains(&counted), "{counted:.2} round trips");
}

#[test]
fn a_warm_run_with_nothing_changed_sends_next_to_nothing() {
    let far = Far::new();
    let before = (far.line.bytes_up(), far.line.bytes_down());
    far.run();
    let (up, down) = (far.line.bytes_up() - before.0, far.line.bytes_down() - before.1);
    assert!(up < 4_000 && down < 4_000, "{up} bytes up, {down} bytes down");
}

#[test]
fn a_warm_run_starts_no_program_here_and_asks_no_provider() {
    let far = Far::new();
    far.run();
    let status = far.crabbox(&["daemon", "status", "--json"]).ok().json();
    let daemon = Pid::from_raw(i32::try_from(status["pid"].as_i64().unwrap()).unwrap()).unwrap();
    let started = programs(&far.room, far.call(), daemon);
    assert_eq!(started, Vec::<String>::new());
}

#[test]
fn the_helper_is_small_enough_to_bring_along() {
    let mut dir = std::env::current_exe().unwrap();
    dir.pop();
    dir.pop();
    let file = dir.join(format!("crabbox-helper-linux-{}", std::env::consts::ARCH));
    let bytes =
        fs::metadata(&file).unwrap_or_else(|e| panic!("{e}: run ./build-helper.sh debug")).len();
    assert!(bytes <= 1_500_000, "{bytes} bytes");
}
