//! Killed at any moment, command or plugin: after `cleanup` nothing of ours is left, and nothing of others is touched.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::Sky;
use crate::matrix::{Dice, wished};

/// How often, unless `CRABBOX_TEST_CASES` says otherwise.
const ROUNDS: u64 = 60;

/// What is not ours, as it is.
fn foreign(sky: &Sky) -> Vec<Value> {
    let state = sky.state();
    let all = ["servers", "ssh_keys"].into_iter().flat_map(|kind| state[kind].as_array().unwrap());
    all.filter(|one| one["labels"]["crabbox"] != "true" || one["name"] == "their-box")
        .cloned()
        .collect()
}

#[test]
fn killed_at_any_moment_a_lease_leaves_nothing_that_cleanup_does_not_find_and_nothing_of_others_is_touched()
 {
    let sky = Sky::new();
    sky.control("settings", &json!({"bootMs": 20}));
    sky.control("foreign", &json!({"name": "theirs", "labels": {"team": "other"}}));
    // Another user's box, which is in use.
    let labels = json!({"crabbox": "true", "lease": "cbx_ffffffffffff", "slug": "their-box", "expires_at": "4000000000"});
    sky.control("foreign", &json!({"name": "their-box", "labels": labels}));
    let before = foreign(&sky);
    assert_eq!(before.len(), 4);
    let began = Instant::now();
    let _ = sky.crabbox(&["run", "--", "true"]).ok();
    let whole = u64::try_from(began.elapsed().as_micros()).unwrap();
    let seed = u64::from(std::process::id()) << 20 | u64::from(began.elapsed().subsec_micros()) | 1;
    let mut dice = Dice::new(seed);
    let mut made = 0;
    for round in 0..wished("CRABBOX_TEST_CASES").unwrap_or(ROUNDS) {
        let after = Duration::from_micros(dice.below(whole + whole / 5));
        let mut running = sky.crabbox(&["run", "--", "true"]).start();
        std::thread::sleep(after);
        let plugin = round % 2 == 1;
        if plugin {
            let all = sky.room.processes();
            for (pid, _) in all.iter().filter(|(_, line)| line.contains("crabbox-provider-hetzner"))
            {
                let _ = kill_process(*pid, Signal::KILL);
            }
        } else if !running.ended() {
            running.signal(Signal::KILL);
        }
        let ran = running.wait();
        made += usize::from(sky.names().len() > before.len());
        let cleaned = sky.crabbox(&["cleanup"]).run();
        let context = format!(
            "round {round}, plugin {plugin}, after {after:?}, seed {seed}\n{ran}\n{cleaned}"
        );
        assert_eq!(cleaned.code, 0, "{context}");
        assert_eq!(foreign(&sky), before, "{context}");
        assert_eq!(sky.names().len(), before.len(), "{:?}\n{context}", sky.names());
        sky.assert_forgotten();
    }
    assert!(made >= 1, "no kill hit a lease; seed {seed}");
}
