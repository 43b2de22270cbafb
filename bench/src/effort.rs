//! Processor time and memory of everything that belongs to a stage.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use crate::Result;
use crate::launch::{Guard, Step};
use crate::stage::Stage;

/// Milliseconds of a clock tick, as every Linux counts them for programs.
const TICK: f64 = 10.0;

impl Stage {
    /// Processor time, in milliseconds, of all programs of the stage on both ends and of those that have ended.
    pub(crate) fn cpu(&self) -> f64 {
        // What we started that has ended counts here, what has ended below a session or a daemon counts there.
        let ended = ticks("self", 15..17);
        let alive: u64 = self.families().iter().map(|pid| ticks(&pid.to_string(), 13..17)).sum();
        (ended + alive) as f64 * TICK
    }

    /// The stage's processes and all below them: a session of the server hides what it belongs to, and what it
    /// started says nothing of us.
    fn families(&self) -> Vec<i32> {
        let mut known = self.processes();
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        let mut others: Vec<i32> = pids.filter(|pid| !known.contains(pid)).collect();
        let mut next = 0;
        while let Some(above) = known.get(next).copied() {
            known.extend(others.extract_if(.., |pid| parent(*pid) == Some(above)));
            next += 1;
        }
        known
    }
}

/// Who started a process, or took it over.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Sum of some fields of `/proc/…/stat`, counted from zero.
fn ticks(process: &str, fields: std::ops::Range<usize>) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Fields before the end of the name are two; the name may hold anything.
    let Some((_, rest)) = stat.rsplit_once(')') else { return 0 };
    let numbers = rest.split_whitespace().skip(fields.start - 2).take(fields.len());
    numbers.filter_map(|n| n.parse::<u64>().ok()).sum()
}

/// Most memory a process has had so far, in MiB.
pub(crate) fn peak(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

/// What a process has in memory now, in MiB. Pages it shares with others, as the program's own, count in shares.
pub(crate) fn share(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

/// Runs a step and watches its memory; gives the most it had, in MiB.
pub(crate) fn peak_of(step: &Step) -> Result<f64> {
    let mut child = step.start()?;
    let _guard = Guard::of(&child);
    let drains = drain(&mut child);
    let mut most = 0.0_f64;
    loop {
        most = most.max(peak(child.id()));
        if child.try_wait().map_err(|e| e.to_string())?.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    for drain in drains {
        let _ = drain.join();
    }
    Ok(most)
}

fn drain(child: &mut Child) -> Vec<std::thread::JoinHandle<()>> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let swallow = |mut pipe: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        })
    };
    let out = out.map(|pipe| swallow(Box::new(pipe)));
    let err = err.map(|pipe| swallow(Box::new(pipe)));
    out.into_iter().chain(err).collect()
}

/// Every file and link below a folder, by name, without git's own.
pub(crate) fn names(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && path != dir.join(".git") => folders.push(path),
                Ok(kind) if kind.is_dir() => {}
                _ => {
                    found.insert(path.strip_prefix(dir).unwrap_or(&path).to_path_buf());
                }
            }
        }
    }
    found
}
