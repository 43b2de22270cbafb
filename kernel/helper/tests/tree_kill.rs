//! A helper that is killed anywhere in a flight harms nothing: the next flight ends exact.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[path = "tree/laptop.rs"]
mod laptop;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crabbox_helper::tree::Tree;
use laptop::{File, Files, Laptop, Manner, noise};

/// Set in the child: the work root.
const ROOT: &str = "CRABBOX_TEST_TREE_ROOT";

/// The files of a round; neighbours share some, replace some, move some, and change kinds.
fn files(round: u64) -> Files {
    let mut files = Files::default();
    for n in 0..60 {
        let seed = if n % 3 == 0 { n } else { n + round * 100 };
        let dir = if n % 5 == 0 { round % 4 } else { n % 7 };
        files.put(&format!("d{dir}/s{}/f{n}", n % 3), &noise(300, seed));
    }
    files.put("large", &[noise(1 << 20, 1), noise(100, round), noise(1 << 19, 2)].concat());
    match round % 3 {
        0 => files.put("kind", b"file"),
        1 => files.put("kind/now/a/directory", b"deep"),
        _ => {
            files.0.insert("kind".into(), File::Link("large".into()));
        }
    }
    files
}

fn open(root: &Path) -> Tree {
    Tree::open(&root.join("cbx_1"), "repo", "cbx_1").unwrap()
}

/// Not a test of its own: what the child does. It flies from round to round as it is told.
#[test]
fn child() {
    #[expect(clippy::disallowed_methods, reason = "how this process learns that it is the child")]
    let Some(root) = std::env::var_os(ROOT) else { return };
    let mut tree = open(root.as_ref());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let round: u64 = line.trim().parse().unwrap();
    let mut laptop = Laptop::new();
    let ready = |word: &str| {
        let mut out = std::io::stdout();
        out.write_all(format!("\n{word}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
    };
    ready("begins");
    let manner = Manner { ask: round.is_multiple_of(2), ..Manner::default() };
    laptop.fly_so(&mut tree, &files(round), manner).unwrap();
    ready("ended");
}

fn spawn(root: &Path, round: u64) -> Child {
    #[expect(clippy::disallowed_methods, reason = "the child is what is killed")]
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(ROOT, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{round}").unwrap();
    child
}

/// Waits for a word of the child; how long it took.
fn wait_for(out: &mut impl BufRead, word: &str) -> Duration {
    let from = Instant::now();
    let mut line = String::new();
    while line.trim() != word {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the child never said {word:?}");
    }
    from.elapsed()
}

#[test]
fn a_flight_killed_at_any_moment_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mut whole = Duration::MAX;
    for round in 0..4 {
        let mut child = spawn(root, round);
        let mut out = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut out, "begins");
        whole = whole.min(wait_for(&mut out, "ended"));
        assert!(child.wait().unwrap().success());
    }
    let built = root.join("cbx_1/repo/built");
    std::fs::write(&built, "by a command").unwrap();
    let (mut killed, mut interrupted) = (0, 0);
    for round in 4..64u32 {
        let mut child = spawn(root, round.into());
        let mut out = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut out, "begins");
        let unfinished = root.join("cbx_1/.crabbox/tree/repo/unfinished");
        if round % 4 == 0 {
            // As soon as it writes to the tree, however fast this machine is.
            while !unfinished.exists() && child.try_wait().unwrap().is_none() {}
        } else {
            // The moment is what varies; nothing waits for anything here.
            std::thread::sleep(whole * (round % 30) / 25);
        }
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        interrupted += u32::from(unfinished.exists());
        if round % 3 == 0 {
            // Killed again on the way to something else.
            continue;
        }
        // Sometimes to what was wanted, sometimes back to what was there.
        let next = u64::from(if round % 2 == 0 { round } else { round - 1 });
        let mut tree = open(root);
        Laptop::new().fly(&mut tree, &files(next));
        let mut all = files(next);
        all.put("built", b"by a command");
        assert_eq!(Files::read(tree.workdir()), all, "round {round}");
    }
    assert!(killed > 5, "only {killed} of 60 were killed before they were done");
    assert!(interrupted > 0, "only {interrupted} of 60 were killed while they wrote to the tree");
}
