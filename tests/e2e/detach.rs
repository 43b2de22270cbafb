//! Runs that go on alone: started and left, taken up again here and elsewhere, waited for, ended.

use std::fs;
use std::time::{Duration, Instant};

use crabbox_tests::{Room, Sshd, eventually};
use rustix::process::Signal;

use crate::local::warm;

/// Starts a detached run; its id.
fn detach(room: &Room, repo: &std::path::Path, slug: &str, script: &str) -> String {
    let ended =
        room.crabbox(repo, ["run", "--id", slug, "--detach", "--", "sh", "-c", script]).ok();
    let out = ended.out();
    assert!(out.starts_with("run_") && out.lines().count() == 1, "only the id\n{ended}");
    out.trim().to_owned()
}

#[test]
fn a_detached_run_is_followed_waited_for_and_remembered() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let script = "echo begin; while [ ! -e go ]; do sleep 0.05; done; echo end; exit 7";
    let run = detach(&room, &repo, &slug, script);
    let state = || {
        let runs = room.crabbox(&repo, ["history", "--json"]).ok().json();
        let runs = runs.as_array().unwrap().clone();
        runs.into_iter().find(|r| r["id"] == run.as_str()).unwrap()
    };
    assert_eq!(state()["state"], "running");
    assert_eq!(room.crabbox(&repo, ["logs", &run]).ok().out(), "begin\n");
    let follower = room.crabbox(&repo, ["attach", &run]).start();
    follower.prints("begin");
    let waiter = room.crabbox(&repo, ["wait", &run]).start();
    let workdir = state()["workdir"].as_str().unwrap().to_owned();
    fs::write(std::path::Path::new(&workdir).join("go"), "").unwrap();
    assert_eq!(follower.wait().expect(7).out(), "begin\nend\n");
    assert_eq!(waiter.wait().expect(7).out(), "");
    let known = state();
    assert_eq!((&known["state"], &known["exitCode"]), (&"failed".into(), &7.into()), "{known}");
    let _ = room.crabbox(&repo, ["wait", &run]).run().expect(7);
    assert_eq!(room.crabbox(&repo, ["attach", &run]).run().expect(7).out(), "begin\nend\n");
    assert_eq!(room.crabbox(&repo, ["logs", &run, "-f"]).ok().out(), "begin\nend\n");
}

#[test]
fn a_detached_run_on_a_new_box_keeps_it_and_json_says_which() {
    let room = Room::new();
    let repo = room.repo("app");
    let ended = room.crabbox(&repo, ["run", "--json", "-d", "--", "sleep", "60"]).ok();
    let run = ended.json();
    assert_eq!((&run["state"], &run["detached"]), (&"running".into(), &true.into()), "{run}");
    assert_eq!(room.state_files("claims").len(), 1);
    let id = run["id"].as_str().unwrap();
    let stopped = room.crabbox(&repo, ["stop", id, "--json"]).ok().json();
    assert_eq!(
        (&stopped["stopped"][0]["runId"], &stopped["stopped"][0]["outcome"]),
        (&id.into(), &"stopped".into())
    );
    let _ = room.crabbox(&repo, ["stop", id]).ok().says(&["over already"]);
    assert_eq!(room.state_files("claims").len(), 1, "the box stays");
    let _ = room.crabbox(&repo, ["attach", id]).run().expect(130);
    let _ = room.crabbox(&repo, ["stop", run["slug"].as_str().unwrap()]).ok();
    room.assert_nothing_left();
}

#[test]
fn a_box_that_is_given_back_tells_first_how_its_runs_ended() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let over = detach(&room, &repo, &slug, "echo said; exit 4");
    let id = over.as_str();
    eventually("the run has ended", Duration::from_secs(20), || {
        let run = room.crabbox(&repo, ["history", "--json"]).ok().json()[0].clone();
        let base = std::path::PathBuf::from(run["workdir"].as_str().unwrap());
        base.parent().unwrap().join(".crabbox/run").join(id).join("exit.json").exists()
    });
    let going = detach(&room, &repo, &slug, "exec sleep 300");
    let _ = room.crabbox(&repo, ["stop", &slug]).ok();
    let runs = room.crabbox(&repo, ["history", "--json"]).ok().json();
    let (last, first) = (&runs[0], &runs[1]);
    assert_eq!((&first["state"], &first["exitCode"]), (&"failed".into(), &4.into()), "{first}");
    assert_eq!((&first["by"], &last["state"]), (&"remote".into(), &"failed".into()), "{last}");
    assert_eq!(last["errorKind"], "lease_expired", "{last}");
    let _ = room.crabbox(&repo, ["wait", id]).run().expect(4);
    assert_eq!(room.crabbox(&repo, ["logs", id]).ok().out(), "said\n");
    let _ = room.crabbox(&repo, ["wait", &going]).run().expect(8).says(&["given back"]);
    room.assert_nothing_left();
}

#[test]
fn ctrl_c_in_attach_leaves_the_run_alone() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let run = detach(&room, &repo, &slug, "echo begin; while [ ! -e go ]; do sleep 0.05; done");
    let follower = room.crabbox(&repo, ["attach", &run]).start();
    follower.prints("begin");
    follower.signal(Signal::INT);
    let _ = follower.wait().expect(130).says(&["goes on", "crabbox stop run_"]);
    let again = room.crabbox(&repo, ["attach", &run]).start();
    again.prints("begin");
    let began = Instant::now();
    let _ = room.crabbox(&repo, ["stop", &run]).ok();
    assert_ne!(again.wait().code, 0, "it was ended");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_run_whose_client_was_killed_goes_on_and_is_taken_up_byte_for_byte() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let script = "echo x >>starts; seq 1 200000; while [ ! -e go ]; do sleep 0.05; done; \
                  seq 200001 300000; exit 3";
    let client = room.crabbox(&repo, ["run", "--id", &slug, "--", "sh", "-c", script]).start();
    client.prints("200000\n");
    client.signal(Signal::KILL);
    let _ = client.wait();
    let run = room.crabbox(&repo, ["history", "--json"]).ok().json()[0].clone();
    assert_eq!((&run["state"], &run["started"]), (&"running".into(), &"yes".into()), "{run}");
    let id = run["id"].as_str().unwrap();
    let workdir = std::path::PathBuf::from(run["workdir"].as_str().unwrap());
    let attached = room.crabbox(&repo, ["attach", id]).start();
    attached.prints("200000\n");
    fs::write(workdir.join("go"), "").unwrap_or_else(|e| panic!("{e}: {run}"));
    let wanted: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    let ended = attached.wait().expect(3);
    assert!(ended.out() == wanted, "{} bytes of {}", ended.out().len(), wanted.len());
    assert_eq!(fs::read_to_string(workdir.join("starts")).unwrap(), "x\n");
    let log = room.crabbox(&repo, ["logs", id]).ok().out();
    assert!(log == wanted, "the journal is whole: {} bytes of {}", log.len(), wanted.len());
}

#[test]
fn a_run_is_taken_up_from_another_machine_that_holds_the_lease() {
    let room = Room::new();
    let sshd = Sshd::start(&room);
    room.configure(&sshd.config());
    let repo = room.repo("app");
    let started =
        room.crabbox(&repo, ["run", "-d", "--", "sh", "-c", "echo hi; sleep 1; exit 6"]).ok();
    let run = started.out().trim().to_owned();
    let other = Room::new();
    other.configure(&sshd.config());
    let elsewhere = other.repo("elsewhere");
    let _ = other.crabbox(&elsewhere, ["attach", &run]).run().expect(4);
    for _ in 0..2 {
        let unknown = ["attach", "run_000000000000", "--id", "127-0-0-1"];
        let said = other.crabbox(&elsewhere, unknown).run().expect(4);
        assert!(said.err().contains("127-0-0-1 knows no run run_000000000000"), "{}", said.err());
    }
    assert!(other.state_files("runs").is_empty(), "a run that never was leaves no record");
    let ended = other.crabbox(&elsewhere, ["attach", &run, "--id", "127-0-0-1"]).run().expect(6);
    assert_eq!(ended.out(), "hi\n");
    let _ = room.crabbox(&repo, ["wait", &run]).run().expect(6);
    // Of one that its own crabbox saw to its end, the box remembers how it ended.
    let followed = ["run", "--id", "127-0-0-1", "--", "sh", "-c", "echo hi; exit 9"];
    let _ = room.crabbox(&repo, followed).run().expect(9);
    let run = room.crabbox(&repo, ["history", "--json"]).ok().json()[0]["id"].clone();
    let attach = ["attach", run.as_str().unwrap(), "--id", "127-0-0-1"];
    let _ = other.crabbox(&elsewhere, attach).run().expect(9);
    // Of one the box does not know, nobody elsewhere can tell whether it was started.
    let ended = other.crabbox(&elsewhere, ["attach", "run_0123456789ab", "--id", "127-0-0-1"]);
    let ended = ended.run().expect(4);
    assert!(ended.err().contains("knows no run"), "{ended}");
    let id = room.state_files("claims")[0].trim_end_matches(".json").to_owned();
    let _ = room.crabbox(&repo, ["stop", &id]).ok();
}

#[test]
fn a_run_that_is_said_to_have_never_started_never_starts() {
    let room = Room::new();
    let sshd = Sshd::start(&room);
    room.configure(&sshd.config());
    let repo = room.repo("app");
    let started = room.crabbox(&repo, ["run", "-d", "--", "sleep", "60"]).ok();
    let first = started.out().trim().to_owned();
    let queued = room.crabbox(&repo, ["run", "--id", "127-0-0-1", "--", "touch", "ran"]).start();
    queued.says("waiting");
    queued.signal(Signal::KILL);
    let _ = queued.wait();
    let run = room.crabbox(&repo, ["history", "--json"]).ok().json()[0]["id"].clone();
    let run = run.as_str().unwrap();
    let _ = room.crabbox(&repo, ["attach", run]).run().expect(7).says(&["never started"]);
    let lease = room.state_files("claims")[0].trim_end_matches(".json").to_owned();
    let proof = sshd.work_root.join(&lease).join(".crabbox/run").join(run).join("forgotten");
    assert!(proof.exists(), "its place is taken: {}", proof.display());
    let _ = room.crabbox(&repo, ["stop", &first]).ok();
    let _ = room.crabbox(&repo, ["stop", &lease]).ok();
}

#[test]
fn runs_on_one_work_tree_queue_also_from_two_machines_or_run_in_copies() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let run = detach(&room, &repo, &slug, "echo begin; while [ ! -e go ]; do sleep 0.05; done");
    let busy =
        room.crabbox(&repo, ["run", "--id", &slug, "--no-wait", "--", "true"]).run().expect(6);
    assert!(busy.err().contains(&run), "it says who is there\n{busy}");
    let beside = ["run", "--id", &slug, "--isolate", "--", "sh", "-c", "touch made; ls"];
    let beside = room.crabbox(&repo, beside).ok();
    assert_eq!(beside.out(), "hello.txt\nmade\n", "a copy of its own waits for nobody");
    let queued = room.crabbox(&repo, ["run", "--id", &slug, "--", "echo", "mine"]).start();
    queued.says("waiting");
    let _ = room.crabbox(&repo, ["stop", &run]).ok();
    assert_eq!(queued.wait().expect(0).out(), "mine\n");
    let alone = ["run", "--id", &slug, "--isolate", "-d", "--", "sh", "-c", "touch made; sleep 60"];
    let alone = room.crabbox(&repo, alone).ok().out().trim().to_owned();
    let beside = room.crabbox(&repo, ["run", "--id", &slug, "--no-wait", "--", "ls"]).ok();
    assert_eq!(beside.out(), "hello.txt\n", "a private copy is private, and holds nobody up");
    let _ = room.crabbox(&repo, ["stop", &alone]).ok();
}

#[test]
fn a_run_that_waits_for_the_work_tree_can_be_stopped_before_it_starts() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = crate::local::warm(&room, &repo);
    let call = ["run", "--id", &slug, "-d", "--", "sleep", "60"];
    let first = room.crabbox(&repo, call).ok().out().trim().to_owned();
    let queued = room.crabbox(&repo, ["run", "--id", &slug, "--", "touch", "ran"]).start();
    queued.says("waiting");
    let run = room.crabbox(&repo, ["history", "--json"]).ok().json()[0]["id"].clone();
    let run = run.as_str().unwrap();
    assert_ne!(run, first);
    let _ = room.crabbox(&repo, ["stop", run]).ok().says(&["stopped"]);
    let _ = queued.wait().expect(7).says(&["never started"]);
    let _ = room.crabbox(&repo, ["stop", &first]).ok();
    let never = ["run", "--id", &slug, "--", "test", "!", "-e", "ran"];
    let _ = room.crabbox(&repo, never).run().expect(0);
    let _ = room.crabbox(&repo, ["stop", &slug]).ok();
}
