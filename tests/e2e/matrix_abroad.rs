//! Outages as the kernels' own TCP sees them: packets that vanish, cables that are pulled, a minute of silence.

use std::time::{Duration, Instant};

use crabbox_tests::netns::Net;
use crabbox_tests::{Call, Room, Running, Sshd, tree};

use crate::matrix::{Count, Dice, tree_below, wished};

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
        self.crabbox(&["--debug", "run", "--id", "10-231-2-2", "--", "sh", "-c", script])
    }

    fn outage(&self, count: &Count, outage: impl FnOnce(&mut Running)) {
        let mut running = self.run(&count.script()).limit(Duration::from_secs(150)).start();
        outage(&mut running);
        let ended = running.wait();
        count.assert_whole(&ended);
        count.assert_once(&ended);
        tree::assert_same(&self.repo, &tree_below(&self.sshd.work_root));
    }

    fn count(&self, round: u64) -> Count {
        Count { starts: self.room.at(&format!("starts-{round}")) }
    }

    fn edit(&self, dice: &mut Dice) {
        std::fs::write(self.repo.join("large"), dice.noise(300_000)).unwrap();
    }

    /// No packet for a minute, unless it is over already.
    fn minute(&self, running: &mut Running) {
        self.net.hole(true);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) && !running.ended() {
            std::thread::sleep(Duration::from_millis(100));
        }
        self.net.hole(false);
    }

    fn close(&self) {
        let _ = self.crabbox(&["daemon", "stop"]).run();
        let _ = self.crabbox(&["stop", "10-231-2-2"]).ok();
    }
}

/// Two lanes at once, one without the daemon and one with it; 15 faults each.
#[test]
fn packets_lost_cables_pulled_and_connections_reset_cost_nothing() {
    let faults = wished("CRABBOX_TEST_CASES").unwrap_or(30) / 2;
    std::thread::scope(|scope| {
        for daemon in ["0", ""] {
            scope.spawn(move || {
                let Some(abroad) = Abroad::new(daemon) else { return };
                let mut dice = Dice::new(u64::from(std::process::id()) + daemon.len() as u64);
                for round in 0..faults {
                    abroad.edit(&mut dice);
                    abroad.outage(&abroad.count(round), |_| {
                        std::thread::sleep(dice.between(0, 900));
                        let lose = |on| match round % 3 {
                            0 => abroad.net.hole(on),
                            1 => abroad.net.unplug(on),
                            _ if on => abroad.sshd.reset(),
                            _ => {}
                        };
                        lose(true);
                        std::thread::sleep(dice.between(100, 2500));
                        lose(false);
                    });
                }
                abroad.close();
            });
        }
    });
}

/// How many of them wait at the same time.
const WAVE: u64 = 15;

/// Thirty random points, in waves, since all of them only wait.
#[test]
fn a_minute_without_any_packet_at_any_point_costs_nothing_but_the_minute() {
    let points = wished("CRABBOX_TEST_CASES").unwrap_or(30);
    let seed = u64::from(std::process::id());
    for first in (0..points).step_by(WAVE as usize) {
        std::thread::scope(|scope| {
            for point in first..(first + WAVE).min(points) {
                scope.spawn(move || {
                    let daemon = if point % 2 == 0 { "" } else { "0" };
                    let Some(abroad) = Abroad::new(daemon) else { return };
                    let mut dice = Dice::new(seed * 1000 + point);
                    abroad.edit(&mut dice);
                    let at = dice.between(0, 900);
                    abroad.outage(&abroad.count(0), |running| {
                        // From here on it is sync and run; who cannot connect at all is told so sooner.
                        running.says("helper: static");
                        std::thread::sleep(at);
                        abroad.minute(running);
                    });
                    abroad.close();
                });
            }
        });
    }
}
