//! One path of a tree, and how paths and hashes are written in lines of text.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

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

    /// Appends its line, with the end of the line.
    pub(crate) fn write_line(&self, text: &mut Vec<u8>) {
        match &self.kind {
            Kind::File { size, sha256, exec } => {
                text.extend_from_slice(if *exec { b"x " } else { b"f " });
                text.extend_from_slice(size.to_string().as_bytes());
                text.push(b' ');
                write_hex(sha256, text);
            }
            Kind::Symlink { target } => {
                text.extend_from_slice(b"l ");
                escape(target.as_bytes(), text);
            }
        }
        text.push(b' ');
        escape(bytes_of(&self.path), text);
        text.push(b'\n');
    }

    /// Reads a line without its end; `None` when it is none of ours.
    pub(crate) fn from_line(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|b| *b == b' ');
        let kind = match words.next()? {
            b"l" => Kind::Symlink { target: OsString::from_vec(unescape(words.next()?)?) },
            mark @ (b"f" | b"x") => Kind::File {
                size: std::str::from_utf8(words.next()?).ok()?.parse().ok()?,
                sha256: unhex_bytes(words.next()?)?,
                exec: mark == b"x",
            },
            _ => return None,
        };
        let path = path_from_word(words.next()?)?;
        words.next().is_none().then_some(Self { path, kind })
    }
}

/// Whether a path names something below the top and nothing else.
pub fn is_inside(path: &Path) -> bool {
    let bytes = bytes_of(path);
    !bytes.contains(&0)
        && bytes.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// A path's bytes.
pub fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A path for people: one line, whatever its bytes.
pub fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.chars().any(char::is_control) { format!("{text:?}") } else { text.into_owned() }
}

/// The SHA-256 of bytes.
pub fn content_hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// Reads a path word; `None` unless it names something inside the tree.
pub(crate) fn path_from_word(word: &[u8]) -> Option<PathBuf> {
    let path = PathBuf::from(OsString::from_vec(unescape(word)?));
    is_inside(&path).then_some(path)
}

/// Appends bytes with everything but visible ASCII as `%xx`.
pub(crate) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let plain = |b: &u8| b.is_ascii_graphic() && *b != b'%';
    if bytes.iter().all(plain) {
        out.extend_from_slice(bytes);
        return;
    }
    for b in bytes {
        if plain(b) {
            out.push(*b);
        } else {
            out.push(b'%');
            out.push(DIGITS[usize::from(b >> 4)]);
            out.push(DIGITS[usize::from(b & 15)]);
        }
    }
}

fn unescape(word: &[u8]) -> Option<Vec<u8>> {
    if word.is_empty() {
        return Some(Vec::new());
    }
    if !word.contains(&b'%') {
        return Some(word.to_vec());
    }
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&b, after)) = rest.split_first() {
        if b == b'%' {
            let (&[high, low], after) = after.split_first_chunk()?;
            out.push(digit(high)? << 4 | digit(low)?);
            rest = after;
        } else {
            out.push(b);
            rest = after;
        }
    }
    Some(out)
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

pub(crate) fn write_hex(hash: &Hash, out: &mut Vec<u8>) {
    let mut digits = [0; 64];
    for (two, b) in digits.as_chunks_mut::<2>().0.iter_mut().zip(hash) {
        *two = [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]];
    }
    out.extend_from_slice(&digits);
}

pub(crate) fn unhex_bytes(word: &[u8]) -> Option<Hash> {
    let mut out = [0; 32];
    if word.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(word.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

/// Bytes as lowercase hex digits.
pub fn hex(hash: &Hash) -> String {
    let mut out = Vec::with_capacity(64);
    write_hex(hash, &mut out);
    out.into_iter().map(char::from).collect()
}

/// Reads 64 lowercase hex digits.
pub fn unhex(text: &str) -> Option<Hash> {
    unhex_bytes(text.as_bytes())
}
