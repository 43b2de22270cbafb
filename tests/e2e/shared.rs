//! Runs over a connection that the user's own OpenSSH shares.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crabbox_tests::{Room, Running, Sshd, eventually};
use rustix::process::Signal;

/// A user whose OpenSSH shares a connection to their host.
struct Sharer {
    repo: PathBuf,
    master: Running,
    _sshd: Sshd,
    room: Room,
}

impl Sharer {
    fn new() -> Self {
        let room = Room::new();
        let sshd = Sshd::start(&room);
        let socket = room.at("home/.ssh/shared");
        fs::create_dir_all(room.at("home/.ssh")).unwrap();
        let config = format!("Host 127.0.0.1\n  ControlPath {}\n", socket.display());
        fs::write(room.at("home/.ssh/config"), config).unwrap();
        let (port, to) = (sshd.port.to_string(), format!("{}@127.0.0.1", sshd.user));
        let path = format!("ControlPath={}", socket.display());
        let mut ssh = room.call("ssh").args(["-F", "none", "-M", "-N", "-p", &port, "-o", &path]);
        ssh = ssh.arg("-i").arg(&sshd.key).args(["-o", "StrictHostKeyChecking=no"]);
        ssh = ssh.args(["-o", "UserKnownHostsFile=/dev/null", &to]);
        let master = ssh.limit(Duration::from_secs(300)).start();
        eventually("a shared connection", Duration::from_secs(20), || socket.exists());
        room.configure(&sshd.config());
        let repo = room.repo("app");
        Self { repo, master, _sshd: sshd, room }
    }

    fn run(&self, script: &str) -> crabbox_tests::Call {
        let words = ["run", "--debug", "--no-daemon", "--", "sh", "-c", script];
        self.room.crabbox(&self.repo, words)
    }

    /// A script that notes its start and then does this.
    fn noting(&self, script: &str) -> String {
        format!("echo x >>{}; {script}", self.room.at("starts").display())
    }

    fn started_once(&self) {
        assert_eq!(fs::read_to_string(self.room.at("starts")).unwrap(), "x\n");
    }
}

const SHARED: &str = "transport: the connection that OpenSSH shares";

#[test]
fn a_run_over_a_shared_connection_is_a_run_like_any_other() {
    let sharer = Sharer::new();
    fs::write(sharer.repo.join("new"), "sent\n").unwrap();
    let script = "cat new -; echo problem >&2; exit 7";
    let ended = sharer.run(script).stdin("typed\n").run().expect(7).says(&[SHARED, "problem"]);
    assert_eq!(ended.out(), "sent\ntyped\n");
    let _ = sharer.room.crabbox(&sharer.repo, ["warmup"]).ok();
    let seen = sharer.room.crabbox(&sharer.repo, ["inspect", "127-0-0-1"]).ok().out();
    assert!(seen.contains("transport=openssh\n") && seen.contains("helper=static\n"), "{seen}");
}

#[test]
fn ctrl_c_reaches_a_command_over_a_shared_connection() {
    let sharer = Sharer::new();
    let running = sharer.run("sleep 301 & sleep 302 & echo begun; wait").start();
    running.prints("begun");
    let began = Instant::now();
    running.signal(Signal::INT);
    let _ = running.wait().expect(130).says(&[SHARED]);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let left = || sharer.room.processes().into_iter().any(|(_, line)| line.contains("sleep 30"));
    eventually("the command is gone", Duration::from_secs(5), || !left());
}

#[test]
fn a_run_whose_master_is_killed_goes_on_over_a_connection_of_its_own() {
    let sharer = Sharer::new();
    let go = sharer.room.at("go");
    let script = format!(
        "seq 1000; until [ -e {} ]; do sleep 0.1; done; seq 1001 2000; exit 5",
        go.display()
    );
    let running = sharer.run(&sharer.noting(&script)).start();
    running.prints("1000\n");
    sharer.master.signal(Signal::KILL);
    running.says("connected again");
    fs::write(go, "").unwrap();
    let ended = running.wait().expect(5).says(&[SHARED, "connection lost"]);
    assert_eq!(ended.out(), (1..=2000).map(|n| format!("{n}\n")).collect::<String>());
    sharer.started_once();
}
