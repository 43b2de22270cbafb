//! Every process of a run killed at random points: the client, the daemon, and both halves of the helper.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::matrix::{Field, each_case, each_case_of};

/// About how long a run takes, and a little more.
const RUN_MS: u64 = 1000;

#[test]
fn a_killed_client_leaves_a_run_that_is_taken_up_whole() {
    each_case(|field, dice| {
        let before = field.last();
        field.edit(dice);
        let count = field.count();
        let running = field.run(&[], &count.script()).start();
        std::thread::sleep(dice.between(0, RUN_MS));
        running.signal(Signal::KILL);
        let _ = running.wait();
        let last = field.last();
        if last["id"] != before["id"] && last["state"] != "failed" {
            let attached = field.crabbox(&["attach", last["id"].as_str().unwrap()]).run();
            match attached.code {
                5 => field.assert_exact(&count, attached),
                // Killed before the box had the command: then it never gets it.
                _ => {
                    let never = ["never started", "its command was started: no"];
                    let said = attached.err();
                    assert!(never.iter().any(|words| said.contains(words)), "{last}\n{attached}");
                    assert_eq!(count.started(), 0, "{last}\n{attached}");
                }
            }
        }
        let told = count.started();
        field.assert_works();
        assert!(told <= 1 && count.started() == told, "{told}, later {}", count.started());
    });
}

#[test]
fn a_killed_daemon_takes_nothing_with_it() {
    each_case_of(&[true, true], &|field: &mut Field, dice: &mut _| {
        field.edit(dice);
        let count = field.count();
        let daemon = field.daemon();
        let running = field.run(&[], &count.script()).start();
        std::thread::sleep(dice.between(0, RUN_MS));
        if let Some(pid) = daemon.or_else(|| field.daemon()) {
            let _ = kill_process(pid, Signal::KILL);
        }
        field.assert_exact(&count, running.wait());
    });
}

#[test]
fn a_killed_helper_takes_nothing_with_it() {
    each_case(|field, dice| {
        field.edit(dice);
        let count = field.count();
        let mut running = field.run(&[], &count.script()).start();
        std::thread::sleep(dice.between(0, RUN_MS));
        field.kill("serve", &mut running);
        field.assert_exact(&count, running.wait());
    });
}

#[test]
fn a_killed_keeper_of_a_run_is_told_and_costs_only_that_run() {
    each_case(|field, dice| {
        field.edit(dice);
        let count = field.count();
        let mut running = field.run(&[], &count.script()).start();
        std::thread::sleep(dice.between(0, RUN_MS));
        field.kill("work", &mut running);
        let ended = running.wait();
        match ended.code {
            5 => field.assert_exact(&count, ended),
            _ => {
                let last = field.last();
                let (state, started) = (&last["state"], &last["started"]);
                match started.as_str() {
                    Some("no") => assert_eq!(
                        (count.started(), state),
                        (0, &"failed".into()),
                        "{last}\n{ended}"
                    ),
                    _ => assert_eq!((ended.code, state), (7, &"lost".into()), "{last}\n{ended}"),
                }
                assert!(count.started() <= 1, "{ended}");
            }
        }
        let told = count.started();
        let began = Instant::now();
        field.assert_works();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(count.started(), told, "nothing starts it later");
    });
}
