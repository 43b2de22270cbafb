//! Which programs were started while something happened, seen by `strace`.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::launch::Step;
use crate::stage::{Stage, wait};

/// A process that was started and the programs it became, one after the other.
pub(crate) type Process = Vec<String>;

/// Processes that were started.
pub(crate) struct Started {
    pub(crate) here: Vec<Process>,
    pub(crate) on_the_box: Vec<Process>,
}

/// Runs a step and lists the programs that it, a daemon, and the server's side started; the step itself is no part of it.
pub(crate) fn started(stage: &Stage, step: Step) -> Result<Started> {
    let (mine, server, daemons) = (
        stage.path().join("here.trace"),
        stage.path().join("box.trace"),
        stage.path().join("daemon.trace"),
    );
    let (boxes, others): (Vec<i32>, Vec<i32>) =
        stage.processes().into_iter().partition(|pid| is_server(*pid));
    let watch_box = attach(stage, &boxes, &server)?;
    let watch_daemons = attach(
        stage,
        &others.into_iter().filter(|pid| is_ours(*pid)).collect::<Vec<_>>(),
        &daemons,
    )?;
    let options = ["-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o"].map(Into::into);
    let words = options.into_iter().chain([mine.clone().into()]).collect();
    let ran = step.through("strace", words).run();
    for watch in [watch_box, watch_daemons].into_iter().flatten() {
        detach(watch);
    }
    let _ = ran?;
    let mut here = processes(&mine);
    if !here.is_empty() {
        here.remove(0);
    }
    here.extend(processes(&daemons));
    Ok(Started { here, on_the_box: processes(&server) })
}

/// Whether a process is the server or below it.
fn is_server(pid: i32) -> bool {
    let mut pid = pid;
    for _ in 0..20 {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        if stat.contains("(sshd") {
            return true;
        }
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        match parent {
            Some(1) | None => {
                return command(pid).contains("crabbox-helper")
                    || command(pid).contains("/helper/");
            }
            Some(parent) => pid = parent,
        }
    }
    false
}

/// Whether a process is crabbox: the daemon, when there is one.
fn is_ours(pid: i32) -> bool {
    command(pid).split('\0').next().is_some_and(|program| program.ends_with("crabbox"))
}

fn command(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).into_owned()
}

/// Watches running processes and everything they start.
fn attach(stage: &Stage, pids: &[i32], out: &Path) -> Result<Option<Child>> {
    let _ = fs::remove_file(out);
    if pids.is_empty() {
        return Ok(None);
    }
    let mut step = stage
        .step("strace")
        .args(["-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o"])
        .arg(out);
    for pid in pids {
        step = step.args(["-p", &pid.to_string()]);
    }
    let watch = step.start()?;
    let traced = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.map_or(true, |text| !text.contains("TracerPid:\t0\n"))
    };
    wait("strace on the processes of the box", || pids.iter().all(traced))?;
    Ok(Some(watch))
}

/// Lets the processes go on by themselves.
fn detach(mut watch: Child) {
    // The last program of the box may be started a moment after the command has answered.
    std::thread::sleep(Duration::from_millis(300));
    let _ = kill_process(Pid::from_child(&watch), Signal::INT);
    let _ = watch.wait();
}

/// From successful calls, such as `1234 execve("/bin/true", …) = 0`, in the order of each process' first.
fn processes(trace: &Path) -> Vec<Process> {
    let text = fs::read_to_string(trace).unwrap_or_default();
    let mut found: Vec<(&str, Process)> = Vec::new();
    for line in text.lines().filter(|line| line.contains("execve(") && !line.contains("= -1")) {
        let pid = line.split(' ').next().unwrap_or_default();
        let name = line.split_once("execve(\"").and_then(|(_, rest)| rest.split_once('"'));
        let name = name.map_or(line, |(path, _)| path).to_owned();
        match found.iter_mut().find(|(known, _)| *known == pid) {
            Some((_, process)) => process.push(name),
            None => found.push((pid, vec![name])),
        }
    }
    found.into_iter().map(|(_, process)| process).collect()
}
