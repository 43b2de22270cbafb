//! Broken links: the command goes on, its output arrives once and whole, and it is started once.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crabbox_tests::line::{Direction, Fault, Line, Shape};
use crabbox_tests::{Call, Room, Sshd, eventually, tree};
use rustix::process::Signal;

use crate::matrix::Dice;

/// A room whose user has a host of their own, at the other end of a link.
struct Far {
    repo: PathBuf,
    line: Line,
    sshd: Sshd,
    room: Room,
}

impl Far {
    fn new() -> Self {
        let room = Room::new();
        let sshd = Sshd::start(&room);
        let line = Line::start(([127, 0, 0, 1], sshd.port).into(), Shape::rtt_ms(10));
        let config = sshd.config_through("127.0.0.1", line.addr().port());
        room.configure(&format!("{config}ssh:\n  keepalive: 300ms\n"));
        let repo = room.repo("app");
        Self { repo, line, sshd, room }
    }

    fn run(&self, args: &[&str], script: &str) -> Call {
        let call = self.room.crabbox(&self.repo, ["run"]).args(args.iter().copied());
        call.args(["--", "sh", "-c", script])
    }

    /// A script that notes its start and then does this.
    fn noting(&self, script: &str) -> String {
        format!("echo x >>{}; {script}", self.room.at("starts").display())
    }

    fn started_once(&self) {
        assert_eq!(fs::read_to_string(self.room.at("starts")).unwrap(), "x\n");
    }
}

/// Prints lines that tell their place, on both streams, for about this many tenths of a second.
fn lines(tenths: usize) -> (String, String) {
    let script = format!(
        "for i in $(seq {tenths}); do seq $((i * 1000)) $((i * 1000 + 999)); echo $i >&2; sleep 0.1; done; exit 5"
    );
    let wanted = (1..=tenths).flat_map(|i| (i * 1000..i * 1000 + 1000).map(|n| format!("{n}\n")));
    (script, wanted.collect())
}

#[test]
fn a_link_that_is_cut_again_and_again_costs_no_byte_and_doubles_none() {
    let far = Far::new();
    let (script, wanted) = lines(20);
    let go = far.room.at("go");
    let script =
        script.replace("exit", &format!("until [ -e {} ]; do sleep 0.1; done; exit", go.display()));
    let running = far.run(&[], &far.noting(&script)).start();
    running.prints("1999\n");
    for _ in 0..4 {
        let seen = far.line.connections();
        far.line.cut();
        eventually(&running.stderr(), Duration::from_secs(30), || far.line.connections() > seen);
        std::thread::sleep(Duration::from_millis(200));
    }
    fs::write(go, "").unwrap();
    let ended = running.wait().expect(5).says(&["connection lost", "connected again"]);
    assert!(ended.out() == wanted, "{} bytes of {}", ended.out().len(), wanted.len());
    let told: String = (1..=20).map(|n| format!("{n}\n")).collect();
    let printed: String = ended
        .err()
        .lines()
        .filter(|l| l.parse::<u32>().is_ok())
        .fold(String::new(), |all, line| all + line + "\n");
    assert_eq!(printed, told);
    far.started_once();
    let events = far.room.crabbox(&far.repo, ["events"]).ok().out();
    assert!(
        events.contains("connection.lost") && events.contains("connection.restored"),
        "{events}"
    );
}

#[test]
fn a_link_cut_at_any_byte_of_a_sync_leaves_the_tree_exact_and_starts_the_command_once() {
    let far = Far::new();
    tree::write_odd(&far.repo, 300);
    fs::write(far.repo.join("large"), Dice::new(1).noise(4_000_000)).unwrap();
    far.room.commit(&far.repo);
    let running = far.run(&[], &far.noting("echo done")).start();
    for more in [30_000, 700_000, 900_000, 1_200_000] {
        far.line.strike_after(more, Direction::Up, Fault::Cut);
        let seen = far.line.connections();
        eventually("a new connection", Duration::from_secs(20), || {
            far.line.connections() > seen || running.stdout() == "done\n"
        });
    }
    assert_eq!(running.wait().expect(0).out(), "done\n");
    far.started_once();
    let here = fs::read_dir(&far.sshd.work_root).unwrap().flatten().map(|e| e.path().join("app"));
    let trees: Vec<_> = here.filter(|path| path.is_dir()).collect();
    tree::assert_same(&far.repo, &trees[0]);
}

#[test]
fn a_black_hole_of_a_few_seconds_is_an_interruption_and_no_end() {
    let far = Far::new();
    let (script, wanted) = lines(40);
    let running = far.run(&[], &far.noting(&script)).start();
    running.prints("1999\n");
    far.line.black_hole(true);
    running.says("connection lost");
    far.line.black_hole(false);
    let ended = running.wait().expect(5);
    assert!(ended.out() == wanted, "{} bytes of {}", ended.out().len(), wanted.len());
    far.started_once();
}

#[test]
fn a_black_hole_during_a_sync_keeps_nobody_waiting_for_a_ghost() {
    let far = Far::new();
    fs::write(far.repo.join("large"), Dice::new(1).noise(4_000_000)).unwrap();
    far.line.strike_after(1_500_000 + 700_000, Direction::Up, Fault::BlackHole);
    let running = far.run(&[], &far.noting("echo done")).start();
    running.says("connection lost");
    far.line.cut();
    far.line.black_hole(false);
    assert_eq!(running.wait().expect(0).out(), "done\n");
    far.started_once();
}

#[test]
fn a_frozen_client_goes_on_where_it_was_although_its_connection_died() {
    for cut in [false, true] {
        let far = Far::new();
        let (script, wanted) = lines(20);
        let running = far.run(&[], &far.noting(&script)).start();
        running.prints("1999\n");
        running.signal(Signal::STOP);
        if cut {
            far.line.cut();
        }
        std::thread::sleep(Duration::from_secs(3));
        running.signal(Signal::CONT);
        let ended = running.wait().expect(5);
        assert!(ended.out() == wanted, "{} bytes of {}", ended.out().len(), wanted.len());
        far.started_once();
    }
}

#[test]
fn what_is_typed_arrives_once_and_whole_over_a_broken_link() {
    let far = Far::new();
    let bytes = Dice::new(1).noise(20_000_000);
    let running = far.run(&["-q"], &far.noting("cat")).stdin(bytes.clone()).start();
    eventually("the command runs", Duration::from_secs(30), || far.room.at("starts").exists());
    for more in [1_000_000, 3_000_000, 5_000_000] {
        far.line.strike_after(more, Direction::Up, Fault::Cut);
        let seen = far.line.connections();
        eventually("a new connection", Duration::from_secs(20), || far.line.connections() > seen);
    }
    let ended = running.wait().expect(0);
    assert!(ended.stdout == bytes, "{} bytes came back of {}", ended.stdout.len(), bytes.len());
    far.started_once();
}

#[test]
fn output_that_the_box_could_not_keep_is_told_also_to_who_wants_quiet() {
    let room = Room::new();
    room.configure("history:\n  maxBytes: 300KiB\n");
    let repo = room.repo("app");
    let slug = crate::local::warm(&room, &repo);
    let script = "seq 1 400000; exit 3";
    let call = ["run", "--id", &slug, "--detach", "--", "sh", "-c", script];
    let run = room.crabbox(&repo, call).ok().out();
    let ended = room.crabbox(&repo, ["attach", "-q", run.trim()]).run().expect(3);
    assert!(ended.out().ends_with("400000\n"), "{}", ended.err());
    let _ = ended.says(&["warning: ", "of stdout are missing"]);
    let _ = room.crabbox(&repo, ["logs", run.trim()]).ok().says(&["not all that", "was kept"]);
    let _ = room.crabbox(&repo, ["stop", &slug]).ok();
}

#[test]
fn a_box_that_stays_away_is_given_up_in_time_and_the_run_is_lost() {
    for (patience, most) in [("0", 10), ("2s", 15)] {
        let far = Far::new();
        let script = far.noting("echo begun; exec sleep 60");
        let running = far.run(&["--keep", "--reconnect", patience], &script).start();
        running.prints("begun");
        far.line.strike(Fault::Down);
        let began = std::time::Instant::now();
        let ended = running.wait().expect(7);
        assert!(began.elapsed() < Duration::from_secs(most), "{:?}\n{ended}", began.elapsed());
        let run = &far.room.crabbox(&far.repo, ["history", "--json"]).ok().json()[0];
        assert_eq!((&run["state"], &run["started"]), (&"lost".into(), &"yes".into()), "{run}");
        let id = run["id"].as_str().unwrap().to_owned();
        far.line.refuse(false);
        let attached = far.room.crabbox(&far.repo, ["attach", &id]).start();
        attached.prints("begun");
        let _ = far.room.crabbox(&far.repo, ["stop", &id]).ok();
        assert_ne!(attached.wait().code, 0);
        far.started_once();
    }
}

#[test]
fn an_interrupt_while_the_box_is_away_ends_the_wait_and_says_that_the_command_may_run() {
    let far = Far::new();
    let running = far.run(&["--keep"], &far.noting("echo begun; exec sleep 60")).start();
    running.prints("begun");
    far.line.strike(Fault::Down);
    running.says("connection lost");
    running.signal(Signal::INT);
    let _ = running.wait().expect(130).says(&["crabbox attach run_"]);
    let run = &far.room.crabbox(&far.repo, ["history", "--json"]).ok().json()[0];
    assert_eq!((&run["state"], &run["started"]), (&"lost".into(), &"yes".into()), "{run}");
    far.line.refuse(false);
    let _ = far.room.crabbox(&far.repo, ["stop", run["id"].as_str().unwrap()]).ok();
}
