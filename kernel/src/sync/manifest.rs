//! Reads a tree into its manifest: what stands at each path, files hashed while they hold still.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crabbox_schemas::error::ErrorCode;
use sha2::{Digest, Sha256};

use crate::error::{KernelError, Result};

pub use crabbox_tree::{Entry, Hash, Kind, Manifest};
pub(super) use crabbox_tree::{bytes_of, hex, shown, unhex};

/// Size of one read.
pub(super) const PIECE: usize = 256 << 10;

/// Describes what stands at these paths under `root`. What is gone or a directory is left away; what is
/// neither file nor link gets a note.
pub fn read(root: &Path, paths: Vec<PathBuf>, notes: &mut Vec<String>) -> Result<Manifest> {
    let mut entries = Vec::with_capacity(paths.len());
    for path in paths {
        match describe(root, &path)? {
            Found::Entry(kind) => entries.push(Entry { path, kind }),
            Found::Nothing => {}
            Found::Special(what) => {
                notes.push(format!("{} is {what} and stays here", shown(&path)))
            }
        }
    }
    whole(entries)
}

/// A manifest of entries; a path that leaves the tree is an error.
pub(super) fn whole(entries: Vec<Entry>) -> Result<Manifest> {
    Manifest::new(entries).map_err(|e| KernelError::new(ErrorCode::SyncRead, e.to_string()))
}

enum Found {
    Entry(Kind),
    Nothing,
    Special(&'static str),
}

fn describe(root: &Path, path: &Path) -> Result<Found> {
    let at = root.join(path);
    let meta = match std::fs::symlink_metadata(&at) {
        Ok(meta) => meta,
        Err(e) if is_gone(&e) => return Ok(Found::Nothing),
        Err(e) => return Err(unreadable(path).because(&e)),
    };
    let kind = meta.file_type();
    if kind.is_symlink() {
        let target = std::fs::read_link(&at).map_err(|e| unreadable(path).because(&e))?;
        return Ok(Found::Entry(Kind::Symlink { target: target.into_os_string() }));
    }
    if kind.is_file() {
        return describe_file(&at, path).map(Found::Entry);
    }
    Ok(match kind {
        k if k.is_dir() => Found::Nothing,
        k if k.is_socket() => Found::Special("a socket"),
        k if k.is_fifo() => Found::Special("a named pipe"),
        _ => Found::Special("a device"),
    })
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// How often a file that changes while it is read is read again.
const READS: usize = 2;

/// Describes a regular file; one that changes under our eyes is read once more, then refused.
pub(super) fn describe_file(at: &Path, path: &Path) -> Result<Kind> {
    for _ in 0..READS {
        let (mut file, before) = open(at, path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; PIECE.min(before.len() as usize + 1)];
        let mut size = 0;
        loop {
            let n = file.read(&mut buffer).map_err(|e| unreadable(path).because(&e))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            size += n as u64;
        }
        let after = file.metadata().map_err(|e| unreadable(path).because(&e))?;
        if size == after.len() && same(&before, &after) {
            return Ok(Kind::File {
                size,
                sha256: hasher.finalize().into(),
                exec: before.mode() & 0o100 != 0,
            });
        }
    }
    Err(changing(path))
}

/// Opens a regular file without following a link and without waiting for one that became a pipe.
pub(super) fn open(at: &Path, path: &Path) -> Result<(File, Metadata)> {
    let failed = |e: std::io::Error| unreadable(path).because(&e);
    if !std::fs::symlink_metadata(at).map_err(failed)?.is_file() {
        return Err(changing(path));
    }
    let file = File::open(at).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    Ok((file, meta))
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.len(), a.mtime(), a.mtime_nsec(), a.ctime(), a.ctime_nsec(), a.ino())
        == (b.len(), b.mtime(), b.mtime_nsec(), b.ctime(), b.ctime_nsec(), b.ino())
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
