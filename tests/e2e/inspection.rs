//! Looking back and around: history, events, logs, attach, results, doctor, providers, help.

use std::fs;
use std::time::{Duration, Instant};

use crabbox_tests::{Room, Sshd};

use crate::local::warm;

#[test]
fn a_run_can_be_read_afterwards() {
    let room = Room::new();
    let repo = room.repo("app");
    let _ = room
        .crabbox(
            &repo,
            ["run", "--label", "mine", "--", "sh", "-c", "echo out; echo err >&2; exit 4"],
        )
        .run()
        .expect(4);
    let run = room.crabbox(&repo, ["history", "--json"]).ok().json()[0].clone();
    assert_eq!(
        (&run["exitCode"], &run["state"], &run["by"]),
        (&4.into(), &"failed".into(), &"remote".into()),
        "{run}"
    );
    assert_eq!((&run["label"], &run["provider"]), (&"mine".into(), &"local".into()));
    let id = run["id"].as_str().unwrap();
    let text = room.crabbox(&repo, ["history"]).ok().out();
    assert!(text.contains(id), "{text}");

    let logs = room.crabbox(&repo, ["logs", id]).ok();
    assert_eq!((logs.out().as_str(), logs.err().as_str()), ("out\n", "err\n"));
    let events = room.crabbox(&repo, ["events", id, "--json"]).ok().json();
    let types: Vec<_> =
        events.as_array().unwrap().iter().filter_map(|e| e["type"].as_str()).collect();
    for wanted in [
        "leasing.started",
        "lease.created",
        "sync.started",
        "sync.finished",
        "command.started",
        "command.finished",
    ] {
        assert!(types.contains(&wanted), "{wanted} is missing in {types:?}");
    }
    let numbers: Vec<_> =
        events.as_array().unwrap().iter().filter_map(|e| e["seq"].as_u64()).collect();
    assert!(numbers.windows(2).all(|w| w[0] < w[1]) && numbers[0] == 1, "{numbers:?}");
    let again = room.crabbox(&repo, ["attach", id]).run().expect(4);
    assert!(again.out().contains("out\n"), "{again}");
    let _ = room.crabbox(&repo, ["logs", "run_000000000000"]).run().expect(4);
}

#[test]
fn a_live_run_is_followed_from_elsewhere_to_its_status() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let script = "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two; exit 6";
    let run = room.crabbox(&repo, ["run", "--id", &slug, "--", "sh", "-c", script]).start();
    run.prints("one");
    let record = room.crabbox(&repo, ["history", "--json"]).ok().json()[0].clone();
    assert_eq!(record["state"], "running", "{record}");
    let follower = room.crabbox(&repo, ["attach", record["id"].as_str().unwrap()]).start();
    follower.prints("one");
    let line = room.crabbox(&repo, ["ssh", "--id", &slug]).ok().out();
    let workdir = record["workdir"].as_str().expect("a live run knows its place");
    assert!(workdir.starts_with('/'), "{record}");
    let _ = room.call("sh").args(["-c", &format!("{} 'touch {workdir}/go'", line.trim())]).ok();
    assert_eq!(run.wait().expect(6).out(), "one\ntwo\n");
    assert_eq!(follower.wait().expect(6).out(), "one\ntwo\n");
}

#[test]
fn results_are_kept_with_the_run() {
    let room = Room::new();
    let repo = room.repo("app");
    let report = "<testsuite name='s'><testcase name='good'/><testcase name='bad'><failure message='no'/></testcase></testsuite>";
    fs::write(repo.join("r.xml"), report).unwrap();
    let _ = room.crabbox(&repo, ["run", "--junit", "r.xml", "--", "true"]).ok();
    let id = room.crabbox(&repo, ["history", "--json"]).ok().json()[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let results = room.crabbox(&repo, ["results", &id, "--json"]).ok().json();
    assert_eq!((&results["tests"], &results["failures"]), (&2.into(), &1.into()), "{results}");
    assert_eq!(results["failed"][0]["name"], "bad", "{results}");
    let text = room.crabbox(&repo, ["results", &id]).ok().out();
    assert!(text.contains("bad"), "{text}");
}

#[test]
fn the_event_stream_is_json_lines() {
    let room = Room::new();
    let repo = room.repo("app");
    let _ = room.crabbox(&repo, ["run", "--events", "jsonl:events.jsonl", "--", "echo", "hi"]).ok();
    let text = fs::read_to_string(repo.join("events.jsonl")).unwrap();
    let events: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(events.iter().any(|e| e["type"] == "command.finished"), "{text}");
    assert!(events.iter().any(|e| e["type"] == "lease.released"), "{text}");
}

#[test]
fn doctor_answers_quickly_and_names_what_is_wrong() {
    let room = Room::new();
    let repo = room.repo("app");
    let began = Instant::now();
    let view = room.crabbox(&repo, ["doctor", "--json"]).ok().json();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((&view["healthy"], &view["mutation"]), (&true.into(), &false.into()), "{view}");
    let categories: Vec<_> =
        view["checks"].as_array().unwrap().iter().filter_map(|c| c["category"].as_str()).collect();
    for wanted in ["config", "repository", "state", "plugins", "provider"] {
        assert!(categories.contains(&wanted), "{wanted} is missing in {categories:?}");
    }
    room.configure("provider: moon\n");
    let view = room.crabbox(&repo, ["doctor", "--json"]).run().expect(1).json();
    assert_eq!(view["healthy"], false, "{view}");
    room.assert_nothing_left();
}

#[test]
fn providers_are_listed_and_described_without_running_them() {
    let room = Room::new();
    let repo = room.repo("app");
    let text = room.crabbox(&repo, ["providers"]).ok().out();
    assert!(text.contains("local") && text.contains("ssh"), "{text}");
    let described = room.crabbox(&repo, ["providers", "describe", "ssh"]).ok().out();
    assert!(described.contains("host") && described.contains("static"), "{described}");
    let json = room.crabbox(&repo, ["providers", "--json"]).ok().json();
    assert!(json.to_string().contains("\"local\""), "{json}");
    let _ = room.crabbox(&repo, ["providers", "describe", "moon"]).run().expect(2);
}

#[test]
fn every_command_has_help_that_ends_well() {
    let room = Room::new();
    let help = room.crabbox(room.path(), ["--help"]).ok().out();
    let commands: Vec<_> = help
        .lines()
        .skip_while(|l| !l.starts_with("Commands:"))
        .skip(1)
        .take_while(|l| !l.is_empty())
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|c| *c != "help")
        .collect();
    assert!(commands.len() >= 20, "{help}");
    for command in commands {
        let ended = room.crabbox(room.path(), [command, "--help"]).ok();
        assert!(ended.out().contains("Usage: crabbox"), "{ended}");
    }
}

#[test]
fn init_writes_three_files_and_overwrites_none() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join("Cargo.toml"), "[package]\nname = 'x'\n").unwrap();
    let ended = room.crabbox(&repo, ["init"]).ok();
    assert_eq!(
        ended.out().matches("wrote ").count() + ended.err().matches("wrote ").count(),
        3,
        "{ended}"
    );
    let yaml = fs::read_to_string(repo.join(".crabbox.yaml")).unwrap();
    fs::write(repo.join(".crabbox.yaml"), "# mine\n").unwrap();
    let _ = room.crabbox(&repo, ["init"]).run().expect(2);
    assert_eq!(fs::read_to_string(repo.join(".crabbox.yaml")).unwrap(), "# mine\n");
    let _ = room.crabbox(&repo, ["init", "--force"]).ok();
    assert_eq!(fs::read_to_string(repo.join(".crabbox.yaml")).unwrap(), yaml);
    let _ = room.crabbox(&repo, ["run", "--", "true"]).ok();
}

#[test]
fn version_and_completions_are_printed() {
    let room = Room::new();
    let version = room.crabbox(room.path(), ["version"]).ok().out();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        let script = room.crabbox(room.path(), ["completions", shell]).ok().out();
        assert!(script.contains("crabbox") && script.len() > 500, "{shell}");
    }
}

#[test]
fn a_box_tells_how_it_is_doing() {
    let room = Room::new();
    let sshd = Sshd::start(&room);
    room.configure(&sshd.config());
    let repo = room.repo("app");
    let _ = room.crabbox(&repo, ["warmup"]).ok();
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let memory = memory.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024;
    for command in ["status", "inspect"] {
        let view = room.crabbox(&repo, [command, "127-0-0-1", "--json"]).ok().json();
        let told = &view["telemetry"];
        assert_eq!(
            (&told["source"], &told["memoryTotalBytes"]),
            (&"helper".into(), &memory.into()),
            "{view}"
        );
        for name in [
            "load1",
            "load5",
            "load15",
            "memoryUsedBytes",
            "memoryPercent",
            "diskUsedBytes",
            "diskTotalBytes",
            "diskPercent",
            "uptimeSeconds",
        ] {
            assert!(told[name].as_f64().is_some_and(|n| n >= 0.0), "{name}: {view}");
        }
        let part = |name: &str| told[name].as_f64().unwrap();
        let disk = part("diskUsedBytes") * 100.0 / part("diskTotalBytes");
        assert!((disk - part("diskPercent")).abs() < 0.1, "{view}");
        assert!(told["capturedAt"].as_str().is_some_and(|at| at.starts_with("20")), "{view}");
        let text = room.crabbox(&repo, [command, "127-0-0-1"]).ok().out();
        let first = text.lines().next().unwrap();
        assert!(["load=", "memory=", "disk="].iter().all(|word| first.contains(word)), "{text}");
    }
    let _ = room.crabbox(&repo, ["stop", "127-0-0-1"]).ok();
    let view = room.crabbox(&repo, ["warmup", "--provider", "local", "--json"]).ok().json();
    let slug = view["slug"].as_str().unwrap();
    let view = room.crabbox(&repo, ["status", slug, "--json"]).ok().json();
    assert_eq!(view["telemetry"]["memoryTotalBytes"], memory, "{view}");
    let _ = room.crabbox(&repo, ["stop", slug]).ok();
}
