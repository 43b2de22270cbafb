//! Large uploads over long links: further channels carry a part, and nothing else changes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crabbox_tests::line::{Direction, Fault, Line, Shape};
use crabbox_tests::{Call, Room, Sshd, eventually, tree};
use rustix::process::{Pid, Signal, kill_process};

use crate::matrix::Dice;

/// A room with something large, whose box is far away, and a lease on it.
struct Far {
    repo: PathBuf,
    line: Line,
    sshd: Sshd,
    room: Room,
    lease: String,
}

impl Far {
    fn new(sshd_config: &str) -> Self {
        let room = Room::new();
        let sshd = Sshd::with(&room, "sshd", sshd_config);
        let line = Line::start(([127, 0, 0, 1], sshd.port).into(), Shape::default());
        room.configure(&sshd.config_through("127.0.0.1", line.addr().port()));
        let repo = room.repo("app");
        let _ = room.crabbox(&repo, ["warmup"]).ok();
        let lease = room.state_files("claims")[0].trim_end_matches(".json").to_owned();
        let far = Self { repo, line, sshd, room, lease };
        let _ = far.run("0").ok();
        fs::write(far.repo.join("large"), Dice::new(1).noise(16_000_000)).unwrap();
        far.line.reshape(Shape::rtt_ms(80).mbit(60));
        far
    }

    fn run(&self, daemon: &str) -> Call {
        let note = format!("echo x >>{}; echo done", self.room.at("starts").display());
        let words = ["run", "--id", &self.lease, "--force-sync-large", "--", "sh", "-c", &note];
        self.room.crabbox(&self.repo, words).env("CRABBOX_DAEMON", daemon)
    }

    /// The processes on the box that bring blocks.
    fn feeders(&self) -> Vec<Pid> {
        let all = self.room.processes().into_iter();
        all.filter(|(_, line)| line.contains(" feed crabbox-feed")).map(|(pid, _)| pid).collect()
    }

    fn sees_feeders(&self) -> Vec<Pid> {
        eventually("further ways", Duration::from_secs(20), || self.feeders().len() == 3);
        self.feeders()
    }

    fn is_exact(&self) {
        let there = self.sshd.work_root.join(&self.lease).join("app");
        tree::assert_same(&self.repo, &there);
        let starts = fs::read_to_string(self.room.at("starts")).unwrap();
        assert_eq!(starts, "x\nx\n", "each command was started once");
        eventually("feeders to end", Duration::from_secs(10), || self.feeders().is_empty());
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let stop = self.room.crabbox(&self.repo, ["daemon", "stop"]);
        let _ = stop.env("CRABBOX_DAEMON", "1").run();
    }
}

#[test]
fn a_large_upload_over_a_long_link_takes_more_ways_with_the_daemon_and_without() {
    for daemon in ["0", "1"] {
        let far = Far::new("");
        let running = far.run(daemon).start();
        let _ = far.sees_feeders();
        assert_eq!(running.wait().expect(0).out(), "done\n");
        far.is_exact();
    }
}

#[test]
fn a_server_with_no_room_for_further_channels_takes_it_all_on_one() {
    let far = Far::new("MaxSessions 1\n");
    assert_eq!(far.run("0").run().expect(0).out(), "done\n");
    far.is_exact();
}

#[test]
fn a_way_that_breaks_is_a_connection_that_broke() {
    let far = Far::new("");
    let running = far.run("0").start();
    let feeders = far.sees_feeders();
    kill_process(feeders[0], Signal::KILL).unwrap();
    running.says("connection lost");
    assert_eq!(running.wait().expect(0).out(), "done\n");
    far.is_exact();
}

#[test]
fn a_link_that_is_cut_while_it_carries_several_ways_costs_nothing_but_time() {
    let far = Far::new("");
    far.line.strike_after(6_000_000, Direction::Up, Fault::Cut);
    let running = far.run("1").start();
    let _ = far.sees_feeders();
    running.says("connection lost");
    assert_eq!(running.wait().expect(0).out(), "done\n");
    far.is_exact();
}
