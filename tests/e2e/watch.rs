//! `crabbox watch`: a change is followed by a run, on one box, until it is ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crabbox_tests::{Room, Running, eventually};
use rustix::process::Signal;

/// A watch of a repository, its runs counted by what they print.
struct Watched {
    running: Running,
    repo: PathBuf,
    room: Room,
}

impl Watched {
    fn start(flags: &[&str], script: &str) -> Self {
        let room = Room::new();
        let repo = room.repo("app");
        Self::of(room, repo, flags, script)
    }

    fn of(room: Room, repo: PathBuf, flags: &[&str], script: &str) -> Self {
        fs::write(repo.join(".gitignore"), "ignored\ntarget\n").unwrap();
        let args = [&["watch", "--debounce", "100ms"], flags, &["--", "sh", "-c", script]].concat();
        let running = room.crabbox(&repo, args).start();
        Self { running, repo, room }
    }

    fn write(&self, file: &str, text: &str) {
        fs::create_dir_all(self.repo.join(file).parent().unwrap()).unwrap();
        fs::write(self.repo.join(file), text).unwrap();
    }

    /// Waits until it waits again.
    fn waits(&self, times: usize) {
        eventually("it waits for changes", Duration::from_secs(60), || {
            self.running.stderr().matches("waiting for changes").count() >= times
        });
    }

    fn runs(&self) -> usize {
        self.running.stdout().matches("begin").count()
    }

    fn interrupt(&self) {
        self.running.signal(Signal::INT);
    }
}

const SHOW: &str = "echo begin; cat hello.txt; echo end; test ! -e fail";

#[test]
fn each_change_is_followed_by_a_run_on_the_same_box() {
    let watched = Watched::start(&[], SHOW);
    watched.waits(1);
    for (n, text) in ["one\n", "two\n", "three\n"].into_iter().enumerate() {
        watched.write("hello.txt", text);
        watched.running.prints(text);
        watched.waits(n + 2);
    }
    watched.write("fail", "");
    watched.waits(5);
    assert_eq!((watched.runs(), watched.room.state_files("claims").len()), (5, 1));
    watched.interrupt();
    let ended = watched.running.wait().expect(1);
    assert!(ended.err().matches("provisioned").count() == 1, "{ended}");
    assert!(ended.err().matches("no provider is configured").count() <= 1, "{ended}");
    assert!(!ended.err().contains("--keep was given"), "{ended}");
    watched.room.assert_nothing_left();
}

#[test]
fn what_git_is_told_to_track_starts_a_run() {
    track(Watched::start(&[], TRACKED));
}

#[test]
fn so_it_does_in_a_linked_work_tree() {
    let room = Room::new();
    let (main, linked) = (room.repo("app"), room.at("linked"));
    room.git(&main, ["worktree", "add", "-q", linked.to_str().unwrap()]);
    track(Watched::of(room, linked, &[], TRACKED));
}

const TRACKED: &str = "echo begin; test -e ignored && echo tracked; true";

fn track(watched: Watched) {
    watched.write("ignored", "x");
    watched.waits(1);
    watched.room.git(&watched.repo, ["add", "-f", "ignored"]);
    watched.running.prints("tracked");
    watched.waits(2);
    watched.room.git(&watched.repo, ["rm", "-q", "--cached", "ignored"]);
    watched.waits(3);
    assert_eq!(watched.running.stdout().matches("tracked").count(), 1);
    watched.interrupt();
    let _ = watched.running.wait().expect(0);
}

#[test]
fn what_is_not_sent_and_what_is_undone_starts_nothing() {
    let watched = Watched::start(&[], SHOW);
    watched.waits(1);
    let quiet = [("ignored", "x"), ("target/debug/x", "x"), (".git/x", "x")];
    quiet.into_iter().for_each(|(file, text)| watched.write(file, text));
    watched.write("hello.txt", "changed\n");
    watched.write("hello.txt", "hello\n");
    // Something that counts, to know that the others were looked at.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(watched.runs(), 1, "{}", watched.running.stderr());
    watched.write("hello.txt", "now\n");
    watched.running.prints("now\nend");
    watched.waits(2);
    assert_eq!(watched.runs(), 2);
    watched.interrupt();
    let _ = watched.running.wait().expect(0);
    watched.room.assert_nothing_left();
}

#[test]
fn a_change_during_a_run_is_followed_by_one_more() {
    let script = "echo begin; cat hello.txt; while [ -e hold ]; do sleep 0.05; done; echo end";
    let watched = Watched::start(&[], script);
    watched.waits(1);
    watched.write("hold", "");
    eventually("the second run", Duration::from_secs(30), || watched.runs() == 2);
    for text in ["a\n", "b\n", "c\n"] {
        watched.write("hello.txt", text);
        std::thread::sleep(Duration::from_millis(150));
    }
    assert_eq!(watched.runs(), 2, "it is not disturbed");
    fs::remove_file(watched.repo.join("hold")).unwrap();
    let held = boxed(watched.room.path(), "hold");
    fs::remove_file(held).unwrap();
    watched.running.prints("begin\nc\nend");
    watched.waits(2);
    assert_eq!(watched.runs(), 3, "{}", watched.running.stdout());
    watched.interrupt();
    let _ = watched.running.wait().expect(0);
}

/// A file of the tree on the one box in a room.
fn boxed(room: &Path, name: &str) -> PathBuf {
    let boxes = room.join("state/crabbox/plugins/crabbox-local/boxes");
    let works = fs::read_dir(boxes)
        .unwrap()
        .flatten()
        .flat_map(|b| fs::read_dir(b.path().join("work")).into_iter().flatten().flatten());
    works.map(|lease| lease.path().join("app").join(name)).find(|file| file.exists()).unwrap()
}

#[test]
fn with_restart_a_change_ends_the_run_under_way() {
    let script = "echo begin; cat hello.txt; if [ -e hold ]; then sleep 1000; fi; echo end";
    let watched = Watched::start(&["--restart"], script);
    watched.waits(1);
    watched.write("hold", "");
    eventually("the second run", Duration::from_secs(30), || watched.runs() == 2);
    watched.write("ignored", "not worth an end");
    watched.write("hello.txt", "again\n");
    watched.running.prints("begin\nagain\n");
    fs::remove_file(watched.repo.join("hold")).unwrap();
    watched.running.prints("begin\nagain\nend");
    watched.waits(2);
    watched.interrupt();
    let said = watched.running.wait().expect(0).says(&["the tree changed: stopping"]).err();
    assert!(!said.contains("error:"), "nobody was interrupted: {said}");
    watched.room.assert_nothing_left();
}

#[test]
fn it_ends_by_itself_when_nothing_changes_and_keeps_what_it_was_told_to_keep() {
    let watched = Watched::start(&["--idle-exit", "1s", "--keep"], SHOW);
    let _ = watched.running.wait().expect(0);
    assert_eq!(watched.room.state_files("claims").len(), 1);
}

#[test]
fn through_the_daemon_a_save_is_run_at_once() {
    let room = Room::new();
    let repo = room.repo("app");
    let args = ["watch", "--debounce", "10ms", "--idle-exit", "60s", "--", "cat", "hello.txt"];
    let running = room.crabbox(&repo, args).env("CRABBOX_DAEMON", "1").start();
    let watched = Watched { running, repo, room };
    watched.waits(1);
    let mut times = Vec::new();
    for n in 0..10 {
        let text = format!("save {n}\n");
        let began = Instant::now();
        watched.write("hello.txt", &text);
        watched.running.prints(&text);
        times.push(began.elapsed());
        watched.waits(n + 2);
    }
    times.sort();
    assert!(times[5] < Duration::from_secs(2), "{times:?}");
    watched.interrupt();
    let _ = watched.running.wait().expect(0);
    let _ = watched.room.crabbox(&watched.repo, ["daemon", "stop"]).ok();
    watched.room.assert_nothing_left();
}

#[test]
fn a_box_of_another_checkout_ends_it_at_once() {
    let room = Room::new();
    let (mine, other) = (room.repo("mine"), room.repo("other"));
    let _ = room.crabbox(&mine, ["warmup", "--slug", "mine"]).ok();
    let said = room.crabbox(&other, ["watch", "--id", "mine", "--", "true"]).run().expect(2);
    assert!(said.err().contains("--reclaim"), "{}", said.err());
    let _ = room.crabbox(&mine, ["stop", "mine"]).ok();
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let room = Room::new();
    let repo = room.repo("app");
    for flag in ["--no-sync", "--detach", "--script-stdin"] {
        let _ = room.crabbox(&repo, ["watch", flag, "--", "true"]).run().expect(2).says(&[flag]);
    }
}
