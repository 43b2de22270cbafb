//! Links lost at random points of sync and run: cut, swallowed, and gone for a while.

use std::time::{Duration, Instant};

use crabbox_tests::line::{Direction, Fault};
use crabbox_tests::netns::Net;
use crabbox_tests::{Call, Room, Running, Sshd, eventually, tree};
use rustix::process::Signal;

use crate::matrix::{Count, Dice, Field, each_case, tree_below};

/// Has a fault happen at a random byte or moment of a run, and waits until it has, or cannot any more.
fn strike(field: &mut Field, dice: &mut Dice, fault: Fault) -> (Count, Running) {
    let count = field.count();
    field.edit(dice);
    let call = field.run(&[], &count.script());
    let mut running = match dice.below(3) {
        0 => {
            let running = call.start();
            std::thread::sleep(dice.between(0, 900));
            field.line.strike(fault);
            return (count, running);
        }
        1 => {
            field.line.strike_after(dice.below(300_000), Direction::Up, fault);
            call.start()
        }
        _ => {
            field.line.strike_after(dice.below(40_000), Direction::Down, fault);
            call.start()
        }
    };
    while field.line.pending() && !running.ended() {
        std::thread::sleep(Duration::from_millis(2));
    }
    (count, running)
}

#[test]
fn a_link_cut_at_any_point_costs_nothing() {
    each_case(|field, dice| {
        let (count, running) = strike(field, dice, Fault::Cut);
        if dice.one_in(3) {
            std::thread::sleep(dice.between(0, 600));
            field.line.cut();
        }
        let ended = running.wait();
        field.line.heal();
        field.assert_exact(&count, ended);
    });
}

#[test]
fn a_link_that_swallows_everything_from_any_point_on_costs_nothing() {
    each_case(|field, dice| {
        let (count, running) = strike(field, dice, Fault::BlackHole);
        std::thread::sleep(dice.between(50, 2000));
        field.line.heal();
        field.assert_exact(&count, running.wait());
    });
}

#[test]
fn a_link_that_is_gone_for_a_while_from_any_point_on_costs_nothing() {
    each_case(|field, dice| {
        let (count, running) = strike(field, dice, Fault::Down);
        std::thread::sleep(dice.between(50, 1500));
        field.line.heal();
        field.assert_exact(&count, running.wait());
    });
}

#[test]
fn a_client_that_sleeps_longer_than_its_connection_goes_on_where_it_was() {
    for daemon in [false, true] {
        let mut field = Field::new(daemon);
        let mut dice = Dice::new(u64::from(std::process::id()));
        for at in [150, 400, 700] {
            field.edit(&mut dice);
            let count = field.count();
            let running = field.run(&[], &count.script()).start();
            std::thread::sleep(Duration::from_millis(at));
            running.signal(Signal::STOP);
            if dice.one_in(2) {
                field.line.cut();
            }
            std::thread::sleep(Duration::from_millis(1500));
            running.signal(Signal::CONT);
            field.assert_exact(&count, running.wait());
        }
        field.close();
    }
}

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
