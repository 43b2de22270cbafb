//! What is remembered of a path: its stat, and what stood there when it was last read.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crabbox_tree::{Entry, Hash, Kind};
use rustix::fs::{AtFlags, FileType};

use crate::sync::excludes::Rule;

/// What the file system says about a path. All zero: nothing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::sync) struct Stat {
    pub(in crate::sync) size: u64,
    /// Nanoseconds.
    pub(in crate::sync) mtime: i64,
    /// Nanoseconds.
    pub(in crate::sync) ctime: i64,
    pub(in crate::sync) ino: u64,
    pub(in crate::sync) mode: u32,
    /// Whether a file has further names. What is done to it through one of them, its folder is not told.
    pub(in crate::sync) shared: bool,
}

impl Stat {
    pub(in crate::sync) fn of(facts: &std::fs::Metadata) -> Self {
        Self {
            size: facts.len(),
            mtime: nanoseconds(facts.mtime(), facts.mtime_nsec()),
            ctime: nanoseconds(facts.ctime(), facts.ctime_nsec()),
            ino: facts.ino(),
            mode: facts.mode(),
            shared: facts.is_file() && facts.nlink() > 1,
        }
    }

    /// Facts about a path below an open directory, links not followed. Nothing there is no error.
    #[expect(clippy::unnecessary_cast, reason = "the widths of these fields differ by system")]
    pub(in crate::sync) fn at(top: impl AsFd, path: &Path) -> std::io::Result<Self> {
        // An empty path is the directory itself.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match rustix::fs::statat(top, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(facts) => Ok(Self {
                shared: facts.st_nlink > 1
                    && FileType::from_raw_mode(facts.st_mode) == FileType::RegularFile,
                size: facts.st_size as u64,
                mtime: nanoseconds(facts.st_mtime as i64, facts.st_mtime_nsec as i64),
                ctime: nanoseconds(facts.st_ctime as i64, facts.st_ctime_nsec as i64),
                ino: facts.st_ino as u64,
                mode: facts.st_mode as u32,
            }),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(Self::default()),
            Err(e) => Err(e.into()),
        }
    }

    /// What kind of thing it is; `None` when nothing is there.
    pub(in crate::sync) fn kind(&self) -> Option<FileType> {
        (self.mode != 0).then(|| FileType::from_raw_mode(self.mode as rustix::fs::RawMode))
    }

    pub(in crate::sync) fn is_dir(&self) -> bool {
        self.kind() == Some(FileType::Directory)
    }

    pub(in crate::sync) fn is_file(&self) -> bool {
        self.kind() == Some(FileType::RegularFile)
    }

    /// Whether it changed at `moment` or later, and so may have changed twice within one tick of the clock
    /// without showing it. A file system that counts whole seconds has long ticks.
    pub(in crate::sync) fn is_racy(&self, moment: i64) -> bool {
        let changed = self.ctime.max(self.mtime);
        let tick = if changed % SECOND == 0 { 2 * SECOND } else { 1 };
        changed > moment.saturating_sub(tick)
    }

    /// Whether nothing changed since `old` was taken. What is racy may have.
    pub(in crate::sync) fn still(&self, old: &Self, moment: i64) -> bool {
        self == old && !self.is_racy(moment)
    }
}

const SECOND: i64 = 1_000_000_000;

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(SECOND).saturating_add(rest)
}

/// What stood at a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::sync) enum What {
    /// Nothing that is sent: gone, a directory, or not looked at.
    #[default]
    Nothing,
    /// A regular file with this content.
    File(Hash),
    /// A symbolic link.
    Link(OsString),
    /// Something that is neither.
    Special(FileType),
}

/// Stands for the directory of a record that was not placed in one yet.
pub(in crate::sync) const UNPLACED: u32 = u32::MAX;

/// A path of the tree.
#[derive(Debug, Clone, Default)]
pub(in crate::sync) struct Record {
    pub(in crate::sync) path: PathBuf,
    pub(in crate::sync) stat: Stat,
    pub(in crate::sync) what: What,
    /// Which of the remembered directories it stands in.
    pub(in crate::sync) dir: u32,
    /// Whether git's index names it.
    pub(in crate::sync) tracked: bool,
    /// Whether the last commit holds it too.
    pub(in crate::sync) committed: bool,
    /// Which rule leaves it out.
    pub(in crate::sync) rule: Option<Rule>,
    /// Whether anybody ever looked at it: of what git alone spoke of, nobody can tell that it did not change.
    pub(in crate::sync) looked: bool,
}

impl Record {
    /// A path not yet looked at.
    pub(in crate::sync) fn new(path: PathBuf, tracked: bool) -> Self {
        Self {
            path,
            stat: Stat::default(),
            what: What::Nothing,
            dir: UNPLACED,
            tracked,
            committed: false,
            rule: None,
            looked: false,
        }
    }

    /// Whether it may have changed although nobody told: within the tick of the last look, or through another name.
    pub(in crate::sync) fn is_doubtful(&self, moment: i64) -> bool {
        !self.looked || self.stat.shared || self.stat.is_racy(moment)
    }

    /// Takes over what another record of the same path remembers.
    pub(in crate::sync) fn learn_from(&mut self, old: Self) {
        (self.stat, self.what, self.looked) = (old.stat, old.what, old.looked);
    }

    /// Length of what is sent of it.
    pub(in crate::sync) fn sent(&self) -> Option<u64> {
        match &self.what {
            What::File(_) => Some(self.stat.size),
            What::Link(target) => Some(target.len() as u64),
            What::Nothing | What::Special(_) => None,
        }
    }

    /// What is sent of it.
    pub(in crate::sync) fn into_entry(self) -> Option<Entry> {
        let kind = match self.what {
            What::File(sha256) => {
                Kind::File { size: self.stat.size, sha256, exec: self.stat.mode & 0o100 != 0 }
            }
            What::Link(target) => Kind::Symlink { target },
            What::Nothing | What::Special(_) => return None,
        };
        Some(Entry { path: self.path, kind })
    }

    /// The same, while the record is still needed.
    pub(in crate::sync) fn entry(&self) -> Option<Entry> {
        self.sent().and_then(|_| self.clone().into_entry())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_again_unseen_is_not_believed() {
        let at = |ctime| Stat { ctime, mode: 1, ..Stat::default() };
        assert!(at(SECOND + 4).still(&at(SECOND + 4), SECOND + 5));
        assert!(!at(SECOND + 5).still(&at(SECOND + 5), SECOND + 5));
        // Whole seconds: whatever happens in the second looks the same.
        assert!(!at(7 * SECOND).still(&at(7 * SECOND), 8 * SECOND));
        assert!(at(7 * SECOND).still(&at(7 * SECOND), 9 * SECOND + 1));
        assert!(!at(3).still(&at(4), 9 * SECOND));
        assert!(!at(3).still(&at(3), i64::MIN), "nothing is believed before everything");
    }
}
