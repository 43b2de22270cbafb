//! The index as a file: parts, then what stands in front of them, which knows each part's checksum; replaced in one step.
//!
//! What stands in front answers for a tree in which nothing changed. The parts hold its directories and files, some
//! hundred each, so that they can be read and looked at on all processors.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crabbox_schemas::error::ErrorCode;
use crabbox_tree::Groups;

use super::record::Record;
use super::refresh::{Recipes, locked, on_all_processors};
use super::source::{DirItem, Item, RecordItem, Source};
use super::{Facts, Front, Kept};
use crate::error::KernelError;

/// How a front begins; it changes with the format.
pub(super) const MAGIC: &[u8; 16] = b"crabbox-index 3\n";
/// Bytes after what stands in front: its length and its checksum.
const TRAILER: usize = 8;
/// How much is read from the end at first: more than most fronts have. Bytes.
const TAIL: u64 = 32 << 10;
/// Directories or files of a part.
pub(super) const BATCH: usize = 256;

/// An index whose front was read. Its file stays what it is: a newer index is another file.
#[derive(Debug)]
pub(in crate::sync) struct Opened {
    path: PathBuf,
    file: File,
    pub(super) front: Front,
    parts: Vec<Part>,
}

/// Where a part stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) holds: Holds,
    pub(super) at: u64,
    pub(super) len: u32,
    pub(super) sum: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Dirs,
    Records,
    Rest,
}

/// Opens an index; `None` when it is damaged, of another version, or not there.
pub(super) fn open(path: &Path) -> Option<Opened> {
    let file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    let mut tail = read_at(&file, size.saturating_sub(TAIL), size.min(TAIL))?;
    let trailer = tail.split_off(tail.len().checked_sub(TRAILER)?);
    let mut trailer = Source(&trailer);
    let (len, sum) = (trailer.u32()? as usize, trailer.u32()?);
    let front = match tail.len().checked_sub(len) {
        Some(at) => tail.split_off(at),
        None => read_at(&file, size.checked_sub((len + TRAILER) as u64)?, len as u64)?,
    };
    let (parts, front) = (crc32fast::hash(&front) == sum).then(|| Source(&front).front())??;
    let end =
        parts.iter().try_fold(0, |end, part| (part.at == end).then_some(end + u64::from(part.len)));
    (end? + (len + TRAILER) as u64 == size).then(|| Opened {
        path: path.to_owned(),
        file,
        front,
        parts,
    })
}

fn read_at(file: &File, at: u64, len: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
}

impl Opened {
    /// Shows every directory and file to `see`, on all processors. `None` when a part is damaged.
    pub(super) fn each(&self, see: impl Fn(Item<'_>) + Sync) -> Option<()> {
        let work = Mutex::new(self.parts.iter());
        let damaged = Mutex::new(false);
        on_all_processors(|| {
            let mut buffer = Vec::new();
            loop {
                let Some(part) = locked(&work).next() else { break };
                if self.show(part, &mut buffer, &see).is_none() {
                    *locked(&damaged) = true;
                }
            }
        });
        let damaged = *locked(&damaged);
        (!damaged).then_some(())
    }

    fn show(&self, part: &Part, buffer: &mut Vec<u8>, see: &impl Fn(Item<'_>)) -> Option<()> {
        let mut from = self.part(part, buffer)?;
        while part.holds != Holds::Rest && !from.0.is_empty() {
            see(match part.holds {
                Holds::Dirs => Item::Dir(from.dir()?),
                _ => Item::Record(from.record()?),
            });
        }
        Some(())
    }

    fn part<'b>(&self, part: &Part, buffer: &'b mut Vec<u8>) -> Option<Source<'b>> {
        let len = part.len as usize;
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let bytes = &mut buffer[..len];
        self.file.read_exact_at(bytes, part.at).ok()?;
        (crc32fast::hash(bytes) == part.sum).then_some(Source(bytes))
    }

    /// How large contents are cut; nothing when that is damaged.
    pub(super) fn recipes(&self) -> Recipes {
        self.rest().map(|(_, recipes)| recipes).unwrap_or_default()
    }

    fn rest(&self) -> Option<(Groups, Recipes)> {
        let part = self.parts.iter().find(|part| part.holds == Holds::Rest)?;
        let mut buffer = Vec::new();
        self.part(part, &mut buffer)?.rest()
    }

    /// What to say when a part turns out to be damaged. The next scan makes the index again.
    pub(in crate::sync) fn damaged(&self) -> KernelError {
        let _ = std::fs::remove_file(&self.path);
        let what = format!("the index {} is damaged", self.path.display());
        KernelError::new(ErrorCode::State, what).hint("it is removed now; run again")
    }

    /// Shows what is sent and how long it is, in order. `None` when a part is damaged.
    pub(in crate::sync) fn sizes(&self, see: &mut dyn FnMut(&Path, u64)) -> Option<()> {
        let mut buffer = Vec::new();
        for part in self.parts.iter().filter(|part| part.holds == Holds::Records) {
            let mut from = self.part(part, &mut buffer)?;
            while !from.0.is_empty() {
                let record = from.record()?;
                record.sent().into_iter().for_each(|size| see(record.path, size));
            }
        }
        Some(())
    }

    /// Every file.
    pub(super) fn records(&self) -> Option<Vec<Record>> {
        self.all(Holds::Records, |from| from.record().and_then(RecordItem::owned))
    }

    /// Items of all parts of a kind, read on all processors.
    fn all<T: Send>(
        &self,
        holds: Holds,
        read: impl Fn(&mut Source<'_>) -> Option<T> + Sync,
    ) -> Option<Vec<T>> {
        let parts: Vec<&Part> = self.parts.iter().filter(|part| part.holds == holds).collect();
        let mut found: Vec<Option<Vec<T>>> = parts.iter().map(|_| None).collect();
        let work = Mutex::new(parts.into_iter().zip(&mut found));
        on_all_processors(|| {
            let mut buffer = Vec::new();
            loop {
                let Some((part, found)) = locked(&work).next() else { break };
                *found = self.part(part, &mut buffer).and_then(|mut from| {
                    let mut items = Vec::with_capacity(BATCH);
                    while !from.0.is_empty() {
                        items.push(read(&mut from)?);
                    }
                    Some(items)
                });
            }
        });
        let mut all = Vec::with_capacity(found.len() * BATCH);
        for items in found {
            all.extend(items?);
        }
        Some(all)
    }

    /// All of it.
    pub(super) fn read(self) -> Option<Kept> {
        let records = self.records()?;
        let dirs = self.all(Holds::Dirs, |from| from.dir().map(DirItem::owned))?;
        let (groups, recipes) = self.rest()?;
        let Front { head, facts, digest, .. } = self.front;
        let facts = facts.map(|facts| Facts { dirs, ..facts });
        Some(Kept { head, facts, records, recipes, digest, groups: Some(groups) })
    }
}

/// Makes all checksums right again, for tests that change a file's bytes.
#[cfg(test)]
pub(in crate::sync) fn reseal(bytes: &mut [u8]) {
    let trailer = bytes.len() - TRAILER;
    let len = u32::from_le_bytes(bytes[trailer..trailer + 4].try_into().unwrap()) as usize;
    let front = trailer - len;
    let (parts, _) = Source(&bytes[front..trailer]).front().unwrap();
    for (number, part) in parts.iter().enumerate() {
        let end = front + MAGIC.len() + 4 + (number + 1) * 17;
        let sum = crc32fast::hash(&bytes[part.at as usize..][..part.len as usize]);
        bytes[end - 4..end].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = crc32fast::hash(&bytes[front..trailer]);
    bytes[trailer + 4..].copy_from_slice(&sum.to_le_bytes());
}
