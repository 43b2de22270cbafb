//! Which tracked files were deleted in git's index but not yet in a commit.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::record::{Record, Stat};
use super::refresh::open_top;
use crate::error::Result;
use crate::sync::checkout::{split, staged};

/// What git said of its index against the last commit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Staged {
    /// Deletions that are no renames.
    pub(super) deletions: Vec<PathBuf>,
    /// Whether the index lacks anything of the commit, renamed or not.
    pub(super) lacks: bool,
}

impl Staged {
    /// Asks git, and marks the records that the last commit holds.
    pub(super) fn ask(root: &Path, records: &mut [Record]) -> Result<Self> {
        let listing = staged(root, &["--name-status", "--no-renames"])?;
        let (mut added, mut lacks) = (HashSet::new(), false);
        let mut words = split(&listing);
        while let (Some(status), Some(path)) = (words.next(), words.next()) {
            match status {
                b"A" => {
                    added.insert(Path::new(OsStr::from_bytes(path)));
                }
                b"D" => lacks = true,
                _ => {}
            }
        }
        for record in records {
            record.committed = record.tracked && !added.contains(record.path.as_path());
        }
        let deletions = if lacks {
            let names = staged(root, &["--name-only", "--diff-filter=D", "-M"])?;
            split(&names).map(|name| PathBuf::from(OsStr::from_bytes(name))).collect()
        } else {
            Vec::new()
        };
        Ok(Self { deletions, lacks })
    }

    /// How many of the deletions are true of the work tree too.
    pub(super) fn count(&self, root: &Path) -> Result<u64> {
        if self.deletions.is_empty() {
            return Ok(0);
        }
        let top = open_top(root)?;
        let stat = |path: &Path| Stat::at(&top, path).unwrap_or_default();
        let gone = |path: &&PathBuf| {
            stat(path).mode == 0 || path.ancestors().skip(1).any(|dir| !stat(dir).is_dir())
        };
        Ok(self.deletions.iter().filter(gone).count() as u64)
    }
}
