//! A box begins once, is found under every name, and ends completely.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod room;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use room::{Room, alive, kill, until};
use serde_json::{Value, json};

const ID: &str = "cbx_0123456789ab";

fn plain() -> Room {
    Room::new(json!({"isolation": "none"}))
}

/// Starts processes that do their best to stay, and returns their ids.
fn stubborn(house: &room::Box) -> Vec<i32> {
    let script = "trap '' TERM HUP; setsid sh -c 'echo $$ >> pids; trap \"\" TERM; sleep 600; :' \
        & (env -i setsid sh -c 'echo $$ >> pids; exec /bin/sleep 600' &) ; echo $$ >> pids; wait";
    let child = house.ssh(script).spawn().unwrap();
    assert!(until(|| house.run("[ \"$(wc -l < pids)\" = 3 ]").status.success()));
    let mut ssh = child;
    ssh.kill().unwrap();
    ssh.wait().unwrap();
    house.says("cat pids").lines().map(|pid| pid.parse().unwrap()).collect()
}

fn gone(pids: &[i32]) -> bool {
    until(|| pids.iter().all(|&pid| !alive(pid)))
}

#[test]
fn a_lease_says_where_and_how_to_connect() {
    let mut room = plain();
    let house = room.acquire(ID);
    let lease = &house.lease;
    assert_eq!(lease["leaseId"], ID);
    assert_eq!(lease["cloudId"], format!("local-{ID}"));
    assert_eq!(lease["labels"]["lease"], ID);
    assert_eq!(lease["labels"]["provider"], "local");
    assert_eq!(lease["ssh"]["auth"], "kernel-key");
    assert_eq!(lease["ssh"]["user"], "ada");
    assert_eq!(lease["workRoot"].as_str(), room.box_dir(ID).join("work").to_str());
    assert_eq!(room.recorded, [format!("local-{ID}")]);
    let mode = fs::metadata(room.box_dir(ID)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn acquiring_twice_gives_the_same_box() {
    let mut room = plain();
    let first = room.acquire(ID);
    let pid = room.keeper(ID);
    room.reopen();
    let second = room.acquire(ID);
    assert_eq!(first.lease["ssh"], second.lease["ssh"]);
    assert_eq!(room.keeper(ID), pid);
}

#[test]
fn a_box_outlives_the_plugin_and_is_found_under_every_name() {
    let mut room = plain();
    let house = room.acquire(ID);
    room.reopen();
    assert_eq!(house.says("echo here"), "here\n");
    for name in [ID, "blue-prawn", "crabbox-blue-prawn-1", &format!("local-{ID}")] {
        let found = room.call("lease.resolve", json!({"id": name, "purpose": "use"})).unwrap();
        assert_eq!(found["lease"]["ssh"], house.lease["ssh"], "{name}");
    }
    let listed = room.call("lease.list", json!({})).unwrap();
    assert_eq!(listed["complete"], true);
    assert_eq!(listed["leases"].as_array().unwrap().len(), 1);
    let missing = room.call("lease.resolve", json!({"id": "cbx_ffffffffffff", "purpose": "use"}));
    assert_eq!(missing.unwrap_err()["data"]["kind"], "not_found");
}

#[test]
fn release_leaves_no_process_and_no_file() {
    let mut room = plain();
    let house = room.acquire(ID);
    let keeper = room.keeper(ID);
    house.says("mkdir -p ../work/a/b && touch ../work/a/b/c && chmod 500 ../work/a/b ../work/a");
    let pids = stubborn(&house);
    assert_eq!(room.release(ID).unwrap()["outcome"], "released");
    assert!(pids.iter().all(|&pid| !alive(pid)), "a command is left");
    assert!(!alive(keeper));
    assert!(!room.box_dir(ID).exists());
    assert_eq!(room.release(ID).unwrap()["outcome"], "already_gone");
    assert_eq!(room.forgotten, [format!("local-{ID}")]);
}

#[test]
fn release_touches_nothing_that_is_not_the_expected_box() {
    let mut room = plain();
    let house = room.acquire(ID);
    let other = json!({"leaseId": ID, "cloudId": "local-cbx_ffffffffffff"});
    let params = json!({"lease": other, "expected": {"leaseId": ID}});
    let refused = room.call("lease.release", params).unwrap_err();
    assert_eq!(refused["data"]["kind"], "precondition");
    assert_eq!(house.says("echo here"), "here\n");
}

#[test]
fn a_killed_keeper_takes_every_command_along() {
    let mut room = plain();
    let house = room.acquire(ID);
    let pids = stubborn(&house);
    kill(room.keeper(ID), "KILL");
    assert!(gone(&pids));
    let ended = room.call("lease.resolve", json!({"id": ID, "purpose": "use"})).unwrap_err();
    assert_eq!(ended["data"]["kind"], "expired");
    assert_eq!(room.release(ID).unwrap()["outcome"], "released");
    assert!(!room.box_dir(ID).exists());
}

fn acquire_for(room: &mut Room, ttl: u64, idle: u64) -> Value {
    let params = room.acquire_params(ID, ttl, idle);
    room.call("lease.acquire", params).unwrap()["lease"].clone()
}

#[test]
fn a_box_past_its_ttl_ends_and_clears_itself_away() {
    let mut room = plain();
    acquire_for(&mut room, 1, 600);
    let keeper = room.keeper(ID);
    assert!(until(|| !room.box_dir(ID).exists() && !alive(keeper)));
}

#[test]
fn an_idle_box_ends_but_one_that_works_does_not() {
    let mut room = plain();
    let lease = acquire_for(&mut room, 600, 2);
    let house = room::Box::of(room.dir.path(), lease);
    let output = house.run("sleep 4; echo still here");
    assert_eq!(output.stdout, b"still here\n", "{output:?}");
    assert!(until(|| !room.box_dir(ID).exists()));
}

#[test]
fn a_touch_keeps_the_limits_and_moves_the_end() {
    let mut room = plain();
    let lease = acquire_for(&mut room, 3600, 600);
    let params = json!({"lease": lease, "state": "running"});
    let touched = room.call("lease.touch", params).unwrap()["lease"].clone();
    assert_eq!(touched["labels"]["state"], "running");
    let number = |name: &str| touched["labels"][name].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(number("expires_at"), number("last_touched_at") + 600);
}

#[test]
fn a_cancelled_acquire_is_rolled_back() {
    let mut room = plain();
    let params = room.acquire_params(ID, 3600, 600);
    let call = room.begin("lease.acquire", params);
    loop {
        let frame = room.frame();
        let recording = frame["method"] == "host/resource.record";
        if recording {
            room.send(&json!({"jsonrpc": "2.0", "method": "$/cancel",
                "params": {"id": call, "reason": "user", "graceMs": 20000}}));
        }
        room.serve(&frame);
        if recording {
            break;
        }
    }
    match room.finish(call) {
        Err(error) => {
            assert_eq!(error["data"]["kind"], "cancelled");
            assert_eq!(error["data"]["outcome"], "rolled-back");
            assert_eq!(room.forgotten, room.recorded);
            assert!(!room.box_dir(ID).exists());
        }
        Ok(done) => panic!("the cancel came too late: {done}"),
    }
}

#[test]
fn a_request_that_cannot_be_met_makes_nothing() {
    let mut room = plain();
    let mut params = room.acquire_params(ID, 3600, 600);
    params["request"]["target"] = json!("windows");
    let refused = room.call("lease.acquire", params).unwrap_err();
    assert_eq!(refused["data"]["kind"], "unsupported");
    let mut params = room.acquire_params(ID, 3600, 600);
    params["sshPublicKey"] = json!("not a key");
    let refused = room.call("lease.acquire", params).unwrap_err();
    assert_eq!(refused["data"]["kind"], "invalid_request");
    assert!(room.recorded.is_empty());
}

#[test]
fn an_unfinished_box_is_found_and_removed() {
    let mut room = plain();
    fs::create_dir_all(room.box_dir(ID).join("home")).unwrap();
    let found = room.call("lease.resolve", json!({"id": ID, "purpose": "reconcile"})).unwrap();
    assert_eq!(found["lease"]["status"], "failed");
    assert_eq!(room.release(ID).unwrap()["outcome"], "released");
    assert!(!Path::new(&room.box_dir(ID)).exists());
}
