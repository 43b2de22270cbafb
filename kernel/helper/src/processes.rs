//! Finding and ending every process of a command.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long one signal is given before the next.
const STEP: Duration = Duration::from_millis(600);
/// How often it is looked whether they are gone.
const LOOK: Duration = Duration::from_millis(15);

/// What the process table says about one process.
struct Row {
    pid: Pid,
    group: i32,
    session: i32,
}

/// When a process was born, in the kernel's ticks; tells it from a later one with the same id.
pub(crate) fn born(pid: Pid) -> Option<u64> {
    stat_fields(pid.as_raw_nonzero().get())?.get(19)?.parse().ok()
}

/// Ends every process of the session and the group that `leader` began. True once none is left.
pub(crate) fn end(leader: Pid, now: bool) -> bool {
    let steps: &[Signal] =
        if now { &[Signal::KILL] } else { &[Signal::INT, Signal::TERM, Signal::KILL] };
    for signal in steps {
        let until = Instant::now() + STEP;
        send(&members(leader), *signal);
        loop {
            let left = members(leader);
            if left.is_empty() {
                return true;
            }
            if Instant::now() >= until {
                break;
            }
            if *signal == Signal::KILL {
                send(&left, Signal::KILL);
            }
            std::thread::sleep(LOOK);
        }
    }
    false
}

fn send(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _ = kill_process(*pid, signal);
    }
}

/// The living processes of a session or group.
fn members(leader: Pid) -> Vec<Pid> {
    let leader = leader.as_raw_nonzero().get();
    table().filter(|row| row.session == leader || row.group == leader).map(|row| row.pid).collect()
}

/// Every living process; zombies are dead already.
fn table() -> impl Iterator<Item = Row> {
    std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let fields = stat_fields(pid)?;
        let number = |index: usize| fields.get(index)?.parse().ok();
        let alive = fields.first().is_some_and(|state| state != "Z" && state != "X");
        Some(Row { pid: Pid::from_raw(pid)?, group: number(2)?, session: number(3)? })
            .filter(|_| alive)
    })
}

/// The fields of a process's line, from its state on.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let line = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = line.iter().rposition(|&byte| byte == b')')? + 1;
    let text = std::str::from_utf8(line.get(after_name..)?).ok()?;
    Some(text.split_ascii_whitespace().map(str::to_owned).collect())
}
