//! What the fault matrix stands on: a box at the end of a link, a command that tells whether all of it arrived, and
//! random points in time that can be chosen again.
//!
//! `CRABBOX_TEST_CASES=300` tries more points, `CRABBOX_TEST_SEED=…` those of an earlier try.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_tests::line::{Line, Shape};
use crabbox_tests::{Call, Ended, Room, Running, Sshd, tree};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Faults of each kind, unless somebody asks for more.
const CASES: u64 = 30;

/// Pseudo-random numbers.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // One step of splitmix64, so that neighbouring seeds have nothing in common.
        let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self((mixed ^ (mixed >> 29)) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn between(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(from_ms + self.below(to_ms - from_ms))
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Bytes that no compression makes fewer.
    pub(crate) fn noise(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8).collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "how many points are tried, and which")]
pub(crate) fn wished(name: &str) -> Option<u64> {
    std::env::var_os(name)?.to_str()?.parse().ok()
}

/// Says which case failed, if one does.
struct Case(u64, u64, bool);

impl Drop for Case {
    #[expect(clippy::print_stderr, reason = "the seed of a failed case, for who repeats it")]
    fn drop(&mut self) {
        let Self(seed, case, daemon) = *self;
        if std::thread::panicking() {
            eprintln!("case {case} (daemon: {daemon}) of CRABBOX_TEST_SEED={seed}");
        }
    }
}

/// Tries every case of one kind of fault, on boxes of their own: the even ones without the daemon, the odd ones with.
pub(crate) fn each_case(case: impl Fn(&mut Field, &mut Dice) + Sync) {
    each_case_of(&[false, true], &case);
}

/// The same in as many lanes as there are words about the daemon.
pub(crate) fn each_case_of(daemons: &[bool], case: &(impl Fn(&mut Field, &mut Dice) + Sync)) {
    let cases = wished("CRABBOX_TEST_CASES").unwrap_or(CASES);
    let clock = std::time::UNIX_EPOCH.elapsed().map_or(1, |at| at.as_nanos() as u64);
    let seed = wished("CRABBOX_TEST_SEED").unwrap_or(clock % 1_000_000);
    std::thread::scope(|scope| {
        for (lane, daemon) in daemons.iter().enumerate() {
            scope.spawn(move || {
                let mut field = Field::new(*daemon);
                for number in (lane as u64..cases).step_by(daemons.len()) {
                    let _told = Case(seed, number, *daemon);
                    case(&mut field, &mut Dice::new(seed.wrapping_mul(1000) + number));
                }
                field.close();
            });
        }
    });
}

/// A repository, and a box that stays, at the end of a link.
pub(crate) struct Field {
    pub(crate) repo: PathBuf,
    pub(crate) line: Line,
    pub(crate) sshd: Sshd,
    pub(crate) room: Room,
    daemon: bool,
    slug: String,
    /// Where every run so far counted its starts.
    starts: Vec<PathBuf>,
}

impl Field {
    pub(crate) fn new(daemon: bool) -> Self {
        let room = Room::new();
        let sshd = Sshd::start(&room);
        Self::on(room, sshd, daemon)
    }

    /// With a server that exists.
    pub(crate) fn on(room: Room, sshd: Sshd, daemon: bool) -> Self {
        let line = Line::start(([127, 0, 0, 1], sshd.port).into(), Shape::rtt_ms(6));
        let config = sshd.config_through("127.0.0.1", line.addr().port());
        room.configure(&format!("{config}ssh:\n  keepalive: 300ms\n"));
        let repo = room.repo("app");
        let mut dice = Dice::new(7);
        for n in 0..40 {
            let dir = repo.join(format!("d{}", n % 4));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("f{n}")), dice.noise(200 + n * 50)).unwrap();
        }
        fs::write(repo.join("large"), dice.noise(300_000)).unwrap();
        room.commit(&repo);
        let slug = "127-0-0-1".to_owned();
        let field = Self { repo, line, sshd, room, daemon, slug, starts: Vec::new() };
        let _ = field.crabbox(&["warmup"]).ok();
        let _ = field.run(&[], "true").ok();
        field
    }

    pub(crate) fn crabbox(&self, args: &[&str]) -> Call {
        let call = self.room.crabbox(&self.repo, args.iter().copied());
        call.env("CRABBOX_DAEMON", if self.daemon { "" } else { "0" })
    }

    /// A line of shell on the box.
    pub(crate) fn run(&self, flags: &[&str], script: &str) -> Call {
        let call = self.crabbox(&["run", "--id", &self.slug]).args(flags.iter().copied());
        call.args(["--", "sh", "-c", script])
    }

    /// One more command that counts its starts and numbers all it prints.
    pub(crate) fn count(&mut self) -> Count {
        let starts = self.room.at(&format!("starts-{}", self.starts.len() + 1));
        self.starts.push(starts.clone());
        Count { starts }
    }

    /// Changes some files here, and sometimes one on the box.
    pub(crate) fn edit(&self, dice: &mut Dice) {
        for _ in 0..=dice.below(5) {
            let path = self.repo.join(format!("d{}/f{}", dice.below(4), dice.below(48)));
            let _ = fs::remove_file(&path);
            let len = dice.below(9000) as usize;
            match dice.below(6) {
                0 => {}
                1 => symlink("f1", &path).unwrap(),
                what => {
                    fs::write(&path, dice.noise(len)).unwrap();
                    let mode = if what == 2 { 0o755 } else { 0o644 };
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                }
            }
        }
        if dice.one_in(2) {
            let len = 50_000 + dice.below(400_000) as usize;
            fs::write(self.repo.join("large"), dice.noise(len)).unwrap();
        }
        if dice.one_in(3) {
            fs::write(self.tree().join("large"), "changed behind our back").unwrap();
        }
    }

    /// The tree on the box.
    pub(crate) fn tree(&self) -> PathBuf {
        tree_below(&self.sshd.work_root)
    }

    pub(crate) fn assert_tree(&self) {
        tree::assert_same(&self.repo, &self.tree());
    }

    /// Everything right: all output, the command's own status, one start, the same tree.
    pub(crate) fn assert_exact(&self, count: &Count, ended: Ended) {
        count.assert_whole(&ended);
        count.assert_once(&ended);
        self.assert_tree();
    }

    /// A run without any fault works, and at once.
    pub(crate) fn assert_works(&mut self) {
        let count = self.count();
        let ended = self.run(&[], &count.script()).limit(Duration::from_secs(20)).run();
        self.assert_exact(&count, ended);
    }

    /// What is known of the last run.
    pub(crate) fn last(&self) -> Value {
        let runs = self.crabbox(&["history", "--json"]).ok().json();
        runs.get(0).cloned().unwrap_or_default()
    }

    /// Processes of the helper in one of its modes.
    pub(crate) fn helpers(&self, mode: &str) -> Vec<Pid> {
        let all = self.room.processes().into_iter();
        let of = |line: &str| {
            let mut words = line.split(' ');
            words.next().is_some_and(|name| name.contains("helper")) && words.next() == Some(mode)
        };
        all.filter(|(_, line)| of(line)).map(|(pid, _)| pid).collect()
    }

    /// Kills what the mode names, as soon as there is any and while the command runs; false when there was nothing.
    pub(crate) fn kill(&self, mode: &str, running: &mut Running) -> bool {
        loop {
            let found = self.helpers(mode);
            for pid in &found {
                let _ = kill_process(*pid, Signal::KILL);
            }
            if !found.is_empty() {
                return true;
            }
            if running.ended() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The daemon's process, if there is one.
    pub(crate) fn daemon(&self) -> Option<Pid> {
        let status = self.crabbox(&["daemon", "status", "--json"]).run();
        let pid = serde_json::from_slice::<Value>(&status.stdout).ok()?["pid"].as_i64()?;
        Pid::from_raw(i32::try_from(pid).ok()?)
    }

    /// Gives the box back. Nothing was started twice, also not later.
    pub(crate) fn close(&self) {
        for starts in &self.starts {
            let count = Count { starts: starts.clone() };
            assert!(count.started() <= 1, "{} in {}", count.started(), starts.display());
        }
        let _ = self.crabbox(&["stop", &self.slug]).ok();
        // Whoever asks a box for the ends of its runs may have begun one.
        let _ = self.crabbox(&["daemon", "stop"]).run();
    }
}

/// The repository's tree below a work root.
pub(crate) fn tree_below(root: &Path) -> PathBuf {
    let boxes = fs::read_dir(root).unwrap().flatten();
    boxes.map(|lease| lease.path().join("app")).find(|tree| tree.is_dir()).expect("a tree")
}

/// A command whose output tells whether all of it arrived.
pub(crate) struct Count {
    pub(crate) starts: PathBuf,
}

/// Lumps of output.
const LUMPS: u32 = 6;

impl Count {
    pub(crate) fn script(&self) -> String {
        format!(
            "echo x >>{}; for i in $(seq {LUMPS}); do seq $((i * 1000)) $((i * 1000 + 999)); \
             echo \"lump $i\" >&2; sleep 0.07; done; exit 5",
            self.starts.display()
        )
    }

    pub(crate) fn started(&self) -> usize {
        fs::read_to_string(&self.starts).unwrap_or_default().lines().count()
    }

    pub(crate) fn assert_whole(&self, ended: &Ended) {
        let wanted: String =
            (1000..u64::from(LUMPS + 1) * 1000).map(|n| format!("{n}\n")).collect();
        assert!(
            ended.code == 5 && ended.out() == wanted,
            "{} bytes\n{}",
            ended.stdout.len(),
            brief(ended)
        );
        let err = ended.err();
        let lumps: Vec<_> = err.lines().filter(|line| line.starts_with("lump ")).collect();
        let wanted: Vec<_> = (1..=LUMPS).map(|n| format!("lump {n}")).collect();
        assert!(lumps == wanted, "{}", brief(ended));
    }

    pub(crate) fn assert_once(&self, ended: &Ended) {
        assert_eq!(self.started(), 1, "{}", brief(ended));
    }
}

/// How it ended, without most of what it printed.
pub(crate) fn brief(ended: &Ended) -> String {
    let out = ended.out();
    let (first, last) = (out.lines().next(), out.lines().last());
    format!("exit {}, stdout {first:?} to {last:?}\n{}", ended.code, ended.err())
}
