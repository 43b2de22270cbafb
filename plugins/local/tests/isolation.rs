//! The fence around a box holds, or its absence is said.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod room;

use std::path::Path;

use room::{Room, alive, kill, until};
use serde_json::{Value, json};

const ID: &str = "cbx_0123456789ab";

fn check(room: &mut Room, id: &str) -> Value {
    let checks = room.call("doctor", json!({})).unwrap()["checks"].clone();
    checks.as_array().unwrap().iter().find(|check| check["id"] == id).unwrap().clone()
}

/// Where bubblewrap is installed it must work; where it is not, saying so is all there is to do.
fn fenced(config: Value) -> Option<(Room, room::Box)> {
    let mut room = Room::new(config);
    if Path::new("/usr/bin/bwrap").exists() {
        let house = room.acquire(ID);
        assert_eq!(house.lease["labels"]["isolation"], "namespace");
        return Some((room, house));
    }
    let params = room.acquire_params(ID, 3600, 600);
    let refused = room.call("lease.acquire", params).unwrap_err();
    assert_eq!(refused["data"]["kind"], "unsupported");
    assert!(refused["message"].as_str().unwrap().contains("not installed"), "{refused}");
    assert!(refused["data"]["hint"].as_str().unwrap().contains("bubblewrap"), "{refused}");
    assert!(!room.box_dir(ID).exists());
    None
}

#[test]
fn a_fenced_box_sees_and_changes_only_its_own() {
    let Some((room, house)) = fenced(json!({"isolation": "namespace"})) else { return };
    // One may fail or go into the box's own /tmp; neither may reach the machine.
    let outside =
        [room.dir.path().join("state/x"), Path::new(env!("CARGO_TARGET_TMPDIR")).join("x")];
    for file in outside {
        house.run(&format!("echo x > {}", file.display()));
        assert!(!file.exists(), "{} was written", file.display());
    }
    assert!(!house.run("echo x > /crabbox-was-here").status.success());
    assert!(!house.run("mount -o remount,rw /").status.success());
    assert!(
        !house
            .run(&format!("cat {}", room.box_dir(ID).join("host_key").display()))
            .status
            .success()
    );
    assert_eq!(
        house.says("echo x > $HOME/f && echo x > ../work/f && echo x > /tmp/f && echo ok"),
        "ok\n"
    );
    assert!(!Path::new("/tmp/f").exists());
    let seen: usize = house.says("ls -d /proc/[0-9]* | wc -l").trim().parse().unwrap();
    assert!(seen < 10, "{seen} processes");
}

#[test]
fn a_killed_keeper_takes_a_fenced_box_along() {
    let Some((room, house)) = fenced(json!({"isolation": "namespace"})) else { return };
    let mut ssh = house.ssh("exec sleep 86399.25").spawn().unwrap();
    let sleeping = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        pids.find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line == b"sleep\x0086399.25\0"
        })
    };
    assert!(until(|| sleeping().is_some()));
    let pid = sleeping().unwrap();
    kill(room.keeper(ID), "KILL");
    assert!(until(|| !alive(pid)));
    ssh.kill().unwrap();
    ssh.wait().unwrap();
}

#[test]
fn a_box_without_network_is_still_reached_and_reaches_nothing() {
    let config = json!({"isolation": "namespace", "network": "none"});
    let Some((_room, house)) = fenced(config) else { return };
    assert_eq!(house.says("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo\n");
}

#[test]
fn doctor_says_the_level_that_was_proven() {
    let mut room = Room::new(json!({"isolation": "namespace"}));
    let found = check(&mut room, "isolation.level");
    if Path::new("/usr/bin/bwrap").exists() {
        assert_eq!(found["status"], "ok", "{found}");
        assert!(found["message"].as_str().unwrap().contains("namespace"), "{found}");
    } else {
        assert_eq!(found["status"], "fail", "{found}");
    }
    assert_eq!(check(&mut room, "state-dir.writable")["status"], "ok");
    let left = std::fs::read_dir(room.dir.path().join("state/boxes")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn an_open_box_says_that_it_is_open() {
    let mut room = Room::new(json!({"isolation": "none"}));
    let house = room.acquire(ID);
    assert_eq!(house.lease["labels"]["isolation"], "none");
}
