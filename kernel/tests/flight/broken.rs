//! Flights that are cut anywhere, with any edits on both sides.

use std::time::Duration;

use crabbox_kernel::sync::flight::Launched;
use crabbox_schemas::error::ErrorCode;
use proptest::prelude::*;

use crate::rig::{Rig, launch};
use crate::trees::{edit, edits, look_at, noise, put};

/// How many random cases: `CRABBOX_TEST_CASES`, else a quick hundred.
fn cases() -> u32 {
    #[expect(clippy::disallowed_methods, reason = "a test is told how long it may take")]
    let cases = std::env::var("CRABBOX_TEST_CASES");
    cases.ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_edits_on_both_sides_and_any_cut_the_box_holds_the_tree(
        first in edits(), here in edits(), there in edits(), cut in prop::option::of(0usize..40_000),
    ) {
        let rig = Rig::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        first.iter().for_each(|e| edit(rig.local.path(), e));
        let mut helper = runtime.block_on(rig.helper());
        runtime.block_on(rig.sync(&mut helper));
        let before = look_at(&rig.there(""));
        prop_assert!(before == look_at(rig.local.path()));
        here.iter().for_each(|e| edit(rig.local.path(), e));
        there.iter().for_each(|e| edit(&rig.there(""), e));
        let harmed = look_at(&rig.there(""));
        if cut.is_some() {
            rig.to.wire.cut_after.set(cut);
            if let Err(error) = runtime.block_on(rig.try_sync(&mut helper)) {
                prop_assert_eq!(error.code, ErrorCode::ConnectionLost, "{}", error);
            }
            rig.to.wire.cut_after.set(None);
            drop(helper);
            helper = runtime.block_on(rig.helper());
        }
        runtime.block_on(rig.sync(&mut helper));
        let (wanted, after) = (look_at(rig.local.path()), look_at(&rig.there("")));
        for (path, entry) in &wanted {
            prop_assert!(after.get(path) == Some(entry), "{:?}", path);
        }
        for (path, entry) in after.iter().filter(|(path, _)| !wanted.contains_key(*path)) {
            prop_assert!(!before.contains_key(path), "{:?} was sent once and should be gone", path);
            prop_assert!(harmed.get(path) == Some(entry), "{:?} is the box's own", path);
        }
        prop_assert!(runtime.block_on(rig.sync(&mut helper)).skipped);
    }
}

#[tokio::test]
async fn a_cut_transfer_goes_on_where_it_was() {
    let rig = Rig::new();
    for n in 0..40 {
        put(&rig.here(&format!("{n}")), noise(n, 900_000));
    }
    let mut helper = rig.helper().await;
    rig.to.wire.cut_after.set(Some(26 << 20));
    let lost = rig.try_sync(&mut helper).await.unwrap_err();
    assert_eq!(lost.code, ErrorCode::ConnectionLost);
    rig.to.wire.cut_after.set(None);
    drop(helper);
    let mut helper = rig.helper().await;
    let before = rig.to.wire.written.get();
    rig.exact(&mut helper).await;
    let sent = rig.to.wire.written.get() - before;
    // What was on its way when it was cut, at most a window and a block or two, travels again.
    assert!(sent < 22 << 20, "{sent} bytes were sent again");
}

#[tokio::test]
async fn cut_anywhere_a_command_starts_once() {
    let rig = Rig::new();
    put(&rig.here("a"), noise(5, 20_000));
    let mut helper = rig.helper().await;
    rig.sync(&mut helper).await;
    for n in 0..40u8 {
        put(&rig.here("a"), noise(u32::from(n) + 100, 20_000));
        let (tree, log) = (rig.tree(), rig.to.at("log"));
        let command = launch([n, 9, 9, 9, 9, 9], &format!("echo {n} >>{}", log.display()));
        rig.to.wire.cut_after.set(Some(usize::from(n) * 600));
        let cut = rig.fly_with(&mut helper, Some(&tree), Some(&command), &mut Vec::new()).await;
        rig.to.wire.cut_after.set(None);
        drop(helper);
        helper = rig.helper().await;
        if cut.is_err() {
            let flown = rig
                .fly_with(&mut helper, Some(&tree), Some(&command), &mut Vec::new())
                .await
                .unwrap();
            assert_ne!(flown.launched, Launched::Nothing);
        }
        let line = format!("{n}");
        let count = || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.lines().filter(|l| **l == *line).count()
        };
        for _ in 0..1000 {
            if count() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(count(), 1, "cut after {}: {cut:?}", usize::from(n) * 600);
        // The lock is given back when the command has ended; the next flight must not meet it.
        let mut free = false;
        for _ in 0..1000 {
            free = rig.try_sync(&mut helper).await.is_ok();
            if free {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(free);
    }
}
