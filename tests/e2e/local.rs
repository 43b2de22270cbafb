//! `crabbox run` on a box on this machine: what the command gets, and what comes back.

use std::fs;
use std::time::{Duration, Instant};

use crabbox_tests::Room;

#[test]
fn a_dirty_checkout_is_what_the_command_sees_and_its_status_comes_through() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join("hello.txt"), "changed\n").unwrap();
    fs::write(repo.join("new.txt"), "untracked\n").unwrap();
    let ended = room
        .crabbox(&repo, ["run", "--", "sh", "-c", "cat hello.txt new.txt; echo bad >&2; exit 37"])
        .run();
    assert_eq!((ended.code, ended.out().as_str()), (37, "changed\nuntracked\n"), "{ended}");
    let ended = ended.says(&[
        "bad\n",
        "no provider is configured",
        "recording run run_",
        "run summary",
        "exit=37",
    ]);
    assert!(ended.err().contains("syncing "), "{ended}");
    room.assert_nothing_left();
}

#[test]
fn every_status_and_signal_comes_through() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    for (script, code) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ] {
        let _ = room
            .crabbox(&repo, ["run", "--no-sync", "--id", &slug, "--", "sh", "-c", script])
            .run()
            .expect(code);
    }
}

#[test]
fn a_repository_cannot_take_the_fence_down() {
    let room = Room::new();
    let repo = room.repo("app");
    for text in ["local:\n  isolation: none\n", "providers:\n  local:\n    processes: 99999\n"] {
        fs::write(repo.join(".crabbox.yaml"), text).unwrap();
        let ended = room.crabbox(&repo, ["run", "--", "true"]).run().expect(2);
        let _ = ended.says(&["a repository's file may not set"]);
    }
    room.assert_no_claims();
}

/// A kept box; its slug.
pub(crate) fn warm(room: &Room, repo: &std::path::Path) -> String {
    let ended = room.crabbox(repo, ["warmup"]).ok();
    let out = ended.out();
    let slug = out.split_whitespace().find_map(|word| word.strip_prefix("slug="));
    slug.unwrap_or_else(|| panic!("no slug\n{ended}")).to_owned()
}

#[test]
fn arguments_arrive_exactly() {
    let room = Room::new();
    let repo = room.repo("app");
    let odd = [
        "a b",
        "",
        "quo'te",
        "dou\"ble",
        "$HOME",
        "`id`",
        "*",
        "new\nline",
        "\\",
        "--help",
        "é",
        "a=b",
        "&&x",
    ];
    let mut args = vec!["run", "--", "printf", "<%s>\\n"];
    args.extend(odd);
    let ended = room.crabbox(&repo, args).ok();
    let expected: String = odd.iter().map(|a| format!("<{a}>\n")).collect();
    assert_eq!(ended.out(), expected);
}

#[test]
fn ten_thousand_arguments_and_long_ones_arrive() {
    let room = Room::new();
    let repo = room.repo("app");
    let many: Vec<String> = (0..10_000).map(|n| format!("line-{n}")).collect();
    let mut args: Vec<String> =
        ["run", "--", "sh", "-c", "echo $#; printf %s \"$9999\"", "x"].map(str::to_owned).into();
    args.extend(many);
    let ended = room.crabbox(&repo, args).ok();
    assert!(ended.out().starts_with("10000\n"), "{ended}");
}

#[test]
fn shell_talk_goes_through_a_shell() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let run = |args: &[&str]| {
        let mut all = vec!["run", "--id", &slug, "--no-sync"];
        all.extend(args);
        room.crabbox(&repo, all).ok().out()
    };
    assert_eq!(run(&["--shell", "--", "echo a && echo b | tr b c"]), "a\nc\n");
    assert_eq!(run(&["--", "echo one; echo two"]), "one\ntwo\n");
    assert_eq!(run(&["--", "echo", "one", "&&", "echo", "two"]), "one\ntwo\n");
    assert_eq!(run(&["--", "echo", "one;two"]), "one;two\n");
}

#[test]
fn a_script_is_uploaded_and_run_with_arguments() {
    let room = Room::new();
    let repo = room.repo("app");
    let script = room.at("work.sh");
    fs::write(&script, "#!/bin/sh\necho \"$# $1\"; pwd | sed 's|.*/||'\nexit 5\n").unwrap();
    let ended = room
        .crabbox(&repo, ["run", "--script"])
        .arg(&script)
        .args(["--", "first arg", "x"])
        .run()
        .expect(5);
    assert_eq!(ended.out(), "2 first arg\napp\n");
    let ended = room
        .crabbox(&repo, ["run", "--script-stdin", "--", "y"])
        .stdin("echo \"from stdin $1\"\n")
        .ok();
    assert_eq!(ended.out(), "from stdin y\n");
}

#[test]
fn standard_input_reaches_the_command_byte_for_byte() {
    let room = Room::new();
    let repo = room.repo("app");
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let ended = room.crabbox(&repo, ["run", "--", "cat"]).stdin(bytes.clone()).ok();
    assert!(ended.stdout == bytes, "{} bytes came back of {}", ended.stdout.len(), bytes.len());
    let ended = room.crabbox(&repo, ["run", "--", "cat"]).ok();
    assert_eq!(ended.stdout, b"", "an empty input ends");
}

#[test]
fn only_wanted_variables_reach_the_command() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(room.at("vars.env"), "# comment\nexport FROM_FILE='quoted value'\nEMPTY=\n").unwrap();
    let ended = room
        .crabbox(&repo, ["run", "--env", "GIVEN=a 'b' $c", "--env", "TAKEN", "--env-file"])
        .arg(room.at("vars.env"))
        .args(["--", "env"])
        .env("TAKEN", "from here")
        .env("CI", "yes")
        .env("PRIVATE", "not for the box")
        .ok();
    let out = ended.out();
    for line in ["GIVEN=a 'b' $c", "TAKEN=from here", "FROM_FILE=quoted value", "EMPTY=", "CI=yes"]
    {
        assert!(out.lines().any(|l| l == line), "{line} is missing\n{ended}");
    }
    assert!(!out.contains("PRIVATE"), "{ended}");
    for name in ["CRABBOX_LEASE_ID=cbx_", "CRABBOX_RUN_ID=run_", "CRABBOX_SLUG="] {
        assert!(out.contains(name), "{name} is missing\n{ended}");
    }
    let _ = room.crabbox(&repo, ["run", "--env", "1BAD=x", "--", "true"]).run().expect(2);
}

#[test]
fn a_bad_line_of_a_file_of_variables_is_named_by_its_number_and_not_shown() {
    let room = Room::new();
    let repo = room.repo("app");
    for bad in ["s3cret", "s3/cret=="] {
        fs::write(room.at("vars.env"), format!("# comment\nA=1\n{bad}\n")).unwrap();
        let run = room.crabbox(&repo, ["run", "--env-file"]).arg(room.at("vars.env"));
        let ended = run.args(["--", "true"]).run().expect(2).says(&["vars.env, line 3"]);
        assert!(!format!("{ended}").contains("cret"), "{ended}");
    }
}

#[test]
fn values_for_the_command_appear_in_no_argument_and_no_record() {
    let room = Room::new();
    let repo = room.repo("app");
    let secret = "s3cret-value-of-this-test";
    let script = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f 2>/dev/null; echo; done; echo ${#TOKEN}";
    let ended = room
        .crabbox(&repo, ["run", "--env", "TOKEN", "--", "sh", "-c", script])
        .env("TOKEN", secret)
        .ok();
    assert!(ended.out().ends_with(&format!("{}\n", secret.len())), "{ended}");
    assert!(!ended.out().contains(secret) && !ended.err().contains(secret), "{ended}");
    let found = room.call("grep").args(["-rl", secret]).arg(room.state()).run();
    assert_eq!(found.out(), "", "the value is on disk");
}

#[test]
fn output_is_captured_and_files_are_brought_back_also_after_a_failure() {
    let room = Room::new();
    let repo = room.repo("app");
    let script = "echo out; echo err >&2; mkdir -p deep; printf 'a\\000b' >deep/made.bin; exit 3";
    let _ = room
        .crabbox(&repo, ["run", "--capture-stdout", "o.txt", "--capture-stderr", "e.txt"])
        .args([
            "--download",
            "deep/made.bin=got/made.bin",
            "--lease-output",
            "box.json",
            "--",
            "sh",
            "-c",
            script,
        ])
        .run()
        .expect(3);
    assert_eq!(fs::read(repo.join("o.txt")).unwrap(), b"out\n");
    assert_eq!(fs::read(repo.join("e.txt")).unwrap(), b"err\n");
    assert_eq!(fs::read(repo.join("got/made.bin")).unwrap(), b"a\0b");
    let handle: serde_json::Value =
        serde_json::from_slice(&fs::read(repo.join("box.json")).unwrap()).unwrap();
    assert_eq!(
        (&handle["provider"], &handle["kept"]),
        (&"local".into(), &false.into()),
        "{handle}"
    );
}

#[test]
fn test_reports_are_summed_up() {
    let room = Room::new();
    let repo = room.repo("app");
    let report = "<testsuite name='s' tests='2' failures='1'><testcase name='a'/><testcase name='b'><failure message='no'/></testcase></testsuite>";
    fs::write(repo.join("report.xml"), report).unwrap();
    let ended = room.crabbox(&repo, ["run", "--junit", "*.xml", "--", "false"]).run().expect(1);
    let _ = ended.says(&["test results files=1 tests=2 failures=1 errors=0 skipped=0"]);
}

#[test]
fn a_command_beyond_its_time_is_stopped() {
    let room = Room::new();
    let repo = room.repo("app");
    let began = Instant::now();
    let ended =
        room.crabbox(&repo, ["run", "--timeout", "1s", "--", "sleep", "600"]).run().expect(124);
    assert!(began.elapsed() < Duration::from_secs(30), "{ended}");
    room.assert_nothing_left();
}

#[test]
fn timing_is_one_json_line_on_stderr() {
    let room = Room::new();
    let repo = room.repo("app");
    let ended = room
        .crabbox(&repo, ["run", "--timing-json", "--label", "mine", "--", "sh", "-c", "exit 9"])
        .run()
        .expect(9);
    let line = ended
        .err()
        .lines()
        .find(|l| l.starts_with('{'))
        .map(str::to_owned)
        .unwrap_or_else(|| panic!("{ended}"));
    let timing: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&timing["exitCode"], &timing["by"], &timing["label"]),
        (&9.into(), &"remote".into(), &"mine".into())
    );
    assert!(timing["totalMs"].as_u64() >= timing["commandMs"].as_u64(), "{timing}");
    assert!(timing["leaseId"].as_str().is_some_and(|id| id.starts_with("cbx_")), "{timing}");
}

#[test]
fn a_terminal_is_there_when_asked_for() {
    let room = Room::new();
    let repo = room.repo("app");
    let tty = |args: &[&str]| {
        let mut all = vec!["run"];
        all.extend(args);
        all.extend(["--", "sh", "-c", "test -t 1 && echo yes || echo no"]);
        room.crabbox(&repo, all).env("TERM", "xterm").ok().out().trim().to_owned()
    };
    assert_eq!((tty(&[]), tty(&["--pty"])), ("no".to_owned(), "yes".to_owned()));
}

#[test]
fn quiet_says_nothing_of_its_own() {
    let room = Room::new();
    let repo = room.repo("app");
    let ended = room
        .crabbox(
            &repo,
            ["run", "--quiet", "--provider", "local", "--", "sh", "-c", "echo out; echo err >&2"],
        )
        .ok();
    assert_eq!((ended.out().as_str(), ended.err().as_str()), ("out\n", "err\n"));
}
