//! A box whose disk is full: the sync says so, nothing is started, and the next one that fits is exact.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crabbox_tests::{Ended, Room, Sshd, eventually, tree};

use crate::matrix::{Count, Dice, Field, tree_below};

/// A box with a small disk, which only its own processes have mounted.
struct Small {
    field: Field,
    /// The work root as they see it.
    root: PathBuf,
}

impl Small {
    fn new(daemon: bool, megabytes: u32) -> Self {
        let room = Room::new();
        let sshd = Sshd::with_small_disk(&room, megabytes);
        let root = sshd.inside(&sshd.work_root);
        Self { field: Field::on(room, sshd, daemon), root }
    }

    /// Leaves no room for more than this.
    ///
    /// What is written stays written: a command that prints meanwhile takes room, and a file
    /// begun anew might not fit any more.
    fn fill(&self, but: usize) -> PathBuf {
        let path = self.root.join("ballast");
        let mut ballast = File::create(&path).unwrap();
        let mut piece = vec![1; 1 << 20];
        while piece.len() > 2048 {
            if ballast.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        let len = ballast.metadata().unwrap().len();
        ballast.set_len(len.saturating_sub(but as u64)).unwrap();
        path
    }

    fn assert_full(&self, count: &Count, ended: &Ended) {
        assert!(
            ended.code != 0 && ended.code != 5 && ended.err().contains("the disk is full"),
            "{ended}"
        );
        assert_eq!(count.started(), 0, "{ended}");
        assert_eq!(self.field.last()["started"], "no", "{ended}");
    }

    fn assert_exact(&self, count: &Count, ended: &Ended) {
        count.assert_whole(ended);
        count.assert_once(ended);
        tree::assert_same(&self.field.repo, &tree_below(&self.root));
    }
}

fn write_noise(path: &Path, seed: u64, len: usize) {
    fs::write(path, Dice::new(seed).noise(len)).unwrap();
}

#[test]
fn a_full_disk_is_told_starts_nothing_and_leaves_nothing_wrong() {
    for daemon in [false, true] {
        let mut small = Small::new(daemon, 8);
        let mut refused = 0;
        for (round, but) in [0, 5_000, 100_000, 700_000].into_iter().enumerate() {
            for n in 0..6 {
                write_noise(
                    &small.field.repo.join(format!("d1/new{n}")),
                    n + round as u64,
                    150_000,
                );
            }
            write_noise(&small.field.repo.join("large"), 1000 + round as u64, 400_000);
            fs::remove_file(small.field.repo.join(format!("d{round}/f{round}"))).unwrap();
            let ballast = small.fill(but);
            let mut count = small.field.count();
            let ended = small.field.run(&[], &count.script()).run();
            // The store may have made room by itself.
            if ended.code == 5 {
                small.assert_exact(&count, &ended);
                count = small.field.count();
            } else {
                small.assert_full(&count, &ended);
                refused += 1;
            }
            fs::remove_file(&ballast).unwrap();
            let ended = small.field.run(&[], &count.script()).run();
            small.assert_exact(&count, &ended);
        }
        assert!(refused >= 2, "only {refused} syncs met a full disk");
        write_noise(&small.field.repo.join("too large"), 9, 20 << 20);
        let count = small.field.count();
        let ended = small.field.run(&[], &count.script()).run();
        small.assert_full(&count, &ended);
        fs::remove_file(small.field.repo.join("too large")).unwrap();
        let ended = small.field.run(&[], &count.script()).run();
        small.assert_exact(&count, &ended);
        small.field.close();
    }
}

#[test]
fn a_command_whose_output_does_not_fit_waits_for_the_disk() {
    let mut small = Small::new(false, 8);
    let count = small.field.count();
    let script = count.script().replace("sleep 0.07", "sleep 0.3");
    let running = small.field.run(&[], &script).start();
    running.prints("1999\n");
    let ballast = small.fill(0);
    eventually("nothing more is printed", Duration::from_secs(10), || {
        let seen = running.stdout();
        std::thread::sleep(Duration::from_millis(700));
        seen == running.stdout()
    });
    fs::remove_file(ballast).unwrap();
    let ended = running.wait();
    small.assert_exact(&count, &ended);
    small.field.close();
}

#[test]
fn a_command_prints_more_than_the_disk_holds_while_somebody_reads() {
    let mut small = Small::new(false, 8);
    let count = small.field.count();
    let ended = small.field.run(&[], &count.script()).run();
    small.assert_exact(&count, &ended);
    let ballast = small.fill(2_500_000);
    let ended = small.field.run(&[], "head -c 20000000 /dev/zero; exit 4").run();
    assert_eq!((ended.code, ended.stdout.len()), (4, 20_000_000), "{}", ended.err());
    fs::remove_file(ballast).unwrap();
    small.field.close();
}

#[test]
fn a_command_that_fills_the_disk_ends_soon_with_all_it_said() {
    let small = Small::new(false, 8);
    let fill = small.root.join("fill");
    // It stands where the next tree does not disturb it.
    let script = format!("cat /dev/zero >{} 2>/dev/null; echo it is full; exit 4", fill.display());
    let _ = small.field.run(&[], "true").ok();
    let began = Instant::now();
    let ended = small.field.run(&["-q"], &script).run();
    assert_eq!((ended.code, ended.out().as_str()), (4, "it is full\n"), "{ended}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}\n{ended}", began.elapsed());
    let ended = small.field.run(&["--no-sync"], "true").run();
    assert!(ended.code == 0 || ended.err().contains("crabbox connect"), "{ended}");
    fs::remove_file(fill).unwrap();
    let _ = small.field.run(&[], "true").ok();
    small.field.close();
}

#[test]
fn a_command_that_waits_for_a_full_disk_can_be_stopped_and_gives_the_tree_back() {
    let mut small = Small::new(false, 8);
    let count = small.field.count();
    let ended = small.field.run(&[], &count.script()).run();
    small.assert_exact(&count, &ended);
    let script = "echo ready; sleep 3; head -c 3000000 /dev/zero | tr '\\0' x; sleep 60";
    let running = small.field.run(&[], script).start();
    running.prints("ready\n");
    let ballast = small.fill(0);
    running.says("the disk of the box is full");
    running.signal(rustix::process::Signal::INT);
    let ended = running.wait();
    assert_eq!(ended.code, 130, "{}", ended.err());
    fs::remove_file(ballast).unwrap();
    let count = small.field.count();
    let ended = small.field.run(&[], &count.script()).run();
    small.assert_exact(&count, &ended);
    small.field.close();
}
