//! Trees as tar archives: GNU format, any name, any size, in pieces, and never content the manifest does not know.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytes::Bytes;
use crabbox_schemas::error::ErrorCode;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};
use tempfile::NamedTempFile;
use tokio::sync::{mpsc, oneshot};

use crate::error::{KernelError, Result};
use crate::sync::LocalTree;
use crate::sync::manifest::{
    Entry, Kind, PIECE, bytes_of, changing, describe_file, open, unreadable,
};

/// Longest name and link target a header holds itself.
const SHORT: usize = 100;
const BLOCK: usize = 512;

/// How a provider wants the archive of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// A tar file.
    Plain,
    /// Compressed with gzip.
    Gzip,
}

/// The whole tree as a tar file, for providers that take it themselves; and whether it is exactly the manifest's.
pub fn tar_file(tree: &LocalTree, packing: Packing) -> Result<(NamedTempFile, bool)> {
    let failed = |e: &std::io::Error| {
        KernelError::new(ErrorCode::State, "cannot write the archive of the tree").because(e)
    };
    let mut file = NamedTempFile::new().map_err(|e| failed(&e))?;
    let entries = tree.manifest()?.entries();
    let mut out = std::io::BufWriter::new(file.as_file_mut());
    let amended = match packing {
        Packing::Plain => write(&tree.root, entries, &mut out)?,
        Packing::Gzip => {
            let mut zip = GzEncoder::new(&mut out, Compression::fast());
            let amended = write(&tree.root, entries, &mut zip)?;
            zip.finish().map_err(|e| failed(&e))?;
            amended
        }
    };
    out.flush().map_err(|e| failed(&e))?;
    drop(out);
    Ok((file, amended.is_empty()))
}

/// Writes entries as one archive. Returns those that changed since they were described, as they were sent.
pub(super) fn write(root: &Path, entries: &[Entry], out: &mut impl Write) -> Result<Vec<Entry>> {
    let mut amended = Vec::new();
    for entry in entries {
        amended.extend(one(root, entry, out)?);
    }
    out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush()).map_err(|e| stuck(&e))?;
    Ok(amended)
}

/// An archive in the making: its pieces, and in the end the entries that changed meanwhile.
pub(super) type Making = (mpsc::Receiver<Bytes>, oneshot::Receiver<Result<Vec<Entry>>>);

/// Makes an archive in a thread, at most a few pieces ahead of its reader.
pub(super) fn stream(root: &Path, entries: Vec<Entry>) -> Making {
    let (sender, pieces) = mpsc::channel(4);
    let (told, result) = oneshot::channel();
    let root = root.to_owned();
    std::thread::spawn(move || {
        let mut out = std::io::BufWriter::with_capacity(PIECE, Pieces(sender));
        let _ = told.send(write(&root, &entries, &mut out));
    });
    (pieces, result)
}

struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(Bytes::copy_from_slice(data))
            .map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn stuck(error: &std::io::Error) -> KernelError {
    KernelError::new(ErrorCode::SyncWrite, "the archive of the tree could not be handed on")
        .because(error)
}

/// Writes one entry. A file that is not what the manifest says is described again and sent again after
/// itself, where it wins; a file that will not hold still is an error.
fn one(root: &Path, entry: &Entry, out: &mut impl Write) -> Result<Option<Entry>> {
    let at = root.join(&entry.path);
    let Kind::File { size, sha256, exec } = &entry.kind else {
        return link(&at, entry, out).map(|()| None);
    };
    if file(&at, &entry.path, *size, *exec, out)? == Some(*sha256) {
        return Ok(None);
    }
    let again = describe_file(&at, &entry.path)?;
    let Kind::File { size, sha256, exec } = again else { return Err(changing(&entry.path)) };
    if file(&at, &entry.path, size, exec, out)? != Some(sha256) {
        return Err(changing(&entry.path));
    }
    Ok(Some(Entry { path: entry.path.clone(), kind: again }))
}

fn link(at: &Path, entry: &Entry, out: &mut impl Write) -> Result<()> {
    let Kind::Symlink { target } = &entry.kind else { return Ok(()) };
    let mtime = std::fs::symlink_metadata(at).map_or(1, |m| m.mtime());
    let mut header = header(EntryType::Symlink, 0, 0o777, mtime);
    long(b'K', target.as_bytes(), out)?;
    set(&mut header.as_old_mut().linkname, target.as_bytes());
    head(header, &entry.path, out)
}

/// Writes a file of exactly this size; the hash of what was written, or `None` when the file was shorter.
fn file(
    at: &Path,
    path: &Path,
    size: u64,
    exec: bool,
    out: &mut impl Write,
) -> Result<Option<[u8; 32]>> {
    let (file, meta) = open(at, path)?;
    head(
        header(EntryType::Regular, size, if exec { 0o755 } else { 0o644 }, meta.mtime()),
        path,
        out,
    )?;
    let mut file = file.take(size);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE.min(size as usize + 1)];
    let mut left = size;
    while left > 0 {
        let n = file.read(&mut buffer).map_err(|e| unreadable(path).because(&e))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        out.write_all(&buffer[..n]).map_err(|e| stuck(&e))?;
        left -= n as u64;
    }
    let whole = left == 0;
    buffer.fill(0);
    while left > 0 {
        let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        out.write_all(&buffer[..n]).map_err(|e| stuck(&e))?;
        left -= n as u64;
    }
    pad(size, out)?;
    Ok(whole.then(|| hasher.finalize().into()))
}

fn header(kind: EntryType, size: u64, mode: u32, mtime: i64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime.max(1).unsigned_abs());
    header
}

fn head(mut header: Header, path: &Path, out: &mut impl Write) -> Result<()> {
    long(b'L', bytes_of(path), out)?;
    set(&mut header.as_old_mut().name, bytes_of(path));
    header.set_cksum();
    out.write_all(header.as_bytes()).map_err(|e| stuck(&e))
}

/// The extra entry that carries a name too long for a header.
fn long(mark: u8, name: &[u8], out: &mut impl Write) -> Result<()> {
    if name.len() <= SHORT {
        return Ok(());
    }
    let size = name.len() as u64 + 1;
    let mut header = header(EntryType::new(mark), size, 0o644, 1);
    set(&mut header.as_old_mut().name, b"././@LongLink");
    header.set_cksum();
    out.write_all(header.as_bytes())
        .and_then(|()| out.write_all(name))
        .and_then(|()| out.write_all(&[0]))
        .map_err(|e| stuck(&e))?;
    pad(size, out)
}

fn set(field: &mut [u8; SHORT], value: &[u8]) {
    let n = value.len().min(SHORT);
    field.fill(0);
    field[..n].copy_from_slice(&value[..n]);
}

fn pad(size: u64, out: &mut impl Write) -> Result<()> {
    let over = (size % BLOCK as u64) as usize;
    let zeros = [0; BLOCK];
    if over == 0 { Ok(()) } else { out.write_all(&zeros[over..]).map_err(|e| stuck(&e)) }
}
