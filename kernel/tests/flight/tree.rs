//! Trees alone: what is sent, what is seen, and how often somebody has to answer.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crabbox_kernel::ports::Stop;
use crabbox_kernel::sync::known;
use crabbox_kernel::sync::push::{PushSpec, push_after};

use crate::pipe::Time;
use crate::rig::{Rig, numbers};
use crate::trees::{chmod, look_at, noise, odd, put};

#[tokio::test]
async fn every_odd_entry_arrives_and_the_second_flight_finds_nothing_to_do() {
    let rig = Rig::new();
    odd(rig.local.path());
    let mut helper = rig.helper().await;
    let pushed = rig.mirror(&mut helper, 2).await;
    assert_eq!(numbers(&pushed), (false, rig.tree().files(), 0, 0));
    assert!(rig.mirror(&mut helper, 1).await.skipped);
    let mut other = rig.helper().await;
    assert!(rig.mirror(&mut other, 1).await.skipped, "what was remembered is right");
}

#[tokio::test]
async fn a_few_files_take_one_round_trip_and_so_does_nothing() {
    let rig = Rig::new();
    for n in 0..200 {
        put(&rig.here(&format!("src/{n}")), format!("file {n}"));
    }
    let mut helper = rig.helper().await;
    assert_eq!(numbers(&rig.mirror(&mut helper, 1).await), (false, 200, 0, 0));
    assert_eq!(numbers(&rig.mirror(&mut helper, 1).await), (true, 0, 0, 0));
    for n in 0..20 {
        put(&rig.here(&format!("src/{n}")), "changed");
        std::fs::remove_file(rig.here(&format!("src/{}", 100 + n))).unwrap();
    }
    chmod(&rig.here("src/50"), 0o755);
    assert_eq!(numbers(&rig.mirror(&mut helper, 1).await), (false, 21, 20, 0));
}

#[tokio::test]
async fn drift_takes_one_round_trip_more_and_only_drift_is_repaired() {
    let rig = Rig::new();
    odd(rig.local.path());
    let mut helper = rig.helper().await;
    rig.mirror(&mut helper, 2).await;
    put(&rig.there("README"), "not what was sent");
    chmod(&rig.there("~"), 0o755);
    std::fs::remove_file(rig.there("link")).unwrap();
    std::fs::remove_file(rig.there("empty")).unwrap();
    symlink("README", rig.there("empty")).unwrap();
    let pushed = rig.mirror(&mut helper, 2).await;
    assert_eq!((pushed.skipped, pushed.drifted), (false, 4));
    put(&rig.there("with space"), "gone here, drifted there");
    std::fs::remove_file(rig.here("with space")).unwrap();
    put(&rig.there("*"), "new here, drifted there");
    put(&rig.here("*"), "new here");
    assert_eq!(rig.mirror(&mut helper, 1).await.drifted, 0, "the delta repairs them anyway");
}

#[tokio::test]
async fn what_is_remembered_wrongly_costs_a_round_trip_and_nothing_else() {
    let rig = Rig::new();
    put(&rig.here("a"), "1");
    let mut helper = rig.helper().await;
    rig.mirror(&mut helper, 1).await;
    std::fs::remove_dir_all(rig.state.boxes()).unwrap();
    assert!(rig.mirror(&mut helper, 2).await.skipped);
    assert!(rig.mirror(&mut helper, 1).await.skipped, "it is remembered again");
    let old = rig.to.at("old");
    std::fs::rename(rig.state.boxes(), &old).unwrap();
    put(&rig.here("a"), "2");
    put(&rig.here("b"), "2");
    rig.mirror(&mut helper, 2).await;
    std::fs::remove_dir_all(rig.state.boxes()).unwrap();
    std::fs::rename(&old, rig.state.boxes()).unwrap();
    std::fs::remove_file(rig.here("b")).unwrap();
    assert_eq!(rig.mirror(&mut helper, 2).await.deleted, 1);
    std::fs::remove_dir_all(&rig.place.base_dir).unwrap();
    rig.mirror(&mut helper, 2).await;
}

#[tokio::test]
async fn what_the_box_made_itself_stays_and_without_delete_so_does_everything() {
    let mut rig = Rig::new();
    put(&rig.here("src/a"), "1");
    put(&rig.here("src/b"), "1");
    put(&rig.here("x"), "file");
    let mut helper = rig.helper().await;
    rig.mirror(&mut helper, 1).await;
    put(&rig.there("src/built"), "output");
    std::fs::remove_file(rig.here("src/a")).unwrap();
    std::fs::remove_file(rig.here("x")).unwrap();
    put(&rig.here("x/inside"), "now a directory");
    rig.rules.delete = false;
    let pushed = rig.sync(&mut helper).await;
    assert!(rig.there("src/a").exists() && rig.there("x/inside").exists(), "{pushed:?}");
    assert!(rig.sync(&mut helper).await.skipped);
    rig.rules.delete = true;
    assert_eq!(rig.sync(&mut helper).await.deleted, 1);
    let there: Vec<_> = look_at(&rig.there("")).into_keys().collect();
    assert_eq!(there, ["src/b", "src/built", "x/inside"].map(PathBuf::from));
}

#[tokio::test]
async fn a_full_resync_and_checksum_read_everything() {
    let mut rig = Rig::new();
    odd(rig.local.path());
    let mut helper = rig.helper().await;
    rig.mirror(&mut helper, 2).await;
    rig.rules.full_resync = true;
    put(&rig.there("README"), "hellO\n");
    std::fs::remove_file(rig.there("run.sh")).unwrap();
    let pushed = rig.exact(&mut helper).await;
    assert!(pushed.sent_files >= 2, "{pushed:?}");
    rig.rules.full_resync = false;
    rig.rules.checksum = true;
    assert!(rig.mirror(&mut helper, 1).await.skipped);
    put(&rig.there("README"), "hellO\n");
    assert_eq!(rig.mirror(&mut helper, 2).await.drifted, 1);
}

#[tokio::test]
async fn many_and_large_files_arrive_and_a_change_in_a_large_one_sends_little() {
    let rig = Rig::new();
    for n in 0..3000u32 {
        put(&rig.here(&format!("d{}/{n}", n % 50)), noise(n, 2000));
    }
    let mut large = noise(9, 12 << 20);
    put(&rig.here("large"), &large);
    let mut helper = rig.helper().await;
    rig.exact(&mut helper).await;
    large.splice(5_000_000..5_000_001, *b"inserted");
    put(&rig.here("large"), &large);
    let before = rig.to.wire.written.get();
    rig.exact(&mut helper).await;
    let sent = rig.to.wire.written.get() - before;
    assert!(sent < 1 << 20, "{sent} bytes were sent for a small change");
    std::fs::rename(rig.here("large"), rig.here("renamed")).unwrap();
    let before = rig.to.wire.written.get();
    rig.exact(&mut helper).await;
    let sent = rig.to.wire.written.get() - before;
    assert!(sent < 200 << 10, "{sent} bytes were sent for a rename");
}

#[tokio::test]
async fn two_hundred_thousand_files_arrive_and_one_change_is_one_change() {
    let mut rig = Rig::new();
    rig.rules.fail_files = 200_000;
    for dir in 0..400 {
        let at = rig.here(&format!("d{}/{dir}", dir % 20));
        std::fs::create_dir_all(&at).unwrap();
        (0..500).for_each(|n| drop(std::fs::File::create(at.join(n.to_string())).unwrap()));
    }
    let mut helper = rig.helper().await;
    assert_eq!(numbers(&rig.sync(&mut helper).await), (false, 200_000, 0, 0));
    put(&rig.here("d7/7/7"), "seven");
    std::fs::remove_file(rig.here("d9/9/9")).unwrap();
    assert_eq!(numbers(&rig.sync(&mut helper).await), (false, 1, 1, 0));
    let there = look_at(&rig.there(""));
    assert_eq!(there.len(), 199_999);
    assert!(there == look_at(rig.local.path()), "the box holds the tree");
    assert!(rig.sync(&mut helper).await.skipped);
}

#[tokio::test]
async fn a_file_that_changed_after_it_was_described_arrives_as_it_is_now() {
    let rig = Rig::new();
    for n in 0..30 {
        put(&rig.here(&format!("{n}")), noise(n, 100_000));
    }
    put(&rig.here("large"), noise(77, 3 << 20));
    let tree = rig.tree();
    put(&rig.here("3"), "shorter");
    put(&rig.here("17"), noise(1000, 100_000));
    put(&rig.here("large"), noise(78, 2 << 20));
    std::fs::remove_file(rig.here("20")).unwrap();
    std::fs::remove_file(rig.here("21")).unwrap();
    symlink("22", rig.here("21")).unwrap();
    let mut helper = rig.helper().await;
    rig.fly_with(&mut helper, Some(&tree), None, &mut Vec::new()).await.unwrap();
    assert!(look_at(&rig.there("")) == look_at(rig.local.path()));
    assert!(rig.mirror(&mut helper, 1).await.skipped, "what was remembered is what was sent");
}

#[tokio::test]
async fn helper_and_shell_take_turns_and_neither_trusts_stale_notes() {
    let rig = Rig::new();
    for (n, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        put(&rig.here(name), "old");
        put(&rig.here(&format!("gone{n}")), "goes");
    }
    let mut helper = rig.helper().await;
    for round in 0..4 {
        put(&rig.here("a"), format!("round {round}"));
        std::fs::remove_file(rig.here(&format!("gone{round}"))).unwrap();
        put(&rig.here(&format!("new{round}")), "new");
        if round > 0 {
            std::fs::remove_file(rig.here(&format!("new{}", round - 1))).unwrap();
        }
        if round % 2 == 1 {
            rig.exact(&mut helper).await;
            continue;
        }
        let spec = PushSpec {
            workdir: rig.there("").to_str().unwrap().trim_end_matches('/').to_owned(),
            rules: rig.rules.clone(),
        };
        let noted = known::noted(&rig.state, &rig.place.lease, &rig.place.repo);
        let (stop, mut events) = (Stop::never(), Vec::new());
        push_after(&rig.to, &rig.tree(), &spec, &noted, &mut events, &stop, &Time).await.unwrap();
        assert!(look_at(&rig.there("")) == look_at(rig.local.path()), "round {round}");
    }
}
