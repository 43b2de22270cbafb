//! Runs that outlive what happens to the link, to the serve and to the worker.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod channel;

use std::time::Duration;

use channel::{Boxed, Channel, eventually, lives, run_id};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What `numbers` prints.
fn numbered(count: u64) -> Vec<u8> {
    (0..count).flat_map(|n| format!("{n}\n").into_bytes()).collect()
}

/// Prints numbers in bursts, notes that it was started, and needs a while.
fn numbers(count: u64) -> Value {
    let line = format!(
        "echo >>started; i=0; while [ $i -lt {count} ]; do echo $i; i=$((i+1)); \
         [ $((i % 2000)) -ne 0 ] || sleep 0.01; done"
    );
    json!({"shell": line})
}

fn list(channel: &mut Channel, on: &Boxed) -> Vec<Value> {
    let runs = channel.ask("run.list", json!({"baseDir": on.base_dir()})).unwrap();
    runs["runs"].as_array().unwrap().clone()
}

/// The worker of a run: the parent of its command.
fn worker_of(pid: u64) -> Pid {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let parent: i32 = fields.into_iter().nth(1).unwrap().parse().unwrap();
    Pid::from_raw(parent).unwrap()
}

#[test]
fn killing_the_serve_at_thirty_moments_loses_no_byte_and_starts_nothing_twice() {
    let on = Boxed::new();
    let count = 60_000;
    let mut got: Vec<u8> = Vec::new();
    let mut kills = 0;
    let mut moment = 7u64;
    let exited = loop {
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut channel = Channel::open(&on);
        channel.flow(1).at[0] = got.len() as u64;
        let known = on.run_dir(&run_id(1)).exists();
        let id = match known {
            true => {
                channel.request_in(0, "run.attach", on.attach(1, &run_id(1), got.len() as u64, 0))
            }
            false => {
                channel.request_in(0, "flight", on.flight(1, &run_id(1), numbers(count), json!({})))
            }
        };
        match kills < 30 {
            true => channel.during(Duration::from_micros(moment >> 40 & 0x3fff)),
            false => drop(channel.ended(1)),
        }
        if let Some(Err(error)) = channel.answers.get(&(0, id)) {
            panic!("{error:?}");
        }
        got.append(&mut channel.flow(1).stdout);
        let exited = channel.flow(1).exited.take();
        channel.kill();
        kills += 1;
        if exited.is_some() {
            break exited;
        }
    };
    assert!(kills >= 20, "only {kills} kills");
    assert_eq!(exited.unwrap()["exit"]["code"], 0);
    assert!(got == numbered(count), "{} bytes", got.len());
    assert_eq!(std::fs::read(on.workdir().join("started")).unwrap(), b"\n");
}

#[test]
fn any_offset_of_a_run_can_be_attached_to_while_it_runs_and_after() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let count = 100_000;
    let all = numbered(count);
    channel.ask("flight", on.flight(1, &run_id(1), numbers(count), json!({}))).unwrap();
    for (base, from) in (2..).zip([0, 1, 65_535, 65_536, 123_457, all.len(), all.len() + 5]) {
        let state = channel.ask("run.attach", on.attach(base, &run_id(1), from as u64, 0)).unwrap();
        assert_eq!(state["runId"], json!(run_id(1)));
        channel.flow(base).at[0] = from as u64;
    }
    for base in 1..9 {
        channel.ended(base);
    }
    for (base, from) in (9..).zip([0, 3, 300_001, all.len()]) {
        channel.flow(base).at[0] = from as u64;
        let state = channel.ask("run.attach", on.attach(base, &run_id(1), from as u64, 0)).unwrap();
        assert_eq!(state["state"], "exited");
        channel.ended(base);
    }
    for (base, flow) in &channel.flows {
        let rest = all.get(all.len() - flow.stdout.len()..).unwrap();
        assert!(flow.stdout == rest, "{base:?}: {} bytes", flow.stdout.len());
    }
    assert_eq!(channel.flow(1).stdout.len(), all.len());
    assert_eq!(channel.flow(5).stdout.len(), all.len() - 65_536);
}

#[test]
fn a_run_nobody_started_is_unknown() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let state = channel.ask("run.attach", on.attach(1, &run_id(9), 0, 0)).unwrap();
    assert_eq!(state["state"], "unknown");
}

#[test]
fn input_goes_on_where_the_run_took_it() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let line = json!({"shell": "read a; echo \"$a\"; cat"});
    channel.ask("flight", on.flight(1, &run_id(1), line, json!({"stdin": true}))).unwrap();
    channel.bytes(0, 20, 0, false, b"one\n");
    channel.until(|c| c.text(1) == "one\n");
    channel.kill();
    let mut channel = Channel::open(&on);
    let mut params = on.attach(1, &run_id(1), 0, 0);
    params["stdin"] = json!(4);
    let state = channel.ask("run.attach", params).unwrap();
    assert_eq!((&state["state"], &state["stdinTaken"]), (&json!("running"), &json!(4)));
    // What was taken already is passed over.
    channel.bytes(0, 20, 0, false, b"one\ntwo\n");
    channel.bytes(0, 20, 8, true, b"three\n");
    assert_eq!(channel.ended(1).text(), "one\ntwo\nthree\n");
}

#[test]
fn without_a_reader_the_oldest_output_is_dropped_and_the_gap_is_told() {
    let on = Boxed::new();
    let channel = {
        let mut channel = Channel::open(&on);
        let line = json!({"shell": "read x; echo begun; while ! [ -e go ]; do sleep 0.01; done; seq 400000; touch printed; read x"});
        let more = json!({"stdin": true, "spoolBytes": 300_000});
        channel.ask("flight", on.flight(1, &run_id(1), line, more)).unwrap();
        channel.bytes(0, 20, 0, false, b"go\n");
        channel.until(|c| c.text(1) == "begun\n");
        channel
    };
    channel.kill();
    std::fs::write(on.workdir().join("go"), "").unwrap();
    eventually("it is not held back", || on.workdir().join("printed").exists());
    let spooled: u64 = std::fs::read_dir(on.run_dir(&run_id(1)))
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_name() != "keeper") // what it holds is room in reserve
        // What is dropped while we look is gone.
        .map(|entry| entry.metadata().map_or(0, |facts| facts.len()))
        .sum();
    assert!(spooled < 310_000, "{spooled} bytes are kept");
    let mut channel = Channel::open(&on);
    let mut params = on.attach(1, &run_id(1), 0, 0);
    params["stdin"] = json!(3);
    channel.ask("run.attach", params).unwrap();
    channel.bytes(0, 20, 3, true, b"");
    let flow = channel.ended(1);
    assert!(flow.stdout.ends_with(b"\n399999\n400000\n"));
    let length = flow.exited.as_ref().unwrap()["exit"]["stdout"].as_u64().unwrap();
    assert_eq!(flow.at[0], length);
    assert!(flow.stdout.len() > 150_000 && (flow.stdout.len() as u64) < length);
    let gap = channel.note_of("run.gap").unwrap();
    assert_eq!(gap["channel"], 21);
}

#[test]
fn a_reader_that_is_behind_holds_the_command_back_and_loses_nothing() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    channel.flow(1).stingy = true;
    let line = json!({"shell": "head -c 30000000 /dev/zero; touch printed"});
    let params = on.flight(1, &run_id(1), line, json!({"spoolBytes": 1 << 20}));
    channel.ask("flight", params).unwrap();
    let mut window = 512 << 10;
    for more in [512 << 10, 7 << 20] {
        channel.until(|c| c.flows[&(0, 1)].at[0] >= window);
        channel.during(Duration::from_millis(300));
        assert!(channel.flow(1).at[0] <= window + (64 << 10), "no more than the window");
        assert!(!on.workdir().join("printed").exists(), "the command waits");
        channel.note(0, "credit", json!({"channel": 21, "bytes": more}));
        window += more;
    }
    channel.flow(1).stingy = false;
    let flow = channel.ended(1);
    assert_eq!(flow.stdout.len(), 30_000_000);
    assert!(channel.note_of("run.gap").is_none());
}

#[test]
fn a_reader_that_was_cut_off_does_not_hold_back_the_run_its_successor_follows() {
    let on = Boxed::new();
    let mut dead = Channel::open(&on);
    dead.flow(1).stingy = true;
    let line = json!({"shell": "head -c 30000000 /dev/zero"});
    let more = json!({"spoolBytes": 1 << 20, "stdin": true});
    dead.ask("flight", on.flight(1, &run_id(1), line, more)).unwrap();
    dead.until(|c| c.flows[&(0, 1)].at[0] >= 512 << 10);
    let mut channel = Channel::open(&on);
    let mut params = on.attach(1, &run_id(1), 512 << 10, 0);
    params["stdin"] = json!(0);
    channel.flow(1).at[0] = 512 << 10;
    channel.ask("run.attach", params).unwrap();
    assert_eq!(channel.ended(1).at[0], 30_000_000);
}

#[test]
fn a_second_reader_gets_everything_although_the_first_has_the_run_forgotten() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let line = json!({"shell": "head -c 12000000 /dev/zero"});
    channel.run(1, on.flight(1, &run_id(1), line, json!({})));
    channel.flow(2).stingy = true;
    channel.ask("run.attach", on.attach(2, &run_id(1), 0, 0)).unwrap();
    channel.until(|c| c.flows[&(0, 2)].at[0] >= 512 << 10);
    channel.ask("run.forget", on.named(&run_id(1))).unwrap();
    channel.note(0, "credit", json!({"channel": 37, "bytes": 8 << 20}));
    channel.until(|c| c.flows[&(0, 2)].at[0] >= 8 << 20);
    channel.note(0, "credit", json!({"channel": 37, "bytes": 8 << 20}));
    assert_eq!(channel.ended(2).stdout.len(), 12_000_000);
    assert!(channel.note_of("run.gap").is_none());
    channel.ask("run.forget", on.named(&run_id(1))).unwrap();
    assert!(!on.run_dir(&run_id(1)).join("out.0").exists());
}

#[test]
fn a_worker_short_of_files_starts_a_command_or_leaves_it_for_another_time() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    channel.run(1, on.flight(1, &run_id(1), json!({"exec": ["true"]}), json!({})));
    let line = "echo >>started-$RUN; read x";
    let flight = |base: u32, n: u32| {
        let env = json!({"RUN": n.to_string()});
        let more = json!({"stdin": true, "env": env});
        let mut params = on.flight(base, &run_id(n.into()), json!({"shell": line}), more);
        params["lock"]["waitMs"] = json!(5000);
        params
    };
    let (mut failed, mut base) = (0, 1);
    for n in 2..30 {
        let worker = idle_worker(&channel);
        let open = std::fs::read_dir(format!("/proc/{}/fd", worker.as_raw_nonzero())).unwrap();
        let before = limit_files(worker, Some(open.count() as u64 + u64::from(n) - 2));
        base += 1;
        let tried = channel.ask("flight", flight(base, n));
        limit_files(worker, before);
        if let Err(error) = tried {
            failed += 1;
            let data = serde_json::to_value(error.data).unwrap();
            assert_eq!(data["outcome"], "not-started", "{n}");
            base += 1;
            channel.ask("flight", flight(base, n)).unwrap();
        }
        channel.bytes(0, base * 16 + 4, 0, true, b"");
        channel.ended(base);
        let started = on.workdir().join(format!("started-{n}"));
        assert_eq!(std::fs::read(started).unwrap(), b"\n", "{n}");
    }
    assert!((5..28).contains(&failed), "{failed} failed");
}

/// The worker that is ready for the next command: the only child of a serve at rest.
fn idle_worker(channel: &Channel) -> Pid {
    let mut worker = None;
    let serve = channel.child.id();
    eventually("one worker is ready", || {
        let children = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (parent == serve).then(|| Pid::from_raw(pid)).flatten()
        });
        let children: Vec<_> = children.collect();
        worker = children.first().copied().filter(|_| children.len() == 1);
        worker.is_some()
    });
    worker.unwrap()
}

/// Changes how many files a process may have open; what it was.
fn limit_files(pid: Pid, files: Option<u64>) -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: files, maximum };
    prlimit(Some(pid), Resource::Nofile, limit).unwrap().current
}

#[test]
fn a_command_that_nobody_keeps_does_not_begin() {
    let on = Boxed::new();
    let dir = on.home();
    let keeper = std::fs::File::create(dir.join("keeper")).unwrap();
    let exec = |word: &str| {
        #[expect(clippy::disallowed_methods, reason = "the test starts the real program")]
        let mut exec = std::process::Command::new(env!("CARGO_BIN_EXE_crabbox-helper"));
        let _ = std::fs::remove_file(dir.join("pid"));
        exec.arg("exec").arg(dir.join("pid")).args(["1", "77", "", "-"]).arg(&dir);
        exec.args(["words", "touch", word]).status().unwrap().code()
    };
    assert_eq!((exec("alone"), dir.join("alone").exists()), (Some(126), false));
    keeper.lock().unwrap();
    assert_eq!((exec("kept"), dir.join("kept").exists()), (Some(0), true));
}

#[test]
fn a_command_whose_status_the_system_does_not_tell_is_lost_and_not_failed() {
    let on = Boxed::new();
    let mut channel = Channel::open_as(&on, "exec env --ignore-signal=CHLD \"$0\" \"$@\"");
    let quick = on.flight(1, &run_id(1), json!({"exec": ["true"]}), json!({}));
    channel.ask("flight", quick).unwrap();
    assert_eq!(channel.ended(1).exited.as_ref().unwrap()["exit"], Value::Null);
    assert_eq!(list(&mut channel, &on)[0]["state"], "lost");
}

#[test]
fn a_folder_that_is_being_filled_is_not_swept_away() {
    let on = Boxed::new();
    let [young, old] = ["young", "old"].map(|n| on.run_dir(&format!(".{n}")));
    for dir in [&young, &old] {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("keeper"), "").unwrap();
    }
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    std::fs::File::open(&old).unwrap().set_modified(long_ago).unwrap();
    let mut channel = Channel::open(&on);
    channel.run(1, on.flight(1, &run_id(1), json!({"exec": ["true"]}), json!({})));
    eventually("the old one is gone", || !old.exists());
    // Runs are pruned one after the other: a second time certainly comes after the first.
    channel.run(2, on.flight(2, &run_id(2), json!({"exec": ["true"]}), json!({})));
    assert!(young.join("keeper").exists());
}

#[test]
fn a_killed_worker_loses_the_run_and_nothing_of_it_goes_on() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let line =
        json!({"shell": "echo before; trap '' TERM INT; sleep 64 & echo $!; wait; sleep 65"});
    channel.ask("flight", on.flight(1, &run_id(1), line, json!({}))).unwrap();
    channel.until(|c| c.text(1).lines().count() == 2);
    let pid = channel.note_of("run.started").unwrap()["pid"].as_u64().unwrap();
    let other: u64 = channel.text(1).lines().nth(1).unwrap().parse().unwrap();
    kill_process(worker_of(pid), Signal::KILL).unwrap();
    let flow = channel.ended(1);
    assert_eq!(flow.exited.as_ref().unwrap()["exit"], Value::Null);
    assert!(!lives(pid) && !lives(other));
    assert_eq!(list(&mut channel, &on)[0]["state"], "lost");
    // The tree is free, and another run is not harmed by the loss.
    let flow =
        channel.run(2, on.flight(2, &run_id(2), json!({"exec": ["echo", "next"]}), json!({})));
    assert_eq!(flow.text(), "next\n");
}

#[test]
fn the_lock_outlives_the_serve_and_goes_with_the_command() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let hold = on.flight(
        1,
        &run_id(1),
        json!({"shell": "while ! [ -e go ]; do sleep 0.01; done"}),
        json!({}),
    );
    channel.ask("flight", hold).unwrap();
    channel.kill();
    let mut channel = Channel::open(&on);
    let mut next = on.flight(1, &run_id(2), json!({"exec": ["true"]}), json!({}));
    next["lock"]["waitMs"] = json!(0);
    let refused = channel.ask("flight", next.clone()).unwrap();
    assert_eq!(refused["why"], "busy");
    std::fs::write(on.workdir().join("go"), "").unwrap();
    next["lock"]["waitMs"] = json!(10_000);
    assert_eq!(channel.ask("flight", next).unwrap()["outcome"], "applied");
}

#[test]
fn a_forgotten_run_leaves_the_list_and_a_running_one_is_not_forgotten() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let line = json!({"shell": "echo printed; read x"});
    channel.ask("flight", on.flight(1, &run_id(1), line, json!({"stdin": true}))).unwrap();
    assert!(channel.ask("run.forget", on.named(&run_id(1))).is_err());
    channel.bytes(0, 20, 0, true, b"");
    channel.ended(1);
    let runs = list(&mut channel, &on);
    assert_eq!(runs[0]["command"], json!(["echo printed; read x"]));
    assert_eq!(runs[0]["exit"]["code"], 1);
    channel.ask("run.forget", on.named(&run_id(1))).unwrap();
    channel.ask("run.forget", on.named(&run_id(1))).unwrap();
    assert!(list(&mut channel, &on).is_empty());
    assert!(!on.run_dir(&run_id(1)).join("out.0").exists());
    // How it ended is known for a while.
    let state = channel.ask("run.attach", on.attach(2, &run_id(1), 0, 0)).unwrap();
    assert_eq!((&state["state"], &state["exit"]["code"]), (&json!("exited"), &json!(1)));
    assert_eq!((channel.ended(2).at[0], channel.text(2)), (8, String::new()), "a gap");
}

#[test]
fn a_run_that_was_forgotten_is_not_started_again_by_a_flight_that_comes_late() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let again = |base| on.flight(base, &run_id(1), json!({"shell": "echo >>started"}), json!({}));
    channel.run(1, again(1));
    channel.ask("run.forget", on.named(&run_id(1))).unwrap();
    assert_refused_as_begun(channel.ask("flight", again(2)));
    // Other runs, whose end makes old ones forgotten, change nothing.
    channel.run(3, on.flight(3, &run_id(2), json!({"exec": ["true"]}), json!({})));
    channel.hang_up();
    assert_refused_as_begun(Channel::open(&on).ask("flight", again(4)));
    assert_eq!(std::fs::read(on.workdir().join("started")).unwrap(), b"\n");
}

#[test]
fn a_run_that_is_forgotten_before_it_began_never_begins() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    channel.ask("run.forget", on.named(&run_id(1))).unwrap();
    let late = on.flight(1, &run_id(1), json!({"exec": ["touch", "started"]}), json!({}));
    assert_refused_as_begun(channel.ask("flight", late));
    assert!(!on.workdir().exists());
    let state = channel.ask("run.attach", on.attach(2, &run_id(1), 0, 0)).unwrap();
    assert_eq!((&state["state"], &state["startedMs"]), (&json!("lost"), &json!(0)));
    assert!(list(&mut channel, &on).is_empty());
}

#[test]
fn a_flight_whose_run_began_while_it_queued_does_nothing_to_the_tree() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let hold = on.flight(1, &run_id(1), json!({"shell": "read x"}), json!({"stdin": true}));
    channel.ask("flight", hold).unwrap();
    let mut other = Channel::open(&on);
    let queued = on.flight(1, &run_id(2), json!({"exec": ["true"]}), json!({}));
    let id = other.request_in(0, "flight", queued);
    other.until(|c| c.note_of("flight.waiting").is_some());
    let asleep = Pid::from_child(&other.child);
    kill_process(asleep, Signal::STOP).unwrap();
    channel.ask("run.forget", on.named(&run_id(2))).unwrap();
    channel.bytes(0, 20, 0, true, b"");
    channel.ended(1);
    // The tree is free once its worker took the next order.
    channel.run(2, on.flight(2, &run_id(3), json!({"exec": ["true"]}), json!({})));
    std::fs::remove_dir_all(on.workdir()).unwrap();
    kill_process(asleep, Signal::CONT).unwrap();
    assert_refused_as_begun(other.answer(0, id));
    assert!(!on.workdir().exists(), "nothing is made");
}

fn assert_refused_as_begun(answer: Result<Value, crabbox_schemas::error::RpcError>) {
    let data = serde_json::to_value(answer.unwrap_err().data).unwrap();
    assert_eq!((&data["kind"], &data["outcome"]), (&json!("conflict"), &json!("completed")));
}

#[test]
fn a_run_whose_folder_is_removed_ends_like_any_other() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let line = json!({"shell": "echo begun; read x; seq 200000; exit 3"});
    let more = json!({"stdin": true, "spoolBytes": 300_000});
    channel.ask("flight", on.flight(1, &run_id(1), line, more)).unwrap();
    let pid = channel.note_of("run.started").unwrap()["pid"].as_u64().unwrap();
    let worker = worker_of(pid);
    channel.until(|c| c.text(1) == "begun\n");
    std::fs::remove_dir_all(on.base_dir()).unwrap();
    channel.bytes(0, 20, 0, true, b"go\n");
    let flow = channel.ended(1);
    assert_eq!(flow.exited.as_ref().unwrap()["exit"]["code"], 3);
    channel.kill();
    let worker = worker.as_raw_nonzero().get().unsigned_abs().into();
    eventually("the worker goes", || !lives(worker));
}

#[test]
fn a_long_folder_is_no_trouble() {
    let on = Boxed::new();
    let mut channel = Channel::open(&on);
    let mut params =
        on.flight(1, &run_id(1), json!({"shell": "read x; echo $x"}), json!({"stdin": true}));
    let base_dir = on.base_dir().join("l".repeat(120)).join("m".repeat(120));
    std::fs::create_dir_all(&base_dir).unwrap();
    params["baseDir"] = json!(base_dir);
    channel.ask("flight", params).unwrap();
    let mut params = on.attach(2, &run_id(1), 0, 0);
    params["baseDir"] = json!(base_dir);
    params["stdin"] = json!(0);
    assert_eq!(channel.ask("run.attach", params).unwrap()["state"], "running");
    channel.bytes(0, 36, 0, true, b"from the second\n");
    assert_eq!(channel.ended(1).text(), "from the second\n");
    assert_eq!(channel.ended(2).text(), "from the second\n");
}

#[test]
fn what_an_old_helper_began_a_new_one_takes_over_also_when_the_old_ones_file_is_gone() {
    let on = Boxed::new();
    let old = on.home().join("old-helper");
    // One byte more makes it another program, which does the same.
    let mut bytes = std::fs::read(channel::PROGRAM).unwrap();
    bytes.push(0);
    std::fs::write(&old, bytes).unwrap();
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();

    let count = 60_000;
    let mut before = Channel::open_with(&on, &old);
    let id = before.request_in(0, "flight", on.flight(1, &run_id(1), numbers(count), json!({})));
    before.answer(0, id).unwrap();
    before.until(|c| c.text(1).len() > 1000);
    let got = before.flow(1).stdout.clone();
    std::fs::remove_file(&old).unwrap();
    before.hang_up();

    let mut after = Channel::open(&on);
    after.flow(2).at[0] = got.len() as u64;
    let attached = after.ask("run.attach", on.attach(2, &run_id(1), got.len() as u64, 0)).unwrap();
    assert_eq!(attached["state"], "running", "the old worker keeps it");
    let flow = after.ended(2);
    assert!([&got[..], &flow.stdout].concat() == numbered(count), "every byte once");
    assert_eq!(flow.code(), 0);
    let starts = std::fs::read_to_string(on.workdir().join("started")).unwrap();
    assert_eq!(starts.lines().count(), 1);
    // And the tree is free for what the new one starts.
    after.run(3, on.flight(3, &run_id(2), json!({"exec": ["true"]}), json!({})));
}
