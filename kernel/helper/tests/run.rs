//! Commands on the box: what they get, what comes back, how they end.

mod channel;

use std::time::{Duration, Instant};

use channel::{Boxed, Channel, eventually, lives, run_id};
use serde_json::json;

#[test]
fn words_and_values_arrive_exactly_and_the_profile_is_silent() {
    let on = Boxed::new();
    std::fs::write(
        on.home().join(".profile"),
        "echo noise; echo more >&2; export FROM_PROFILE=yes; umask 027; ulimit -S -n 97; PATH=$HOME/bin:$PATH\n",
    )
    .unwrap();
    let script = r#"printf '%s|' "$@" "$V" "$B" "$FROM_PROFILE" "$(basename "$PWD")"; umask; ulimit -n; echo "${PATH%%:*}""#;
    let words = json!({"exec": ["sh", "-c", script, "sh", "a b", "", "new\nline", "q'\"$x", {"b64": "/w=="}]});
    let env = json!({"env": {"V": "tab\tnl\nend", "B": {"b64": "/v8="}}});
    let mut channel = Channel::open(&on);
    let flow = channel.run(1, on.flight(1, &run_id(1), words, env));
    let bin = on.home().join("bin");
    let expected = [
        b"a b||new\nline|q'\"$x|\xff|tab\tnl\nend|\xfe\xff|yes|repo|0027\n97\n",
        bin.to_str().unwrap().as_bytes(),
        b"\n",
    ];
    assert_eq!(flow.stdout, expected.concat());
    assert_eq!(flow.stderr, b"");
    assert_eq!(flow.code(), 0);
    assert_eq!(flow.ended, [true, true]);
}

#[test]
fn a_changed_profile_counts_at_once() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let print = json!({"shell": "printf %s \"$WORD\""});
    for (n, word) in [(1, "one"), (2, "two")] {
        std::fs::write(on.home().join(".profile"), format!("export WORD={word}\n")).unwrap();
        let flow = channel.run(n, on.flight(n, &run_id(n.into()), print.clone(), json!({})));
        assert_eq!(flow.text(), word);
    }
}

#[test]
fn a_command_that_cannot_start_says_why_in_its_own_error_output() {
    let on = Boxed::new();
    std::fs::create_dir_all(on.workdir()).unwrap();
    std::fs::write(on.workdir().join("plain"), "echo as a script").unwrap();
    let mut channel = Channel::open(&on);
    let mut n = 0;
    let mut run = |action: serde_json::Value| {
        n += 1;
        let flow = channel.run(n, on.flight(n, &run_id(n.into()), action, json!({})));
        (flow.code(), String::from_utf8_lossy(&flow.stderr).into_owned())
    };
    let (code, err) = run(json!({"exec": ["no such"]}));
    assert_eq!((code, err.as_str()), (127, "crabbox: no such: command not found on the box\n"));
    assert_eq!(run(json!({"exec": ["./none"]})).0, 127);
    assert_eq!(run(json!({"exec": ["./plain"]})).0, 126);
    assert_eq!(run(json!({"shell": "exit 7"})).0, 7);
    let (code, err) = run(json!({"shell": "rm -r \"$PWD\"; kill -TERM $$"}));
    assert_eq!((code, err.as_str()), (143, ""));
}

#[test]
fn a_command_too_large_for_the_box_is_not_begun() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let words = json!({"exec": ["echo", "x".repeat(1 << 20)]});
    let more = json!({"timeoutMs": u64::MAX, "spoolBytes": u64::MAX});
    let error = channel.ask("flight", on.flight(1, &run_id(1), words, more.clone())).unwrap_err();
    assert_eq!(serde_json::to_value(error.data).unwrap()["outcome"], "not-started");
    let fits = on.flight(2, &run_id(1), json!({"exec": ["echo", "fits"]}), more);
    assert_eq!(channel.run(2, fits).text(), "fits\n");
}

#[test]
fn scripts_run_by_their_first_line_else_by_sh() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    for (n, body, expected) in
        [(1, "#!/bin/bash\necho ${BASH_VERSION:+bash} $1", "bash x\n"), (2, "echo $1 $0", "x ")]
    {
        let params = on.flight(n, &run_id(n.into()), json!({"script": ["x"]}), json!({}));
        let id = channel.request_in(0, "flight", params);
        let (half, rest) = body.as_bytes().split_at(7);
        channel.bytes(0, n * 16 + 7, 0, false, half);
        channel.bytes(0, n * 16 + 7, 7, true, rest);
        channel.answer(0, id).unwrap();
        let text = channel.ended(n).text();
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn a_run_starts_at_most_once() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let params = |base| {
        on.flight(base, &run_id(1), json!({"exec": ["sh", "-c", "echo >> started"]}), json!({}))
    };
    channel.run(1, params(1));
    let error = channel.ask("flight", params(2)).unwrap_err();
    let data = serde_json::to_value(error.data).unwrap();
    assert_eq!((&data["kind"], &data["outcome"]), (&json!("conflict"), &json!("completed")));
    assert_eq!(std::fs::read(on.workdir().join("started")).unwrap(), b"\n");
}

#[test]
fn fifty_megabytes_of_both_streams_arrive_exactly() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let line = "head -c 30000000 /dev/zero | tr '\\0' x & head -c 20000000 /dev/zero | tr '\\0' y >&2; wait";
    let flow = channel.run(1, on.flight(1, &run_id(1), json!({"shell": line}), json!({})));
    assert_eq!((flow.stdout.len(), flow.stderr.len()), (30_000_000, 20_000_000));
    assert!(flow.stdout.iter().all(|b| *b == b'x') && flow.stderr.iter().all(|b| *b == b'y'));
    assert_eq!(flow.exited.as_ref().unwrap()["exit"]["stdout"], 30_000_000);
}

#[test]
fn ten_megabytes_of_input_go_through_as_credit_allows() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let params = on.flight(1, &run_id(1), json!({"exec": ["sha256sum"]}), json!({"stdin": true}));
    let id = channel.request_in(0, "flight", params);
    let all: Vec<u8> = (0..10_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut credit: u64 = 8 << 20;
    for (index, piece) in all.chunks(64 << 10).enumerate() {
        while credit < piece.len() as u64 {
            let seen = channel.notes.len();
            channel.until(|c| c.notes.len() > seen);
            let grants = channel.notes[seen..].iter().filter(|n| n.1 == "credit");
            credit += grants.map(|n| n.2["bytes"].as_u64().unwrap()).sum::<u64>();
        }
        credit -= piece.len() as u64;
        let offset = (index * (64 << 10)) as u64;
        channel.bytes(0, 20, offset, offset + piece.len() as u64 == 10_000_000, piece);
    }
    channel.answer(0, id).unwrap();
    let text = channel.ended(1).text();
    use sha2::Digest;
    let hash: String = sha2::Sha256::digest(&all).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(text, format!("{hash}  -\n"));
}

#[test]
fn a_terminal_is_one() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let pty = json!({"pty": {"term": "dumb", "columns": 91, "rows": 17}, "stdin": true});
    let line = "tty -s && echo $TERM; stty size; trap 'stty size; exit 5' WINCH; echo ready; read line; echo \"got $line\"; while :; do sleep 0.01; done";
    channel.ask("flight", on.flight(1, &run_id(1), json!({"shell": line}), pty)).unwrap();
    channel.until(|c| c.text(1).contains("ready"));
    channel.bytes(0, 20, 0, false, b"hello\n");
    channel.until(|c| c.text(1).contains("got hello"));
    channel.note(0, "run.resize", json!({"runId": run_id(1), "columns": 50, "rows": 20}));
    let flow = channel.ended(1);
    assert_eq!(flow.text(), "dumb\r\n17 91\r\nready\r\nhello\r\ngot hello\r\n20 50\r\n");
    assert_eq!((flow.code(), flow.stderr.len()), (5, 0));
}

#[test]
fn the_end_of_input_reaches_a_terminal() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let pty = json!({"pty": {"term": "dumb", "columns": 80, "rows": 24}, "stdin": true});
    let id =
        channel.request_in(0, "flight", on.flight(1, &run_id(1), json!({"exec": ["cat"]}), pty));
    channel.bytes(0, 20, 0, true, b"");
    channel.answer(0, id).unwrap();
    assert_eq!(channel.ended(1).code(), 0);
}

#[test]
fn a_signal_ends_the_whole_session_even_what_ignores_it() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let line =
        "trap '' INT TERM; set -m; (trap '' INT TERM; sleep 61) & echo $!; wait; wait; sleep 62";
    channel.ask("flight", on.flight(1, &run_id(1), json!({"shell": line}), json!({}))).unwrap();
    channel.until(|c| c.text(1).ends_with('\n'));
    let other: u64 = channel.flow(1).text().trim().parse().unwrap();
    assert!(lives(other));
    let began = Instant::now();
    let params = json!({"baseDir": on.base_dir(), "runId": run_id(1), "now": false});
    assert_eq!(channel.ask("run.signal", params).unwrap(), json!({"gone": true}));
    assert!(began.elapsed() < Duration::from_millis(3500), "{:?}", began.elapsed());
    assert!(!lives(other));
    let flow = channel.ended(1);
    assert_eq!(flow.exited.as_ref().unwrap()["exit"]["signal"], "KILL");
}

#[test]
fn a_command_whose_time_is_over_is_stopped() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let params =
        on.flight(1, &run_id(1), json!({"exec": ["sleep", "60"]}), json!({"timeoutMs": 50}));
    let flow = channel.run(1, params);
    assert_eq!(flow.exited.as_ref().unwrap()["exit"]["timedOut"], true);
    assert_eq!(flow.code(), 130);
}

#[test]
fn a_process_that_is_left_behind_does_not_hold_the_run() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let line = json!({"shell": "sleep 63 & echo $!"});
    let began = Instant::now();
    let flow = channel.run(1, on.flight(1, &run_id(1), line, json!({})));
    assert!(began.elapsed() < Duration::from_secs(10));
    let pid = flow.text().trim().parse::<i32>().unwrap();
    assert!(lives(u64::from(pid.unsigned_abs())), "it is left alone");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[test]
fn two_sessions_share_a_serve_and_do_not_disturb_each_other() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let mut wait =
        on.flight(1, &run_id(1), json!({"shell": "echo first; read x"}), json!({"stdin": true}));
    wait["repo"] = json!("one");
    let first = channel.request_in(7, "flight", wait);
    channel.answer(7, first).unwrap();
    let second = on.flight(1, &run_id(2), json!({"exec": ["echo", "second"]}), json!({}));
    let second = channel.request_in(8, "flight", second);
    channel.answer(8, second).unwrap();
    channel.until(|c| c.flows.get(&(8, 1)).is_some_and(|f| f.exited.is_some()));
    channel.until(|c| c.flows.get(&(7, 1)).is_some_and(|f| f.stdout == b"first\n"));
    assert_eq!(channel.flows[&(8, 1)].text(), "second\n");
    // The first client goes away; its command runs on.
    channel.note(7, "session.end", json!({}));
    let state = || -> serde_json::Value {
        let mut channel = Channel::open(&on);
        channel.ask("run.list", json!({"baseDir": on.base_dir()})).unwrap()
    };
    assert_eq!(state()["runs"][0]["state"], "running");
    let params = json!({"baseDir": on.base_dir(), "runId": run_id(1), "now": true});
    assert_eq!(channel.ask("run.signal", params).unwrap(), json!({"gone": true}));
    eventually("the run has ended", || state()["runs"][0]["state"] == "exited");
    assert!(channel.flows[&(7, 1)].exited.is_none(), "nobody is told");
}

#[test]
fn a_busy_tree_is_waited_for_or_refused() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let hold = on.flight(1, &run_id(1), json!({"shell": "read x"}), json!({"stdin": true}));
    channel.ask("flight", hold).unwrap();
    let mut hasty = on.flight(2, &run_id(2), json!({"exec": ["true"]}), json!({}));
    hasty["lock"]["waitMs"] = json!(0);
    let refused = channel.ask("flight", hasty).unwrap();
    let owner = format!("{} on a test", run_id(1));
    assert_eq!(refused, json!({"outcome": "refused", "why": "busy", "owner": owner}));
    let patient = on.flight(3, &run_id(3), json!({"exec": ["echo", "at last"]}), json!({}));
    let id = channel.request_in(0, "flight", patient);
    channel.until(|c| c.note_of("flight.waiting").is_some());
    assert_eq!(channel.note_of("flight.waiting").unwrap()["owner"], json!(owner));
    assert!(!channel.answers.contains_key(&(0, id)));
    channel.bytes(0, 20, 0, true, b"");
    channel.answer(0, id).unwrap();
    assert_eq!(channel.ended(3).text(), "at last\n");
}

#[test]
fn a_cancelled_flight_stops_waiting_and_starts_nothing() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let hold = on.flight(1, &run_id(1), json!({"shell": "read x"}), json!({"stdin": true}));
    channel.ask("flight", hold).unwrap();
    let waits = on.flight(2, &run_id(2), json!({"exec": ["touch", "ran"]}), json!({}));
    let id = channel.request_in(0, "flight", waits);
    channel.until(|c| c.note_of("flight.waiting").is_some());
    channel.note(0, "cancel", json!({"id": id}));
    let error = channel.answer(0, id).unwrap_err();
    assert_eq!(serde_json::to_value(error.data).unwrap()["kind"], "cancelled");
    assert!(!on.run_dir(&run_id(2)).exists());
    channel.bytes(0, 20, 0, true, b"");
    channel.ended(1);
}

#[test]
fn an_isolated_run_leaves_the_tree_to_others() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let mut params = on.flight(
        1,
        &run_id(1),
        json!({"shell": "touch mine; pwd; read x"}),
        json!({"stdin": true}),
    );
    params["isolate"] = json!(true);
    channel.ask("flight", params).unwrap();
    channel
        .run(2, on.flight(2, &run_id(2), json!({"exec": ["test", "!", "-e", "mine"]}), json!({})));
    assert_eq!(channel.flow(2).code(), 0);
    channel.bytes(0, 20, 0, true, b"");
    let text = channel.ended(1).text();
    assert!(text.contains(".crabbox/isolated/run_"), "{text}");
}

#[test]
fn what_a_command_used_is_told() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let line = "x=$(head -c 40000000 /dev/zero | tr '\\0' x); i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
    let flow = channel.run(1, on.flight(1, &run_id(1), json!({"shell": line}), json!({})));
    let usage = flow.exited.as_ref().unwrap()["exit"]["usage"].clone();
    assert!(usage["userMs"].as_u64().unwrap() > 0, "{usage}");
    assert!(usage["maxRssBytes"].as_u64().unwrap() > 40_000_000, "{usage}");
}

#[test]
fn the_box_tells_how_it_is_doing() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    channel.run(1, on.flight(1, &run_id(1), json!({"exec": ["true"]}), json!({})));
    let facts = |path: &str| std::fs::read_to_string(path).unwrap();
    for base in [on.base_dir(), on.base_dir().join("not/there/yet")] {
        let stat = channel.ask("box.stat", json!({ "baseDir": base })).unwrap();
        let number = |name: &str| stat[name].as_u64().unwrap();
        let memory =
            facts("/proc/meminfo").split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
        assert_eq!(number("memoryBytes"), memory * 1024);
        assert!(number("memoryFreeBytes") < number("memoryBytes"), "{stat}");
        let disk = rustix::fs::statvfs(on.base_dir()).unwrap();
        assert_eq!(number("diskBytes"), disk.f_blocks * disk.f_frsize, "{stat}");
        assert!(number("diskFreeBytes") < number("diskBytes"), "{stat}");
        let uptime = facts("/proc/uptime").split('.').next().unwrap().parse::<u64>().unwrap();
        assert!(uptime.abs_diff(number("uptimeSecs")) < 60 && number("cpus") > 0, "{stat}");
        assert!(stat["load"].as_array().unwrap().iter().any(|load| load.as_f64().unwrap() > 0.0));
    }
}
