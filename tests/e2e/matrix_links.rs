//! Links lost at random points of sync and run: cut, swallowed, and gone for a while.

use std::time::Duration;

use crabbox_tests::Running;
use crabbox_tests::line::{Direction, Fault};
use rustix::process::Signal;

use crate::matrix::{Count, Dice, Field, each_case};

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
