//! Bad days: full disks, files that change, links that break, clocks that run out, neighbours that run too.

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crabbox_tests::{Room, Sshd, tree};

use crate::local::warm;

#[test]
fn a_box_without_room_for_the_tree_is_a_clear_error() {
    let room = Room::new();
    room.configure("provider: local\nproviders:\n  local:\n    file-size-mib: 1\n");
    let repo = room.repo("app");
    fs::write(repo.join("big"), vec![7; 3 << 20]).unwrap();
    let ended = room.crabbox(&repo, ["run", "--json", "--", "touch", "started"]).run().expect(6);
    let error = &ended.json()["error"];
    assert_eq!(
        (&error["errorKind"], &error["stage"]),
        (&"sync_write".into(), &"sync".into()),
        "{ended}"
    );
    assert_eq!(ended.json()["started"], "no", "{ended}");
    room.assert_nothing_left();
}

#[test]
fn a_file_that_grows_while_it_is_sent_is_sent_whole_or_named() {
    let room = Room::new();
    let repo = room.repo("app");
    let log = repo.join("growing.log");
    fs::write(&log, "begin\n").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
            while !over.load(Ordering::Relaxed) {
                file.write_all(&[b'x'; 4096]).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        for _ in 0..3 {
            let ended = room.crabbox(&repo, ["run", "--json", "--", "true"]).run();
            if ended.code != 0 {
                assert_eq!(ended.code, 6, "{ended}");
                assert_eq!(ended.json()["error"]["errorKind"], "sync_read", "{ended}");
                let _ = ended.says(&["growing.log"]);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    room.assert_nothing_left();
}

#[test]
fn a_link_cut_while_the_tree_is_sent_starts_nothing_and_the_next_run_works() {
    let room = Room::new();
    let sshd = Sshd::start(&room);
    room.configure(&sshd.config());
    let repo = room.repo("app");
    tree::write_odd(&repo, 1500);
    fs::write(repo.join("large"), vec![3; 60 << 20]).unwrap();
    let mark = room.at("started");
    let mark_text = mark.to_string_lossy().into_owned();
    let args = ["run", "--keep", "--reconnect", "0", "--", "touch", &mark_text];
    let running = room.crabbox(&repo, args).start();
    running.says("sync candidate");
    sshd.cut();
    let ended = running.wait();
    assert!(matches!(ended.code, 6 | 7), "{ended}");
    assert!(!mark.exists(), "nothing was started\n{ended}");
    let _ = room.crabbox(&repo, ["run", "--", "touch", &mark_text]).ok();
    assert!(mark.exists());
}

#[test]
fn a_run_longer_than_the_idle_limit_keeps_its_box() {
    let room = Room::new();
    let repo = room.repo("app");
    let script = "sleep 9; echo still here";
    let ended = room.crabbox(&repo, ["run", "--idle-timeout", "5s", "--", "sh", "-c", script]).ok();
    assert_eq!(ended.out(), "still here\n");
    room.assert_nothing_left();
}

#[test]
fn a_run_beyond_the_hard_limit_ends_and_leaves_nothing() {
    let room = Room::new();
    let repo = room.repo("app");
    let ended = room.crabbox(&repo, ["run", "--ttl", "3s", "--", "sh", "-c", "sleep 305"]).run();
    assert!(matches!(ended.code, 7 | 8), "{ended}");
    assert!(!ended.err().contains("trying for"), "a box that has ended is not sought: {ended}");
    let _ = room.crabbox(&repo, ["cleanup"]).ok();
    room.assert_nothing_left();
}

#[test]
fn runs_of_one_checkout_at_the_same_time_have_boxes_of_their_own() {
    let room = Room::new();
    let repo = room.repo("app");
    let script = "echo $CRABBOX_LEASE_ID >id; sleep 0.5; cat id; echo $CRABBOX_LEASE_ID";
    let runs: Vec<_> =
        (0..4).map(|_| room.crabbox(&repo, ["run", "--", "sh", "-c", script]).start()).collect();
    let mut seen = Vec::new();
    for run in runs {
        let out = run.wait().expect(0).out();
        let ids: Vec<_> = out.lines().collect();
        assert_eq!(ids[0], ids[1], "{out}");
        seen.push(ids[0].to_owned());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4, "{seen:?}");
    room.assert_nothing_left();
}

#[test]
fn a_box_that_vanished_is_noticed_and_forgotten() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    for (pid, line) in room.processes() {
        if line.contains("crabbox-provider-local") || line.contains("bwrap") {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    room.assert_no_process_within(Duration::from_secs(5));
    let ended = room.crabbox(&repo, ["run", "--id", &slug, "--", "true"]).run();
    assert!(matches!(ended.code, 4 | 7 | 8), "{ended}");
    let _ = room.crabbox(&repo, ["stop", &slug]).run();
    let _ = room.crabbox(&repo, ["cleanup"]).ok();
    room.assert_nothing_left();
}

#[test]
fn a_reader_that_goes_away_does_not_leave_a_box_behind() {
    let room = Room::new();
    let repo = room.repo("app");
    let crabbox = crabbox_tests::binary("crabbox-under-test");
    let line = format!(
        "{{ '{}' run -- sh -c 'yes | head -c 5000000'; echo \"status $?\" >&2; }} | head -c 10 >/dev/null",
        crabbox.display()
    );
    let ended = room.call("sh").dir(&repo).args(["-c", &line]).run();
    assert!(ended.err().contains("status 141") && !ended.err().contains("error"), "{ended}");
    let run = &room.crabbox(&repo, ["history", "--json"]).ok().json()[0];
    assert_eq!(run["exitCode"], 141, "{run}");
    room.assert_nothing_left();
}

#[test]
fn a_state_folder_that_cannot_be_written_is_an_error_before_anything_is_spent() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(room.state(), "a file is in the way").unwrap();
    let ended = room.crabbox(&repo, ["run", "--json", "--", "true"]).run().expect(1);
    assert_eq!(ended.json()["error"]["errorKind"], "state", "{ended}");
    assert!(!ended.err().contains("panicked") && !ended.err().contains("provisioned"), "{ended}");
    fs::remove_file(room.state()).unwrap();
}
