//! Finding and ending every process of a box.

use std::collections::HashMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

/// How long one round of killing waits for the dead.
const ROUND: Duration = Duration::from_millis(10);

/// Makes orphans below this process its own children, where the system can.
#[cfg(target_os = "linux")]
pub fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(getpid()))?)
}

/// Makes orphans below this process its own children, where the system can.
#[cfg(not(target_os = "linux"))]
pub fn adopt_orphans() -> io::Result<()> {
    Ok(())
}

/// Kills everything below this process, over and over, until nothing is left or time is up.
///
/// It waits for any child, so it must only run when nobody else waits for one.
pub fn kill_descendants(patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        let children = collect();
        let below = descendants(getpid());
        if below.is_empty() && !children {
            return true;
        }
        for pid in below {
            let _ = kill_process(pid, Signal::KILL);
        }
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(ROUND);
    }
}

/// Collects the dead; says whether children are left.
fn collect() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Kills the processes whose environment says they belong to the box, as a last resort.
pub fn kill_marked(mark: &str, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        let left = marked(mark);
        if left.is_empty() {
            return true;
        }
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
        }
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(ROUND);
    }
}

/// Everything below a process, from one look at the process table.
fn descendants(root: Pid) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (pid, parent) in process_table() {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut next = vec![root.as_raw_nonzero().get()];
    while let Some(parent) = next.pop() {
        for pid in children.remove(&parent).unwrap_or_default() {
            next.push(pid);
            found.extend(Pid::from_raw(pid));
        }
    }
    found
}

/// The ids of processes with their parents; zombies are left out, for they are dead already.
fn process_table() -> Vec<(i32, i32)> {
    numbered_entries()
        .filter_map(|pid| {
            let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
            let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
            let text = std::str::from_utf8(stat.get(after_name..)?).ok()?;
            let mut fields = text.split_ascii_whitespace();
            let state = fields.next()?;
            let parent = fields.next()?.parse().ok()?;
            (state != "Z").then_some((pid, parent))
        })
        .collect()
}

fn marked(mark: &str) -> Vec<Pid> {
    let own = getpid();
    numbered_entries()
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|env| env.split(|&byte| byte == 0).any(|line| line == mark.as_bytes()))
        })
        .filter_map(Pid::from_raw)
        .filter(|&pid| pid != own)
        .collect()
}

/// The process ids the system shows; none where there is no `/proc`.
fn numbered_entries() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
