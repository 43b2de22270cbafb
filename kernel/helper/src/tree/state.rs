//! What the helper knows of a tree: the manifest it holds and how every file looked; a file of its own format.
//!
//! Magic, boot id, digest, count; for each entry its kind, path, content and record; last a checksum, which
//! proves that the file is whole. All numbers are little-endian.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crabbox_tree::{Entry, Groups, Hash, Kind, Manifest, bytes_of};

use crate::tree::plan::Aim;
use crate::tree::stat::{Look, Record};

const MAGIC: &[u8; 16] = b"crabbox-state 2\n";
/// The same with a digest of another kind.
const BEFORE: &[u8; 16] = b"crabbox-state 1\n";
/// A boot of the machine: what was remembered before it is not believed.
pub(crate) type Boot = [u8; 16];

/// What is known of a tree.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) manifest: Manifest,
    /// How each of its entries looked.
    pub(crate) records: Vec<Record>,
    /// The manifest's digest.
    pub(crate) digest: Hash,
    /// What the digest is made of, once that was needed.
    groups: OnceLock<Groups>,
}

impl State {
    /// A manifest of which nothing has been looked at.
    pub(crate) fn unseen(manifest: Manifest) -> Self {
        let records = vec![Record::default(); manifest.entries().len()];
        let groups = manifest.groups();
        Self { manifest, records, digest: groups.digest(), groups: groups.into() }
    }

    /// What the digest is made of.
    pub(crate) fn groups(&self) -> &Groups {
        self.groups.get_or_init(|| self.manifest.groups())
    }

    /// Makes it what was aimed at: without what was removed, with entries as they were just seen. Both come in order.
    pub(crate) fn change(
        &mut self,
        removed: &[PathBuf],
        fresh: impl IntoIterator<Item = (Entry, Record)>,
        aim: Aim,
    ) {
        let old = std::mem::take(&mut self.manifest).into_entries();
        let mut entries = Vec::with_capacity(old.len());
        let mut records = Vec::with_capacity(old.len());
        let mut put = |(entry, record)| {
            entries.push(entry);
            records.push(record);
        };
        let mut fresh = fresh.into_iter().peekable();
        let mut removed = removed.iter().peekable();
        for (entry, record) in old.into_iter().zip(std::mem::take(&mut self.records)) {
            let path = bytes_of(&entry.path);
            while let Some(new) = fresh.next_if(|(new, _)| bytes_of(&new.path) < path) {
                put(new);
            }
            while removed.next_if(|gone| bytes_of(gone) < path).is_some() {}
            match fresh.next_if(|(new, _)| bytes_of(&new.path) == path) {
                Some(new) => put(new),
                None if removed.next_if(|gone| bytes_of(gone) == path).is_some() => {}
                None => put((entry, record)),
            }
        }
        fresh.for_each(put);
        let manifest = Manifest::of_sorted(entries);
        *self = Self { manifest, records, digest: aim.digest, groups: aim.groups.into() };
    }

    /// The record of a path.
    pub(crate) fn find(&self, path: &Path) -> Option<usize> {
        self.manifest.find(path)
    }

    /// Its bytes.
    pub(crate) fn to_bytes(&self, boot: Boot) -> Vec<u8> {
        let entries = self.manifest.entries();
        let mut out = Vec::with_capacity(128 + entries.len() * 160);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&boot);
        out.extend_from_slice(&self.digest);
        out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
        for (entry, record) in entries.iter().zip(&self.records) {
            write_entry(entry, &mut out);
            write_record(record, &mut out);
        }
        let sum = checksum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads them, and the digest as they name it; `None` when they are not whole. Records of another boot count as
    /// not looked at.
    pub(crate) fn from_bytes(bytes: &[u8], boot: Boot) -> Option<(Self, Hash)> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        if checksum(body) != u64::from_le_bytes(*sum) {
            return None;
        }
        let mut cursor = Cursor(body);
        let magic = cursor.array::<16>()?;
        if ![MAGIC, BEFORE].contains(&&magic) {
            return None;
        }
        let same_boot = cursor.array::<16>()? == boot;
        let named = cursor.array::<32>()?;
        let count = usize::try_from(cursor.u64()?).ok()?;
        let mut entries = Vec::with_capacity(count.min(body.len() / 64));
        let mut records = Vec::with_capacity(count.min(body.len() / 64));
        for _ in 0..count {
            entries.push(cursor.entry()?);
            let record = cursor.record()?;
            records.push(if same_boot { record } else { Record::default() });
        }
        let manifest = Manifest::new(entries).ok()?;
        if manifest.entries().len() != records.len() || !cursor.0.is_empty() {
            return None;
        }
        let digest = if magic == *MAGIC { named } else { manifest.digest() };
        Some((Self { manifest, records, digest, groups: OnceLock::new() }, named))
    }
}

fn write_entry(entry: &Entry, out: &mut Vec<u8>) {
    let path = bytes_of(&entry.path);
    let mark = match &entry.kind {
        Kind::Symlink { .. } => 0,
        Kind::File { exec: false, .. } => 1,
        Kind::File { exec: true, .. } => 2,
    };
    out.push(mark);
    write_bytes(path, out);
    match &entry.kind {
        Kind::Symlink { target } => write_bytes(target.as_bytes(), out),
        Kind::File { size, sha256, .. } => {
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(sha256);
        }
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn write_record(record: &Record, out: &mut Vec<u8>) {
    let Look { ino, size, mtime, ctime, mode, links } = record.look;
    out.push(u8::from(record.sure));
    out.extend_from_slice(&ino.to_le_bytes());
    out.extend_from_slice(&size.to_le_bytes());
    for (secs, nanos) in [mtime, ctime] {
        out.extend_from_slice(&secs.to_le_bytes());
        out.extend_from_slice(&nanos.to_le_bytes());
    }
    out.extend_from_slice(&mode.to_le_bytes());
    out.extend_from_slice(&links.to_le_bytes());
}

/// Bytes that are read from their beginning.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn entry(&mut self) -> Option<Entry> {
        let [mark] = self.array()?;
        let path = PathBuf::from(OsString::from_vec(self.bytes()?.to_vec()));
        let kind = match mark {
            0 => Kind::Symlink { target: OsString::from_vec(self.bytes()?.to_vec()) },
            1 | 2 => Kind::File { size: self.u64()?, sha256: self.array()?, exec: mark == 2 },
            _ => return None,
        };
        Some(Entry { path, kind })
    }

    fn record(&mut self) -> Option<Record> {
        let [sure] = self.array()?;
        let (ino, size) = (self.u64()?, self.u64()?);
        let mut moment = || Some((self.array().map(i64::from_le_bytes)?, self.u32()?));
        let (mtime, ctime) = (moment()?, moment()?);
        Some(Record {
            look: Look { ino, size, mtime, ctime, mode: self.u32()?, links: self.u32()? },
            sure: sure != 0,
        })
    }
}

/// Tells torn and mixed-up files from whole ones; no secret is kept by it.
fn checksum(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum = bytes.len() as u64;
    for word in words {
        sum = (sum ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
    }
    for byte in rest {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(FACTOR).rotate_left(29);
    }
    sum ^ (sum >> 32)
}

#[cfg(test)]
mod tests {
    use crabbox_tree::{Delta, content_hash};

    use super::*;

    fn state() -> State {
        let file = |path: &str, exec| Entry {
            path: path.into(),
            kind: Kind::File { size: 4, sha256: content_hash(path.as_bytes()), exec },
        };
        let link = Entry { path: "l".into(), kind: Kind::Symlink { target: "to".into() } };
        let manifest = Manifest::new(vec![file("a", true), file("b/c", false), link]).unwrap();
        let mut state = State::unseen(manifest);
        let look = Look { ino: 7, size: 4, mtime: (-1, 5), ctime: (9, 9), mode: 0o755, links: 1 };
        state.records[1] = Record { look, sure: true };
        state
    }

    #[test]
    fn a_state_survives_its_file_and_no_damaged_byte() {
        let (state, boot) = (state(), [3; 16]);
        let bytes = state.to_bytes(boot);
        let parts = |state: &State| (state.manifest.clone(), state.records.clone(), state.digest);
        let (read, named) = State::from_bytes(&bytes, boot).unwrap();
        assert_eq!((parts(&read), named), (parts(&state), state.digest));
        assert_eq!(read.groups(), state.groups());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            assert!(State::from_bytes(&damaged, boot).is_none(), "byte {at}");
            assert!(State::from_bytes(&bytes[..at], boot).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn a_state_of_the_version_before_is_read_and_gets_its_digest_anew() {
        let (state, boot) = (state(), [3; 16]);
        let mut bytes = state.to_bytes(boot);
        bytes.truncate(bytes.len() - 8);
        bytes[..16].copy_from_slice(BEFORE);
        bytes[32..64].copy_from_slice(&[7; 32]);
        let sum = checksum(&bytes).to_le_bytes();
        bytes.extend(sum);
        let (read, named) = State::from_bytes(&bytes, boot).unwrap();
        assert_eq!((read.digest, named), (state.digest, [7; 32]));
    }

    #[test]
    fn a_changed_state_is_as_one_made_anew() {
        let mut state = state();
        let kind = Kind::File { size: 1, sha256: content_hash(b"x"), exec: false };
        let entry = |path: &str| Entry { path: path.into(), kind: kind.clone() };
        let delta = Delta {
            removed: vec!["b/c".into(), "never".into()],
            wanted: vec![entry("a"), entry("b"), entry("z")],
            recipes: Vec::new(),
        };
        let wanted = delta.apply(&state.manifest).unwrap();
        let aim = Aim::of(&state, &delta);
        let fresh = delta.wanted.into_iter().map(|entry| (entry, Record::default()));
        state.change(&delta.removed, fresh, aim);
        assert_eq!((&state.manifest, state.digest), (&wanted, wanted.digest()));
        assert_eq!(state.groups(), &wanted.groups());
        assert_eq!(state.records.len(), 4);
    }

    #[test]
    fn after_another_boot_no_look_is_believed() {
        let state = state();
        let (read, _) = State::from_bytes(&state.to_bytes([3; 16]), [4; 16]).unwrap();
        assert_eq!((&read.manifest, read.digest), (&state.manifest, state.digest));
        assert_eq!(read.records, [Record::default(); 3]);
    }
}
