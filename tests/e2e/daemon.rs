//! The warm daemon: boxes that stay are reached through it, nothing needs it, and it can be killed at any moment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crabbox_tests::{Call, Room, Sshd, eventually};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

/// A room with a host of the user's own, warm, and a repository.
struct House {
    sshd: Sshd,
    repo: PathBuf,
    room: Room,
}

impl House {
    fn new() -> Self {
        let room = Room::new();
        let sshd = Sshd::start(&room);
        room.configure(&sshd.config());
        let repo = room.repo("app");
        Self { sshd, repo, room }
    }

    /// `crabbox` as a user who did not say anything about a daemon.
    fn crabbox(&self, args: &[&str]) -> Call {
        self.room.crabbox(&self.repo, args.iter().copied()).env("CRABBOX_DAEMON", "")
    }

    /// Runs a line of shell on the box that stays.
    fn run(&self, script: &str) -> Call {
        self.crabbox(&["--debug", "run", "--id", "127-0-0-1", "--", "sh", "-c", script])
    }

    fn warm(&self) {
        let _ = self.crabbox(&["warmup"]).ok();
    }

    /// What it says of itself. On a busy machine it may need more than one call to say hello in time.
    fn status(&self) -> Value {
        let call = || self.crabbox(&["daemon", "status", "--json"]).run();
        let mut said = call();
        for _ in 0..20 {
            if said.code != 0 {
                said = call();
            }
        }
        said.expect(0).json()
    }

    /// The daemon's process.
    fn pid(&self) -> Pid {
        let status = self.status();
        let pid = status["pid"].as_i64().unwrap_or_else(|| panic!("no daemon: {status}"));
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    fn logins(&self) -> usize {
        self.sshd.log().matches("Accepted publickey").count()
    }

    fn stop(&self) {
        let _ = self.crabbox(&["daemon", "stop"]).ok();
        let _ = self.crabbox(&["stop", "127-0-0-1"]).ok();
    }
}

fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_ok() && stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn run_after_run_shares_one_connection_and_one_helper() {
    let house = House::new();
    house.warm();
    // One that a busy machine keeps from saying hello in time is done without, at the price of a login.
    let alone = || {
        let ended = house.run("echo hi").ok();
        assert_eq!(ended.out(), "hi\n");
        ended.err().contains("without the warm daemon")
    };
    let bypassed = std::iter::repeat_with(alone).take(3).filter(|alone| *alone).count();
    assert!(bypassed < 3 && house.logins() == 1 + bypassed, "{}", house.sshd.log());
    let status = house.status();
    let kept = &status["connections"];
    assert_eq!(
        (kept.as_array().map(Vec::len), &kept[0]["helper"]),
        (Some(1), &true.into()),
        "{status}"
    );
    let socket = PathBuf::from(status["socket"].as_str().unwrap());
    assert!(socket.starts_with(house.room.at("run")));
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    assert_eq!(mode(&house.room.state().join("daemon/daemon.log")), 0o600);
    let pid = house.pid();
    let environ = fs::read_to_string(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap();
    assert!(!environ.contains("CRABBOX_PLUGIN_DIR") && environ.contains("HOME="), "{environ}");
    let text = house.crabbox(&["daemon", "status"]).ok().out();
    assert!(text.starts_with("running pid=") && text.contains("\nbox 127.0.0.1:"), "{text}");
    house.stop();
    assert!(!lives(pid));
    assert_eq!(house.crabbox(&["daemon", "status"]).ok().out(), "not running\n");
    let _ = house.crabbox(&["daemon", "stop"]).ok();
    house.room.assert_no_claims();
}

#[test]
fn nothing_starts_it_where_it_is_not_wanted() {
    let house = House::new();
    let off = [("CI", "true"), ("CRABBOX_DAEMON", "0")];
    for (name, value) in off {
        let _ = house.crabbox(&["warmup"]).env(name, value).ok();
        assert_eq!(house.run("echo hi").env(name, value).ok().out(), "hi\n");
    }
    let _ = house.crabbox(&["--no-daemon", "run", "--id", "127-0-0-1", "--", "true"]).ok();
    let _ = house.crabbox(&["run", "--", "true"]).ok();
    assert_eq!(house.status()["running"], false);
    let _ = house.run("true").env("CI", "true").env("CRABBOX_DAEMON", "1").ok();
    assert_eq!(house.status()["running"], true, "somebody asked for it");
    house.stop();
}

#[test]
fn a_daemon_that_hangs_is_done_without() {
    let house = House::new();
    house.warm();
    let quick = Instant::now();
    let _ = house.crabbox(&["--no-daemon", "run", "--id", "127-0-0-1", "--", "true"]).ok();
    let quick = quick.elapsed();
    let pid = house.pid();
    kill_process(pid, Signal::STOP).unwrap();
    let began = Instant::now();
    let ended = house.run("echo hi").ok().says(&["without the warm daemon: it does not answer"]);
    let took = began.elapsed();
    assert_eq!(ended.out(), "hi\n");
    assert!(took < quick + Duration::from_secs(1), "{took:?} instead of {quick:?}");
    let _ = house.crabbox(&["daemon", "status"]).run().expect(1).says(&["does not answer"]);
    house.stop();
    assert!(!lives(pid));
}

#[test]
fn a_daemon_that_hangs_while_it_is_used_is_left() {
    let house = House::new();
    house.warm();
    let running = house.run("echo one; while [ ! -e go ]; do sleep 0.1; done; echo two").start();
    running.prints("one");
    let pid = house.pid();
    kill_process(pid, Signal::STOP).unwrap();
    running.says("connection");
    fs::write(tree(&house).join("go"), "").unwrap();
    assert_eq!(running.wait().expect(0).out(), "one\ntwo\n");
    house.stop();
}

/// The repository's tree on the box.
fn tree(house: &House) -> PathBuf {
    let boxes = fs::read_dir(&house.sshd.work_root).unwrap().flatten();
    boxes.map(|lease| lease.path().join("app")).find(|tree| tree.is_dir()).expect("a tree")
}

#[test]
fn a_daemon_nobody_uses_ends() {
    let house = House::new();
    let brief = |call: Call| call.env("CRABBOX_DAEMON_IDLE_TIMEOUT", "1s");
    let _ = brief(house.crabbox(&["warmup"])).ok();
    let pid = house.pid();
    eventually("the daemon ends", Duration::from_secs(20), || !lives(pid));
    assert_eq!(brief(house.run("echo hi")).ok().out(), "hi\n");
    house.stop();
}

#[test]
fn what_is_no_daemon_is_done_without_and_left_alone() {
    let house = House::new();
    house.warm();
    let _ = house.crabbox(&["daemon", "stop"]).ok();
    let socket = PathBuf::from(house.status()["socket"].as_str().unwrap());
    let foreign = format!("another program (process {})", std::process::id());
    let listener = UnixListener::bind(&socket).unwrap();
    let refused = |why: &str| {
        for asked in ["status", "stop"] {
            let place = socket.to_str().unwrap();
            let _ = house.crabbox(&["daemon", asked]).run().expect(1).says(&[why, place]);
        }
        let done = house.run("echo hi").ok().says(&["without the warm daemon"]);
        assert_eq!(done.out(), "hi\n");
    };
    refused(&foreign);
    drop(listener);
    fs::remove_file(&socket).unwrap();
    fs::create_dir(&socket).unwrap();
    refused("it is not a socket");
    fs::remove_dir(&socket).unwrap();
    house.stop();
}

#[test]
#[cfg(target_os = "linux")]
fn a_stranger_is_turned_away() {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use crabbox_tests::gone_without;

    let house = House::new();
    house.warm();
    let socket = PathBuf::from(house.status()["socket"].as_str().unwrap());
    let mut hello = [0];
    assert_eq!(UnixStream::connect(&socket).unwrap().read(&mut hello).unwrap(), 1);
    if !rustix::process::geteuid().is_root() {
        let without = gone_without("CRABBOX_TEST_STRANGER", "root, to be somebody else");
        assert!(without, "run the tests as root, or say CRABBOX_TEST_STRANGER=0 to go without");
        return house.stop();
    }
    // Even with the doors wide open.
    let doors = socket.ancestors().take_while(|dir| dir.starts_with(house.room.path()));
    let doors: Vec<_> = doors.map(|door| (door.to_owned(), mode(door))).collect();
    let open = |mode| fs::Permissions::from_mode(mode);
    doors.iter().for_each(|(door, _)| fs::set_permissions(door, open(0o777)).unwrap());
    let stranger = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let mut door = UnixStream::connect(&socket).unwrap();
        let mut said = Vec::new();
        let _ = door.read_to_end(&mut said);
        said
    });
    assert_eq!(stranger.join().unwrap(), b"");
    doors.iter().for_each(|(door, mode)| fs::set_permissions(door, open(*mode)).unwrap());
    let _ = house.run("true").ok();
    house.stop();
}

/// Prints numbers, slowly enough to be hit in between, and counts its starts.
const COUNT: &str = "echo start >>\"$HOME/starts\"; n=0; while [ $n -lt 300 ]; do n=$((n+1)); \
                     echo line $n; [ $((n % 10)) = 0 ] && sleep 0.02; done; exit 7";

#[test]
fn killed_at_any_moment_the_daemon_takes_nothing_with_it() {
    let house = House::new();
    house.warm();
    let expected: String = (1..=300).map(|n| format!("line {n}\n")).collect();
    for round in 0..30_u64 {
        let _ = house.run("true").ok();
        let pid = house.pid();
        let running = house.run(COUNT).start();
        // Spread over all of it: connecting, syncing, running, ending.
        std::thread::sleep(Duration::from_millis(round * 37 % 1000));
        kill_process(pid, Signal::KILL).unwrap();
        let ended = running.wait().expect(7);
        assert!(ended.out() == expected, "round {round}\n{ended}");
    }
    let starts = fs::read_to_string(house.room.at("sshd/home/starts")).unwrap();
    assert_eq!(starts.lines().count(), 30, "each command started once");
    house.stop();
}

#[test]
fn a_watched_tree_is_sent_as_it_is() {
    let house = House::new();
    house.warm();
    for round in 0..12 {
        let at = |name: &str| house.repo.join(name);
        match round % 6 {
            0 => fs::write(at("hello.txt"), format!("round {round}\n")).unwrap(),
            1 => fs::create_dir_all(at("deep/er")).unwrap(),
            2 => fs::write(at("deep/er/file"), format!("deep {round}\n")).unwrap(),
            3 => fs::rename(at("deep"), at("moved")).unwrap(),
            4 => fs::write(at(".gitignore"), "hello.*\n").unwrap(),
            _ => {
                fs::remove_dir_all(at("moved")).unwrap();
                fs::remove_file(at(".gitignore")).unwrap();
            }
        }
        let list = "find . -path ./.git -prune -o -type f -print | sort | xargs md5sum";
        let here = house.room.call("sh").dir(&house.repo).args(["-c", list]).ok().out();
        assert_eq!(house.run(list).ok().out(), here, "round {round}");
    }
    let watched = &house.status()["watched"];
    assert_eq!(watched.as_array().map(Vec::len), Some(1), "{watched}");
    house.stop();
}
