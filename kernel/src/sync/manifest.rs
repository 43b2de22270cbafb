//! The manifest: every entry of a tree by path, kind and content, sorted, with a text form and a digest.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crabbox_schemas::error::ErrorCode;
use sha2::{Digest, Sha256};

use crate::error::{KernelError, Result};

/// First line of the text form.
const HEADER: &str = "crabbox-manifest 1";
/// Size of one read.
pub(super) const PIECE: usize = 256 << 10;

/// A SHA-256.
pub type Hash = [u8; 32];

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// The hash of its content.
        sha256: Hash,
        /// Whether its owner may execute it.
        exec: bool,
    },
    /// A symbolic link, never followed.
    Symlink {
        /// Where it points, as written.
        target: OsString,
    },
}

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the tree's top, any byte but NUL.
    pub path: PathBuf,
    /// What stands there.
    pub kind: Kind,
}

impl Entry {
    /// Its length: a file's content, a link's target.
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::File { size, .. } => *size,
            Kind::Symlink { target } => target.len() as u64,
        }
    }
}

/// Entries sorted by the bytes of their path, each path once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
}

impl Manifest {
    /// Sorts entries; of two with one path the later wins. A path that leaves the tree is an error.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self> {
        if let Some(bad) = entries.iter().find(|e| !is_inside(&e.path)) {
            return Err(KernelError::new(
                ErrorCode::SyncRead,
                format!("{} is not a path inside the tree", shown(&bad.path)),
            ));
        }
        entries.reverse();
        entries.sort_by(|a, b| bytes_of(&a.path).cmp(bytes_of(&b.path)));
        entries.dedup_by(|a, b| a.path == b.path);
        Ok(Self { entries })
    }

    /// Describes what stands at these paths under `root`. What is gone or a directory is left away; what is
    /// neither file nor link gets a note.
    pub fn read(root: &Path, paths: Vec<PathBuf>, notes: &mut Vec<String>) -> Result<Self> {
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
        Self::new(entries)
    }

    /// The entries, sorted.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The sum of all sizes.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(Entry::size).sum()
    }

    /// The entry at a path.
    pub fn get(&self, path: &Path) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|e| bytes_of(&e.path).cmp(bytes_of(path))).ok()?;
        self.entries.get(at)
    }

    /// These entries and those of `other`; where both know a path, `other` is right.
    pub fn with(&self, other: &Self) -> Self {
        let mut entries = self.entries.clone();
        entries.extend(other.entries.iter().cloned());
        entries.reverse();
        entries.sort_by(|a, b| bytes_of(&a.path).cmp(bytes_of(&b.path)));
        entries.dedup_by(|a, b| a.path == b.path);
        Self { entries }
    }

    /// The form stored on the box: a header, a line per entry, and a last line that proves it is whole.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for entry in &self.entries {
            let path = escape(bytes_of(&entry.path));
            let line = match &entry.kind {
                Kind::File { size, sha256, exec } => {
                    format!("{} {size} {} {path}\n", if *exec { 'x' } else { 'f' }, hex(sha256))
                }
                Kind::Symlink { target } => format!("l {} {path}\n", escape(target.as_bytes())),
            };
            text.push_str(&line);
        }
        let digest = hex(&Sha256::digest(text.as_bytes()).into());
        text.push_str(&format!("end {digest}\n"));
        text
    }

    /// Reads the text form; `None` when it is not whole or not ours.
    pub fn from_text(text: &str) -> Option<Self> {
        let (body, last) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let digest = hex(&Sha256::digest(format!("{body}\n").as_bytes()).into());
        if last.strip_prefix("end ")? != digest {
            return None;
        }
        let mut lines = body.split('\n');
        if lines.next()? != HEADER {
            return None;
        }
        let entries = lines.map(entry_of).collect::<Option<Vec<_>>>()?;
        Self::new(entries).ok()
    }

    /// The hash of the text form: equal exactly when two trees are equal.
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.to_text().as_bytes()).into())
    }
}

fn entry_of(line: &str) -> Option<Entry> {
    let mut words = line.split(' ');
    let kind = match words.next()? {
        "l" => Kind::Symlink { target: OsString::from_vec(unescape(words.next()?)?) },
        mark @ ("f" | "x") => Kind::File {
            size: words.next()?.parse().ok()?,
            sha256: unhex(words.next()?)?,
            exec: mark == "x",
        },
        _ => return None,
    };
    let path = PathBuf::from(OsString::from_vec(unescape(words.next()?)?));
    words.next().is_none().then_some(Entry { path, kind })
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

/// Whether a path names something below the top and nothing else.
pub(super) fn is_inside(path: &Path) -> bool {
    let bytes = bytes_of(path);
    !bytes.contains(&0)
        && bytes.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// A path's bytes.
pub(super) fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A path for people: one line, whatever its bytes.
pub(super) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.chars().any(char::is_control) { format!("{text:?}") } else { text.into_owned() }
}

fn escape(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len());
    for &b in bytes {
        if b.is_ascii_graphic() && b != b'%' {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02x}");
        }
    }
    out
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        if b == b'%' {
            out.push(u8::from_str_radix(text.get(at + 1..at + 3)?, 16).ok()?);
            at += 3;
        } else {
            out.push(b);
            at += 1;
        }
    }
    Some(out)
}

/// Bytes as lowercase hex digits.
pub(super) fn hex(bytes: &Hash) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// Reads 64 hex digits.
pub(super) fn unhex(text: &str) -> Option<Hash> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0; 32];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}
