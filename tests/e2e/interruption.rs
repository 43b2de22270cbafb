//! Interrupted at any moment: nothing runs on, nothing is started twice, and cleanup finishes the rest.

use std::fs;
use std::time::{Duration, Instant};

use crabbox_tests::{Room, Sshd, eventually};
use rustix::process::Signal;

use crate::matrix::Dice;

#[test]
fn ctrl_c_stops_the_commands_whole_process_group_and_gives_the_box_back() {
    let room = Room::new();
    let repo = room.repo("app");
    let script = "sleep 301 & sleep 302 & echo begun; wait";
    let running = room.crabbox(&repo, ["run", "--", "sh", "-c", script]).start();
    running.prints("begun");
    let began = Instant::now();
    running.signal(Signal::INT);
    let ended = running.wait().expect(130);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}\n{ended}", began.elapsed());
    room.assert_nothing_left();
}

#[test]
fn a_command_that_ignores_signals_is_gone_two_seconds_after_ctrl_c() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = crate::local::warm(&room, &repo);
    let script = "trap '' INT TERM HUP; echo begun; while :; do sleep 1; done";
    let running = room.crabbox(&repo, ["run", "--id", &slug, "--", "sh", "-c", script]).start();
    running.prints("begun");
    running.signal(Signal::INT);
    let began = Instant::now();
    let survivors =
        || room.processes().into_iter().filter(|(_, line)| line.contains("trap '' INT")).count();
    while survivors() > 1 {
        // The crabbox process itself has the script among its arguments.
        assert!(began.elapsed() < Duration::from_millis(3500), "{:?}", room.processes());
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = running.wait().expect(130);
    let _ = room.crabbox(&repo, ["run", "--id", &slug, "--", "true"]).ok();
}

#[test]
fn a_tree_that_takes_long_to_read_does_not_hold_ctrl_c_up() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::File::create(repo.join("endless")).unwrap().set_len(1 << 40).unwrap();
    for command in [&["run", "--", "true"] as &[_], &["sync-plan"], &["watch", "--", "true"]] {
        let running = room.crabbox(&repo, command).start();
        let open = format!("/proc/{}/fd", running.pid());
        eventually("it reads the file", Duration::from_secs(20), || {
            let mut files = fs::read_dir(&open).unwrap().flatten();
            files.any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.ends_with("endless")))
        });
        running.signal(Signal::INT);
        let began = Instant::now();
        let ended = running.wait().expect(130);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}\n{ended}", began.elapsed());
        assert!(ended.err().contains("interrupted while the tree was read"), "{ended}");
    }
    room.assert_nothing_left();
}

#[test]
fn a_second_ctrl_c_does_not_wait() {
    let room = Room::new();
    let repo = room.repo("app");
    let script = "trap '' INT TERM HUP; echo begun; while :; do sleep 1; done";
    let running = room.crabbox(&repo, ["run", "--", "sh", "-c", script]).start();
    running.prints("begun");
    running.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    running.signal(Signal::INT);
    let _ = running.wait().expect(130);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let _ = room.crabbox(&repo, ["cleanup"]).ok();
    room.assert_nothing_left();
}

#[test]
fn sigterm_is_as_good_as_ctrl_c() {
    let room = Room::new();
    let repo = room.repo("app");
    let running = room.crabbox(&repo, ["run", "--", "sh", "-c", "echo begun; sleep 303"]).start();
    running.prints("begun");
    running.signal(Signal::TERM);
    let _ = running.wait().expect(130);
    room.assert_nothing_left();
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    let room = Room::new();
    let repo = room.repo("app");
    let go = room.at("go");
    let script =
        format!("echo begun; while [ ! -e {} ]; do sleep 0.05; done; exit 5", go.display());
    // What nohup does, and a shell without job control for what it starts with an ampersand.
    let nohup = ["-c", "trap '' HUP INT; exec \"$@\"", "sh"];
    let call = room.crabbox(&repo, ["run", "--local-isolation", "none", "--", "sh", "-c", &script]);
    let running = call.clone().through("sh", nohup).start();
    running.prints("begun");
    for signal in [Signal::HUP, Signal::INT, Signal::HUP] {
        running.signal(signal);
        std::thread::sleep(Duration::from_millis(100));
    }
    fs::write(&go, "").unwrap();
    let _ = running.wait().expect(5);
    fs::remove_file(&go).unwrap();
    let running = call.through("sh", nohup).start();
    running.prints("begun");
    running.signal(Signal::TERM);
    let _ = running.wait().expect(130);
    room.assert_nothing_left();
}

#[test]
fn killed_at_any_moment_a_run_leaves_nothing_that_cleanup_does_not_finish() {
    let room = Room::new();
    let repo = room.repo("app");
    for n in 0..30 {
        fs::write(repo.join(format!("f{n}")), vec![n; 5000]).unwrap();
    }
    let began = Instant::now();
    let args =
        ["run", "--provider", "local", "--local-isolation", "none", "--", "sh", "-c", "sleep 0.2"];
    let _ = room.crabbox(&repo, args).ok();
    let whole = u64::try_from(began.elapsed().as_micros()).unwrap();
    let seed = u64::from(std::process::id()) << 20 | u64::from(began.elapsed().subsec_micros()) | 1;
    let mut dice = Dice::new(seed);
    let mut started = 0;
    for round in 0..50 {
        // Only a box that is not fenced off can leave a mark out here; the others must leave as little behind.
        let isolation = if round % 2 == 0 { "none" } else { "auto" };
        let mark = room.at(&format!("mark-{round}"));
        let after = Duration::from_micros(dice.below(whole + whole / 5));
        let script = format!("echo started >>{}; sleep 0.2", mark.display());
        let args = [
            "run",
            "--provider",
            "local",
            "--local-isolation",
            isolation,
            "--",
            "sh",
            "-c",
            &script,
        ];
        let running = room.crabbox(&repo, args).start();
        std::thread::sleep(after);
        running.signal(Signal::KILL);
        let _ = running.wait();
        let context = format!("round {round}, killed after {after:?}, seed {seed}");
        let cleaned = room.crabbox(&repo, ["cleanup"]).run();
        assert_eq!(cleaned.code, 0, "{context}\n{cleaned}");
        room.assert_no_process_within(Duration::from_secs(10));
        for folder in ["claims", "journal"] {
            assert_eq!(
                room.state_files(folder),
                Vec::<String>::new(),
                "{folder}: {context}\n{cleaned}"
            );
        }
        let boxes = room.call("find").arg(room.at("state")).args(["-name", "cbx_*"]).run().out();
        let boxes: Vec<_> = boxes.lines().filter(|l| !l.contains("/locks/")).collect();
        assert!(boxes.is_empty(), "{context}: {boxes:?}");
        let starts = fs::read_to_string(&mark).unwrap_or_default().lines().count();
        assert!(starts <= 1, "started {starts} times: {context}");
        started += starts;
    }
    assert!(started >= 1, "no run got as far as its command; seed {seed}");
    let lost = room.crabbox(&repo, ["history", "--json", "--limit", "100"]).ok().json();
    let running: Vec<_> =
        lost.as_array().unwrap().iter().filter(|r| r["state"] == "running").collect();
    assert!(running.is_empty(), "nothing runs any more: {running:?}");
}

#[test]
fn killed_at_any_moment_a_run_on_the_users_own_host_starts_its_command_at_most_once() {
    let room = Room::new();
    let sshd = Sshd::start(&room);
    room.configure(&sshd.config());
    let repo = room.repo("app");
    let began = Instant::now();
    let _ = room.crabbox(&repo, ["run", "--", "true"]).ok();
    let whole = u64::try_from(began.elapsed().as_micros()).unwrap();
    let seed = u64::from(std::process::id()) << 20 | u64::from(began.elapsed().subsec_micros()) | 1;
    let mut dice = Dice::new(seed);
    for round in 0..15 {
        let mark = room.at(&format!("mark-{round}"));
        let after = Duration::from_micros(dice.below(whole + whole / 5));
        let script = format!("echo started >>{}", mark.display());
        let running = room.crabbox(&repo, ["run", "--", "sh", "-c", &script]).start();
        std::thread::sleep(after);
        running.signal(Signal::KILL);
        let _ = running.wait();
        let context = format!("round {round}, killed after {after:?}, seed {seed}");
        let cleaned = room.crabbox(&repo, ["cleanup"]).run();
        assert_eq!(cleaned.code, 0, "{context}\n{cleaned}");
        assert_eq!(room.state_files("journal"), Vec::<String>::new(), "{context}\n{cleaned}");
        let starts = fs::read_to_string(&mark).unwrap_or_default().lines().count();
        assert!(starts <= 1, "started {starts} times: {context}");
    }
    let _ = room.crabbox(&repo, ["run", "--", "test", "-f", "hello.txt"]).ok();
}

#[test]
fn the_next_command_tells_of_what_was_interrupted() {
    let room = Room::new();
    let repo = room.repo("app");
    let running = room.crabbox(&repo, ["run", "--", "sh", "-c", "echo begun; sleep 304"]).start();
    running.prints("begun");
    running.signal(Signal::KILL);
    let _ = running.wait();
    let _ = room.crabbox(&repo, ["list"]).ok().says(&["crabbox cleanup"]);
    let planned = room.crabbox(&repo, ["cleanup", "--dry-run"]).ok();
    assert!(planned.out().contains("delete lease=cbx_"), "{planned}");
    assert_eq!(room.state_files("claims").len(), 1, "a dry run changes nothing");
    let _ = room.crabbox(&repo, ["cleanup"]).ok();
    room.assert_nothing_left();
}
