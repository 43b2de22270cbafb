//! Ghosts: helpers that serve a connection which is dead without their knowing, and hold what its client needs again.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// Ends the helper that holds this lock file locked, when it is another one that only serves: what it began is
/// taken up by whoever comes next, and commands have keepers of their own.
pub(super) fn end(lock: &File) {
    let Ok(meta) = lock.metadata() else { return };
    let table = fs::read_to_string("/proc/locks").unwrap_or_default();
    let holders = table.lines().filter_map(|line| holder(line, meta.ino()));
    for pid in holders.filter(|pid| *pid != getpid()) {
        if serves(pid) && has_open(pid, meta.dev(), meta.ino()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Who holds a lock on this inode, by a line of the system's table.
fn holder(line: &str, ino: u64) -> Option<Pid> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", pid, place, ..] = words[..] else { return None };
    let of = place.rsplit(':').next()?.parse::<u64>().ok()?;
    (of == ino).then(|| pid.parse().ok().and_then(Pid::from_raw))?
}

fn serves(pid: Pid) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let mut words = line.split(|b| *b == 0);
    words.next().is_some_and(|name| !name.is_empty()) && words.next() == Some(b"serve")
}

/// The table names devices in its own way on some file systems: the process itself is asked.
fn has_open(pid: Pid, dev: u64, ino: u64) -> bool {
    let files = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
    files.into_iter().flatten().flatten().any(|file| {
        fs::metadata(file.path()).is_ok_and(|meta| (meta.dev(), meta.ino()) == (dev, ino))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_table_is_read_right() {
        let line = "1: FLOCK  ADVISORY  WRITE 18527 fe:00:10093745 0 EOF";
        assert_eq!(holder(line, 10_093_745), Pid::from_raw(18527));
        assert_eq!(holder(line, 1), None);
        let waiting = "1: -> FLOCK  ADVISORY  WRITE 1 fe:00:7 0 EOF";
        for other in [waiting, "2: POSIX  ADVISORY  WRITE 1 fe:00:7 0 EOF", ""] {
            assert_eq!(holder(other, 7), None);
        }
    }
}
