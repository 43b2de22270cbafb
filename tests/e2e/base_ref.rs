//! `sync.baseRef`: a command on the box that asks git what changed is told the truth.

use std::fs;
use std::path::PathBuf;

use crabbox_tests::{Call, Room, Sshd};

/// A repository on a branch with one commit more than `main`, and a box that stays.
struct Bench {
    sshd: Sshd,
    repo: PathBuf,
    room: Room,
}

const CHANGED: &str = "git diff --name-only main | xargs; git branch --show-current";

impl Bench {
    fn new() -> Self {
        let room = Room::new();
        let sshd = Sshd::start(&room);
        room.configure(&format!("{}sync:\n  baseRef: main\n", sshd.config()));
        let repo = room.repo("app");
        room.git(&repo, ["branch", "-M", "main"]);
        room.git(&repo, ["checkout", "-q", "-b", "topic"]);
        fs::write(repo.join("committed"), "on the branch\n").unwrap();
        room.commit(&repo);
        fs::write(repo.join("hello.txt"), "not committed\n").unwrap();
        let _ = room.crabbox(&repo, ["warmup"]).ok();
        Self { repo, room, sshd }
    }

    fn run(&self, script: &str) -> Call {
        self.room.crabbox(&self.repo, ["run", "--id", "127-0-0-1", "--", "sh", "-c", script])
    }

    fn changed(&self) -> String {
        self.run(CHANGED).ok().out()
    }
}

#[test]
fn the_box_knows_what_changed_whatever_was_done_there_and_here() {
    let bench = Bench::new();
    let told = "committed hello.txt\ntopic\n";
    assert_eq!(bench.changed(), told);
    for harm in [
        "git -c user.name=t -c user.email=t@t commit -q -a -m theirs",
        "git checkout -q -f main",
        "rm -rf .git",
        "touch .git/index.lock",
    ] {
        let _ = bench.run(harm).ok();
        assert_eq!(bench.changed(), told, "after {harm}");
    }
    bench.room.git(&bench.repo, ["stash", "-q"]);
    bench.room.git(&bench.repo, ["checkout", "-q", "-b", "other", "main"]);
    fs::write(bench.repo.join("elsewhere"), "on the other branch\n").unwrap();
    bench.room.commit(&bench.repo);
    assert_eq!(bench.changed(), "elsewhere\nother\n");
    let _ = bench.room.crabbox(&bench.repo, ["stop", "127-0-0-1"]).ok();
}

#[test]
fn without_a_base_the_checkout_on_the_box_goes_and_only_ours() {
    let bench = Bench::new();
    let _ = bench.changed();
    let look = "[ -e .git ] && echo there || echo gone";
    assert_eq!(bench.run(look).ok().out(), "there\n");
    let config = bench.sshd.config();
    bench.room.configure(&config);
    assert_eq!(bench.run(look).ok().out(), "gone\n");
    let _ = bench.run("git init -q .").ok();
    assert_eq!(bench.run(look).ok().out(), "there\n", "it is somebody else's");
    bench.room.configure(&format!("{config}sync:\n  baseRef: nowhere\n"));
    let ended = bench.room.crabbox(&bench.repo, ["run", "--", "true"]).run().expect(6);
    assert!(!ended.err().contains("lease"), "nothing was leased: {ended}");
    let _ = bench.room.crabbox(&bench.repo, ["stop", "127-0-0-1"]).ok();
}

#[test]
fn a_submodule_at_another_commit_counts_as_changed() {
    let bench = Bench::new();
    let other = bench.room.repo("other");
    let other = other.to_str().unwrap();
    let add = ["-c", "protocol.file.allow=always", "submodule", "add", "-q", other, "in side"];
    bench.room.git(&bench.repo, add);
    assert_eq!(bench.changed(), "committed hello.txt in side\ntopic\n", "a new one");
    bench.room.commit(&bench.repo);
    bench.room.git(&bench.repo, ["branch", "-q", "-f", "main"]);
    assert_eq!(bench.changed(), "\ntopic\n");
    let inside = bench.repo.join("in side");
    fs::write(inside.join("hello.txt"), "moved on\n").unwrap();
    bench.room.commit(&inside);
    assert_eq!(bench.changed(), "in side\ntopic\n");
    assert_eq!(bench.run("cat 'in side/hello.txt'").ok().out(), "moved on\n");
    bench.room.git(&inside, ["checkout", "-q", "HEAD~1"]);
    assert_eq!(bench.changed(), "\ntopic\n");
    let _ = bench.room.crabbox(&bench.repo, ["stop", "127-0-0-1"]).ok();
}

#[test]
fn runs_beside_each_other_each_see_their_own_commits() {
    let bench = Bench::new();
    let look = "git rev-parse HEAD; git diff --name-only main | xargs";
    let wait = "echo here; while [ ! -e ../go ]; do sleep 0.05; done";
    let first = bench.run(&format!("{look}; {wait}; {look}; rm ../go")).start();
    first.prints("here");
    let head = bench.room.git(&bench.repo, ["rev-parse", "HEAD"]);
    let before = format!("{head}committed hello.txt\n");
    fs::write(bench.repo.join("later"), "one more\n").unwrap();
    bench.room.commit(&bench.repo);
    let after = bench.room.git(&bench.repo, ["rev-parse", "HEAD"]);
    let after = format!("{after}committed hello.txt later\n");
    let second = bench.run(look).start();
    second.says("waiting");
    // A private copy does not wait, and knows the new commit too.
    let call = bench
        .room
        .crabbox(&bench.repo, ["run", "--id", "127-0-0-1", "--isolate", "--", "sh", "-c", look]);
    assert_eq!(call.ok().out(), after);
    let leases = fs::read_dir(&bench.sshd.work_root).unwrap().flatten();
    let base = leases.map(|lease| lease.path()).find(|lease| lease.join("app").is_dir()).unwrap();
    fs::write(base.join("go"), "").unwrap();
    assert_eq!(first.wait().expect(0).out(), format!("{before}here\n{before}"));
    assert_eq!(second.wait().expect(0).out(), after);
    let _ = bench.room.crabbox(&bench.repo, ["stop", "127-0-0-1"]).ok();
}
