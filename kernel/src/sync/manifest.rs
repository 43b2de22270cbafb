//! Reads a tree into its manifest: what stands at each path, files hashed while they hold still.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crabbox_schemas::error::ErrorCode;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{KernelError, Result};
use crate::ports::{Stop, Urgency};
use crate::sync::index::content::{self, Content};
use crate::sync::index::record::{Record, Stat, What};
use crate::sync::index::refresh::{Recipes, Trust, refresh};

pub use crabbox_tree::{Entry, Hash, Kind, Manifest};
pub(super) use crabbox_tree::{bytes_of, hex, shown, unhex};

/// Size of one read.
pub(super) const PIECE: usize = 256 << 10;

/// Describes what stands at these paths under `root`, reading every byte. What is gone or a directory is
/// left away; what is neither file nor link gets a note.
pub fn read(root: &Path, paths: Vec<PathBuf>, notes: &mut Vec<String>) -> Result<Manifest> {
    let mut records: Vec<Record> = paths.into_iter().map(|p| Record::new(p, false)).collect();
    let trust = Trust { root, moment: i64::MIN, real: &[], only: None, stop: None };
    refresh(&mut records, &mut Recipes::new(), &trust)?;
    note_special(&records, notes);
    of(records)
}

/// Notes what is neither file nor link.
pub(super) fn note_special(records: &[Record], notes: &mut Vec<String>) {
    for record in records {
        if let What::Special(kind) = record.what {
            let what = match kind {
                FileType::Socket => "a socket",
                FileType::Fifo => "a named pipe",
                _ => "a device",
            };
            notes.push(format!("{} is {what} and stays here", shown(&record.path)));
        }
    }
}

/// The manifest that records describe.
pub(super) fn of(records: Vec<Record>) -> Result<Manifest> {
    whole(records.into_iter().filter_map(Record::into_entry).collect())
}

/// A manifest of entries; a path that leaves the tree is an error.
pub(super) fn whole(entries: Vec<Entry>) -> Result<Manifest> {
    Manifest::new(entries).map_err(|e| KernelError::new(ErrorCode::SyncRead, e.to_string()))
}

/// How often a file that changes while it is read is read again.
const READS: usize = 2;

/// Describes a regular file.
pub(super) fn describe_file(at: &Path, path: &Path) -> Result<Kind> {
    let (facts, content) = read_file(at, path, &mut Vec::new(), None)?;
    let exec = facts.mode() & 0o100 != 0;
    Ok(Kind::File { size: content.size, sha256: content.sha256, exec })
}

/// Reads a regular file; one that changes under our eyes is read once more, then refused.
pub(super) fn read_file(
    at: &Path,
    path: &Path,
    buffer: &mut Vec<u8>,
    stop: Option<&Stop>,
) -> Result<(Metadata, Content)> {
    for _ in 0..READS {
        let (file, before) = open(at, path)?;
        let content = content::read(&mut UntilStopped(&file, stop), before.len(), buffer)
            .map_err(|e| unreadable(path).because(&e))?;
        let after = file.metadata().map_err(|e| unreadable(path).because(&e))?;
        if content.size == after.len() && Stat::of(&before) == Stat::of(&after) {
            return Ok((before, content));
        }
    }
    Err(changing(path))
}

/// A file whose reading fails once somebody wishes to stop.
struct UntilStopped<'a>(&'a File, Option<&'a Stop>);

impl Read for UntilStopped<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if is_raised(self.1) {
            return Err(std::io::Error::other("interrupted"));
        }
        self.0.read(into)
    }
}

/// Whether somebody wishes to stop.
pub(super) fn is_raised(stop: Option<&Stop>) -> bool {
    stop.is_some_and(|stop| stop.urgency() > Urgency::None)
}

/// Opens a regular file without following a link and without waiting for one that became a pipe.
pub(super) fn open(at: &Path, path: &Path) -> Result<(File, Metadata)> {
    const READ: OFlags = OFlags::RDONLY
        .union(OFlags::NOFOLLOW)
        .union(OFlags::NONBLOCK)
        .union(OFlags::NOCTTY)
        .union(OFlags::CLOEXEC);
    let file = match rustix::fs::open(at, READ, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP | Errno::NXIO) => return Err(changing(path)),
        Err(errno) => return Err(unreadable(path).because(&errno)),
    };
    let meta = file.metadata().map_err(|e| unreadable(path).because(&e))?;
    if meta.is_file() { Ok((file, meta)) } else { Err(changing(path)) }
}

/// A file that cannot be read.
pub(super) fn unreadable(path: &Path) -> KernelError {
    KernelError::new(ErrorCode::SyncRead, format!("cannot read {}", shown(path)))
        .hint("make it readable, or leave it out with sync.exclude or .crabboxignore")
}

/// A file that does not hold still.
pub(super) fn changing(path: &Path) -> KernelError {
    KernelError::new(
        ErrorCode::SyncRead,
        format!("{} keeps changing while it is read", shown(path)),
    )
    .hint("stop what writes to it, or leave it out with sync.exclude or .crabboxignore")
}
