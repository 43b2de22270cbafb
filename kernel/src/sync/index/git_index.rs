//! Reads the paths out of git's own index file, so that no `git` has to be started to list them.
//!
//! Versions 2 to 4 are understood. What is rare or subtle (conflicts, submodules, sparse and split indexes,
//! files only intended to be added) is not read here: git itself is asked then.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Length of an object's id.
const ID: usize = 20;
/// Bytes of an entry before its mode, and between its mode and its flags.
const BEFORE_MODE: usize = 24;
const AFTER_MODE: usize = 12 + ID;

const EXTENDED: u16 = 0x4000;
const STAGE: u16 = 0x3000;
const SUBMODULE: u32 = 0o160_000;
const DIRECTORY: u32 = 0o040_000;

/// The paths git tracks, sorted by their bytes; `None` when the file is one that git should read.
pub(super) fn paths(bytes: &[u8]) -> Option<Vec<PathBuf>> {
    let body = bytes.len().checked_sub(ID)?;
    let mut rest = Bytes(&bytes[..body]);
    if rest.take(4)? != b"DIRC" {
        return None;
    }
    let version = rest.u32()?;
    let count = rest.u32()? as usize;
    if !(2..=4).contains(&version) {
        return None;
    }
    let mut paths = Vec::with_capacity(count.min(body / 62));
    let mut last = Vec::new();
    for _ in 0..count {
        entry(&mut rest, version, &mut last)?;
        paths.push(PathBuf::from(OsString::from_vec(last.clone())));
    }
    known_extensions(rest)?;
    Some(paths)
}

/// Reads one entry; `path` held the path before it and holds its own afterwards.
fn entry(rest: &mut Bytes<'_>, version: u32, path: &mut Vec<u8>) -> Option<()> {
    let start = rest.0.len();
    rest.take(BEFORE_MODE)?;
    let mode = rest.u32()?;
    rest.take(AFTER_MODE)?;
    let flags = rest.u16()?;
    let kind = mode & 0o170_000;
    if flags & STAGE != 0 || kind == SUBMODULE || kind == DIRECTORY {
        return None;
    }
    if flags & EXTENDED != 0 {
        // A file outside a sparse checkout, or one only intended to be added.
        rest.u16().filter(|more| *more == 0)?;
    }
    if version == 4 {
        let cut = rest.varint()?;
        path.truncate(path.len().checked_sub(cut)?);
        path.extend_from_slice(rest.until_nul()?);
    } else {
        path.clear();
        path.extend_from_slice(rest.until_nul()?);
        // Entries end with 1 to 8 zeros, at a multiple of 8; one was taken with the path.
        let used = start - rest.0.len() - 1;
        rest.take(8 - used % 8 - 1)?;
    }
    Some(())
}

/// Extensions that may be skipped begin with a capital letter.
fn known_extensions(mut rest: Bytes<'_>) -> Option<()> {
    while !rest.0.is_empty() {
        let name = rest.take(4)?;
        let len = rest.u32()? as usize;
        rest.take(len)?;
        name[0].is_ascii_uppercase().then_some(())?;
    }
    Some(())
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn until_nul(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|b| *b == 0)?;
        let bytes = self.take(end)?;
        self.take(1)?;
        Some(bytes)
    }

    /// Seven bits a byte, high ones first, each continued one counting one more.
    fn varint(&mut self) -> Option<usize> {
        let mut byte = self.take(1)?[0];
        let mut value = usize::from(byte & 127);
        while byte & 128 != 0 {
            byte = self.take(1)?[0];
            value = value.checked_add(1)?.checked_mul(128)? + usize::from(byte & 127);
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index of version 2 with these paths.
    fn index(paths: &[&str]) -> Vec<u8> {
        let mut bytes = b"DIRC\0\0\0\x02".to_vec();
        bytes.extend((paths.len() as u32).to_be_bytes());
        for path in paths {
            let start = bytes.len();
            bytes.extend([0; BEFORE_MODE]);
            bytes.extend(0o100_644u32.to_be_bytes());
            bytes.extend([0; AFTER_MODE + 2]);
            bytes.extend(path.bytes());
            bytes.resize(start + (bytes.len() - start) / 8 * 8 + 8, 0);
        }
        bytes.extend(b"TREE\0\0\0\x03abc");
        bytes.extend([0; ID]);
        bytes
    }

    #[test]
    fn paths_of_any_length_are_read() {
        let names: Vec<String> = (1..20).map(|n| "n".repeat(n)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let read = paths(&index(&names)).unwrap();
        assert!(read.iter().map(PathBuf::as_path).eq(names.iter().map(std::path::Path::new)));
    }

    #[test]
    fn what_is_damaged_or_only_gits_to_know_is_not_read() {
        let whole = index(&["a", "some/longer/path"]);
        let all = paths(&whole);
        let cut: Vec<_> = (0..whole.len()).map(|len| paths(&whole[..len])).collect();
        // Only the one that ends where the extensions begin looks whole.
        assert_eq!(cut.iter().filter(|read| read.is_some()).count(), 1);
        assert!(cut.contains(&all));
        for (at, byte) in [(0, b'X'), (7, 5), (11, 9), (38, 0xe0), (72, 0x10), (72, 0x40)] {
            let mut other = whole.clone();
            other[at] = byte;
            assert_eq!(paths(&other), None, "byte {at}");
        }
        let split = whole.windows(4).position(|name| name == b"TREE").unwrap();
        let mut other = whole;
        other[split] = b't';
        assert_eq!(paths(&other), None);
    }
}
