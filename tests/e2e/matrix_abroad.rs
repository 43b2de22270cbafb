//! Outages as the kernels' own TCP sees them: packets that vanish, cables that are pulled, a minute of silence.

use std::time::{Duration, Instant};

use crabbox_tests::netns::Net;
use crabbox_tests::{Call, Room, Running, Sshd, eventually, tree};

use crate::matrix::{Count, Dice, tree_below};

/// A box on another machine, as far as the kernel is concerned.
struct Abroad {
    net: Net,
    sshd: Sshd,
    repo: std::path::PathBuf,
    room: Room,
    daemon: &'static str,
}

impl Abroad {
    fn new(daemon: &'static str) -> Option<Self> {
        let room = Room::new();
        let net = Net::start(&room)?;
        let sshd = Sshd::far(&room, &net);
        room.configure(&format!("{}ssh:\n  keepalive: 400ms\n", sshd.config()));
        let repo = room.repo("app");
        let abroad = Self { net, sshd, repo, room, daemon };
        let _ = abroad.crabbox(&["warmup"]).ok();
        Some(abroad)
    }

    fn crabbox(&self, args: &[&str]) -> Call {
        let call = self.room.crabbox(&self.repo, args.iter().copied());
        self.net.near(call.env("CRABBOX_DAEMON", self.daemon))
    }

    fn run(&self, script: &str) -> Call {
        self.crabbox(&["run", "--id", "10-231-2-2", "--", "sh", "-c", script])
    }

    fn outage(&self, count: &Count, outage: impl FnOnce(&Running)) {
        let running = self.run(&count.script()).limit(Duration::from_secs(120)).start();
        outage(&running);
        let ended = running.wait();
        count.assert_whole(&ended);
        count.assert_once(&ended);
        tree::assert_same(&self.repo, &tree_below(&self.sshd.work_root));
    }

    fn close(&self) {
        let _ = self.crabbox(&["daemon", "stop"]).run();
        let _ = self.crabbox(&["stop", "10-231-2-2"]).ok();
    }
}

#[test]
fn packets_lost_and_cables_pulled_cost_nothing() {
    for daemon in ["0", ""] {
        let Some(abroad) = Abroad::new(daemon) else { return };
        let mut dice = Dice::new(u64::from(std::process::id()));
        for round in 0..6 {
            std::fs::write(abroad.repo.join("large"), dice.noise(300_000)).unwrap();
            let count = Count { starts: abroad.room.at(&format!("starts-{round}")) };
            abroad.outage(&count, |_| {
                std::thread::sleep(dice.between(0, 700));
                let lose = |on| match round % 2 {
                    0 => abroad.net.hole(on),
                    _ => abroad.net.unplug(on),
                };
                lose(true);
                std::thread::sleep(dice.between(100, 2500));
                lose(false);
            });
        }
        abroad.close();
    }
}

#[test]
fn a_minute_without_any_packet_costs_nothing_but_the_minute() {
    let Some(abroad) = Abroad::new("") else { return };
    let count = Count { starts: abroad.room.at("starts") };
    abroad.outage(&count, |running| {
        running.prints("1999\n");
        abroad.net.hole(true);
        let began = Instant::now();
        running.says("connection lost");
        std::thread::sleep(Duration::from_secs(60).saturating_sub(began.elapsed()));
        abroad.net.hole(false);
        eventually("it goes on", Duration::from_secs(20), || running.stderr().contains("again"));
    });
    abroad.close();
}
