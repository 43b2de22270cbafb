//! Leases whose command or plugin is killed at any moment: after `cleanup` nothing of ours is left, and nothing of others
//! is touched.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::clouds::Cloud;
use crate::matrix::{Dice, wished};

/// Kills lease after lease.
pub(crate) fn survive<C: Cloud>(cloud: &C) {
    let before = cloud.foreign();
    let began = Instant::now();
    let _ = cloud.crabbox(&["run", "--", "true"]).ok();
    let whole = u64::try_from(began.elapsed().as_micros()).unwrap();
    let seed = u64::from(std::process::id()) << 20 | u64::from(began.elapsed().subsec_micros()) | 1;
    let mut dice = Dice::new(seed);
    let mut made = 0;
    for round in 0..wished("CRABBOX_TEST_CASES").unwrap_or(C::ROUNDS) {
        let after = Duration::from_micros(dice.below(whole + whole / 5));
        let plugin = round % 2 == 1;
        let ran = killed(cloud, plugin, after);
        made += usize::from(cloud.names().len() > before.len());
        let cleaned = cloud.crabbox(&["cleanup"]).run();
        let context = format!(
            "round {round}, plugin {plugin}, after {after:?}, seed {seed}\n{ran}\n{cleaned}"
        );
        assert_eq!(cleaned.code, 0, "{context}");
        assert_eq!(cloud.foreign(), before, "{context}");
        assert_eq!(cloud.names().len(), before.len(), "{:?}\n{context}", cloud.names());
        for folder in ["claims", "journal"] {
            assert_eq!(cloud.room().state_files(folder), [""; 0], "{folder}: {context}");
        }
    }
    assert!(made >= 1, "no kill hit a lease; seed {seed}");
}

fn killed<C: Cloud>(cloud: &C, plugin: bool, after: Duration) -> crabbox_tests::Ended {
    let mut running = cloud.crabbox(&["run", "--", "true"]).start();
    std::thread::sleep(after);
    if plugin {
        let plugin = format!("crabbox-provider-{}", C::PROVIDER);
        let all = cloud.room().processes();
        for (pid, _) in all.iter().filter(|(_, line)| line.contains(&plugin)) {
            let _ = kill_process(*pid, Signal::KILL);
        }
    } else if !running.ended() {
        running.signal(Signal::KILL);
    }
    running.wait()
}
