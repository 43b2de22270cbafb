//! The index as a file: parts, then what stands in front of them, which knows each part's checksum; replaced in one step.
//!
//! What stands in front answers for a tree in which nothing changed. The parts hold its directories and files, some
//! hundred each, so that they can be read and looked at on all processors.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crabbox_tree::{Chunk, Groups, Hash, bytes_of, is_inside};
use rustix::fs::{CWD, FileType, RawMode, RenameFlags, renameat_with};
use tempfile::NamedTempFile;

use super::record::{Record, Stat, What};
use super::refresh::{Recipes, locked, on_all_processors};
use super::staged::Staged;
use super::walk::Dir;
use super::witness::{Place, Witness};
use super::{Facts, Front, Head, Kept, Sums};
use crate::sync::excludes::{LeftOut, Rule};

/// How a front begins; it changes with the format.
const MAGIC: &[u8; 16] = b"crabbox-index 3\n";
/// Bytes after what stands in front: its length and its checksum.
const TRAILER: usize = 8;
/// How much is read from the end at first: more than most fronts have. Bytes.
const TAIL: u64 = 32 << 10;
/// Directories or files of a part.
const BATCH: usize = 256;
/// How much is gathered before it is written. Bytes.
const HELD: usize = 1 << 16;

const TRACKED: u8 = 1;
const COMMITTED: u8 = 2;

/// An index whose front was read. Its file stays what it is: a newer index is another file.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    pub(super) front: Front,
    parts: Vec<Part>,
}

/// Where a part stands.
#[derive(Debug, Clone, Copy)]
struct Part {
    holds: Holds,
    at: u64,
    len: u32,
    sum: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
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
    (end? + (len + TRAILER) as u64 == size).then_some(Opened { file, front, parts })
}

fn read_at(file: &File, at: u64, len: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
}

/// What is in an index, without a copy of it.
pub(super) enum Item<'a> {
    Dir(DirItem<'a>),
    Record(RecordItem<'a>),
}

/// A directory as it stands in the file.
pub(super) struct DirItem<'a> {
    pub(super) path: &'a Path,
    pub(super) stat: Stat,
    walked: bool,
    above: u32,
}

/// A record as it stands in the file.
pub(super) struct RecordItem<'a> {
    pub(super) path: &'a Path,
    pub(super) stat: Stat,
    what: WhatItem<'a>,
    dir: u32,
    pub(super) tracked: bool,
    committed: bool,
    pub(super) rule: Option<Rule>,
}

enum WhatItem<'a> {
    Nothing,
    File(Hash),
    Link(&'a [u8]),
    Special,
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
        let mut from = self.part(part, &mut buffer)?;
        let groups = from.list(36, |f| Some((f.bytes()?.to_vec(), f.hash()?)))?;
        let recipes = from.list(36, recipe)?;
        from.0.is_empty().then(|| (groups.into_iter().collect(), recipes.into_iter().collect()))
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

impl DirItem<'_> {
    fn owned(self) -> Dir {
        let Self { path, stat, walked, above } = self;
        Dir { path: path.to_owned(), stat, walked, above }
    }
}

impl RecordItem<'_> {
    fn owned(self) -> Option<Record> {
        let Self { path, stat, what, dir, tracked, committed, rule } = self;
        let what = match what {
            WhatItem::Nothing => What::Nothing,
            WhatItem::File(sha256) => What::File(sha256),
            WhatItem::Link(target) => What::Link(OsString::from_vec(target.to_vec())),
            WhatItem::Special => What::Special(FileType::from_raw_mode(stat.mode as RawMode)),
        };
        let looked = tracked || rule.is_none();
        let path = is_inside(path).then(|| path.to_owned())?;
        Some(Record { path, stat, what, dir, tracked, committed, rule, looked })
    }
}

fn recipe(from: &mut Source<'_>) -> Option<(Hash, Vec<Chunk>)> {
    let content = from.hash()?;
    Some((content, from.list(36, |f| Some(Chunk { len: f.u32()?, sha256: f.hash()? }))?))
}

/// Bytes being read.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    fn hash(&mut self) -> Option<Hash> {
        self.take()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn path(&mut self) -> Option<PathBuf> {
        self.path_here().map(Path::to_owned)
    }

    fn path_here(&mut self) -> Option<&'a Path> {
        self.bytes().map(|bytes| Path::new(OsStr::from_bytes(bytes)))
    }

    fn front(&mut self) -> Option<(Vec<Part>, Front)> {
        self.take().filter(|magic| magic == MAGIC)?;
        let parts = self.list(17, Self::one_part)?;
        let head = Head {
            dir: self.path()?,
            moment: self.i64()?,
            surroundings: self.hash()?,
            rules: self.hash()?,
            token: self.option(|f| String::from_utf8(f.bytes()?.to_vec()).ok())?,
        };
        let facts = self.option(Self::facts)?;
        let digest = self.hash()?;
        let sums = self.sums()?;
        self.0.is_empty().then_some((parts, Front { head, facts, digest, sums }))
    }

    fn one_part(&mut self) -> Option<Part> {
        let holds = match self.u8()? {
            0 => Holds::Dirs,
            1 => Holds::Records,
            2 => Holds::Rest,
            _ => return None,
        };
        Some(Part { holds, at: self.u64()?, len: self.u32()?, sum: self.u32()? })
    }

    fn sums(&mut self) -> Option<Sums> {
        Some(Sums {
            files: self.u64()?,
            bytes: self.u64()?,
            gone: self.u64()?,
            left_out: LeftOut {
                default: self.u64()?,
                config: self.u64()?,
                ignore_file: self.u64()?,
                tracked: self.u64()?,
                repositories: 0,
            },
            notes: self.list(4, |f| String::from_utf8(f.bytes()?.to_vec()).ok())?,
            doubtful: self.u8()? != 0,
        })
    }

    fn facts(&mut self) -> Option<Facts> {
        Some(Facts {
            place: Place { root: self.path()?, own: self.path()?, shared: self.path()? },
            witnesses: self.list(42, |f| {
                Some(Witness { path: f.path()?, stat: f.stat()?, same: f.u8()? != 0 })
            })?,
            excludes: self.option(Source::path)?,
            index: self.stat()?,
            head: self.bytes()?.to_vec(),
            staged: Staged { deletions: self.list(4, Source::path)?, lacks: self.u8()? != 0 },
            dirs: Vec::new(),
        })
    }

    fn dir(&mut self) -> Option<DirItem<'a>> {
        let (path, stat) = (self.path_here()?, self.stat()?);
        Some(DirItem { path, stat, walked: self.u8()? != 0, above: self.u32()? })
    }

    fn record(&mut self) -> Option<RecordItem<'a>> {
        let (path, stat) = (self.path_here()?, self.stat()?);
        let what = match self.u8()? {
            0 => WhatItem::Nothing,
            1 => WhatItem::File(self.hash()?),
            2 => WhatItem::Link(self.bytes()?),
            3 => WhatItem::Special,
            _ => return None,
        };
        let (dir, flags) = (self.u32()?, self.u8()?);
        let rule = match self.u8()? {
            0 => None,
            1 => Some(Rule::Default),
            2 => Some(Rule::Config),
            3 => Some(Rule::IgnoreFile),
            _ => return None,
        };
        let (tracked, committed) = (flags & TRACKED != 0, flags & COMMITTED != 0);
        Some(RecordItem { path, stat, what, dir, tracked, committed, rule })
    }

    fn stat(&mut self) -> Option<Stat> {
        let (size, mtime, ctime) = (self.u64()?, self.i64()?, self.i64()?);
        let (ino, mode) = (self.u64()?, self.u32()?);
        Some(Stat { size, mtime, ctime, ino, mode, shared: self.u8()? != 0 })
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    /// A list whose items take at least `least` bytes each.
    fn list<T>(
        &mut self,
        least: usize,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.u32()? as usize;
        if count > self.0.len() / least {
            return None;
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(read(self)?);
        }
        Some(items)
    }
}

/// Writes an index. Not forced to the disk: what a crash spoils fails its checksum and is made again.
pub(super) fn write(
    folder: &Path,
    path: &Path,
    front: &Front,
    records: &[Record],
    rest: (&Groups, &Recipes),
) -> std::io::Result<()> {
    let file = tempfile::Builder::new().prefix(crate::state::HALF_WRITTEN).tempfile_in(folder)?;
    let mut sink = Sink { file, held: Vec::new(), poured: 0, parts: Vec::new() };
    for dirs in front.facts.iter().flat_map(|facts| facts.dirs.chunks(BATCH)) {
        sink.part(Holds::Dirs, |to| dirs.iter().try_for_each(|dir| to.dir(dir)))?;
    }
    for records in records.chunks(BATCH) {
        sink.part(Holds::Records, |to| records.iter().try_for_each(|record| to.record(record)))?;
    }
    sink.part(Holds::Rest, |to| to.rest(rest.0, rest.1))?;
    sink.front(front)?;
    let file = sink.pour()?;
    // Two names trade places: file systems flush a file that replaces another, which costs more than
    // all else here. What the temporary name removes afterwards is the old index.
    if renameat_with(CWD, file.path(), CWD, path, RenameFlags::EXCHANGE).is_err() {
        file.persist(path).map_err(|e| e.error)?;
    }
    Ok(())
}

/// Bytes on their way to the file.
struct Sink {
    file: NamedTempFile,
    held: Vec<u8>,
    poured: u64,
    parts: Vec<Part>,
}

impl Sink {
    /// Writes a part and notes where it stands.
    fn part(
        &mut self,
        holds: Holds,
        write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let begin = self.held.len();
        write(&mut self.held)?;
        let (at, bytes) = (self.poured + begin as u64, &self.held[begin..]);
        let len = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
        self.parts.push(Part { holds, at, len, sum: crc32fast::hash(bytes) });
        if self.held.len() >= HELD {
            self.file.write_all(&self.held)?;
            self.poured += self.held.len() as u64;
            self.held.clear();
        }
        Ok(())
    }

    fn front(&mut self, front: &Front) -> std::io::Result<()> {
        let begin = self.held.len();
        let (to, Front { head, facts, digest, sums }) = (&mut self.held, front);
        to.put(MAGIC)?;
        to.list(&self.parts, |to, part| {
            to.put(&[part.holds as u8])?;
            to.put(&part.at.to_le_bytes())?;
            to.put(&part.len.to_le_bytes())?;
            to.put(&part.sum.to_le_bytes())
        })?;
        to.path(&head.dir)?;
        to.put(&head.moment.to_le_bytes())?;
        to.put(&head.surroundings)?;
        to.put(&head.rules)?;
        to.option(head.token.as_deref(), |to, token| to.bytes(token.as_bytes()))?;
        to.option(facts.as_ref(), Put::facts)?;
        to.put(digest)?;
        to.sums(sums)?;
        let len = u32::try_from(to.len() - begin).map_err(std::io::Error::other)?;
        let sum = crc32fast::hash(&to[begin..]);
        to.put(&len.to_le_bytes())?;
        to.put(&sum.to_le_bytes())
    }

    fn pour(mut self) -> std::io::Result<NamedTempFile> {
        self.file.write_all(&self.held)?;
        Ok(self.file)
    }
}

/// How things are written.
trait Put: Sized {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()>;

    fn length(&mut self, len: usize) -> std::io::Result<()> {
        let len = u32::try_from(len).map_err(std::io::Error::other)?;
        self.put(&len.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.length(bytes.len())?;
        self.put(bytes)
    }

    fn path(&mut self, path: &Path) -> std::io::Result<()> {
        self.bytes(bytes_of(path))
    }

    fn stat(&mut self, stat: &Stat) -> std::io::Result<()> {
        let mut bytes = [0; 37];
        bytes[..8].copy_from_slice(&stat.size.to_le_bytes());
        bytes[8..16].copy_from_slice(&stat.mtime.to_le_bytes());
        bytes[16..24].copy_from_slice(&stat.ctime.to_le_bytes());
        bytes[24..32].copy_from_slice(&stat.ino.to_le_bytes());
        bytes[32..36].copy_from_slice(&stat.mode.to_le_bytes());
        bytes[36] = u8::from(stat.shared);
        self.put(&bytes)
    }

    fn option<T>(
        &mut self,
        value: Option<T>,
        write: impl FnOnce(&mut Self, T) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.put(&[u8::from(value.is_some())])?;
        value.map_or(Ok(()), |value| write(self, value))
    }

    fn list<T>(
        &mut self,
        items: &[T],
        mut write: impl FnMut(&mut Self, &T) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.length(items.len())?;
        items.iter().try_for_each(|item| write(self, item))
    }

    fn facts(&mut self, facts: &Facts) -> std::io::Result<()> {
        self.path(&facts.place.root)?;
        self.path(&facts.place.own)?;
        self.path(&facts.place.shared)?;
        self.list(&facts.witnesses, |to, witness| {
            to.path(&witness.path)?;
            to.stat(&witness.stat)?;
            to.put(&[u8::from(witness.same)])
        })?;
        self.option(facts.excludes.as_deref(), Self::path)?;
        self.stat(&facts.index)?;
        self.bytes(&facts.head)?;
        self.list(&facts.staged.deletions, |to, path| to.path(path))?;
        self.put(&[u8::from(facts.staged.lacks)])
    }

    fn sums(&mut self, sums: &Sums) -> std::io::Result<()> {
        let Sums { files, bytes, gone, left_out, notes, doubtful } = sums;
        let LeftOut { default, config, ignore_file, tracked, .. } = left_out;
        for count in [files, bytes, gone, default, config, ignore_file, tracked] {
            self.put(&count.to_le_bytes())?;
        }
        self.list(notes, |to, note| to.bytes(note.as_bytes()))?;
        self.put(&[u8::from(*doubtful)])
    }

    fn rest(&mut self, groups: &Groups, recipes: &Recipes) -> std::io::Result<()> {
        self.length(groups.iter().len())?;
        for (from, hash) in groups.iter() {
            self.bytes(from)?;
            self.put(hash)?;
        }
        let recipes: Vec<_> = recipes.iter().collect();
        self.list(&recipes, |to, (content, chunks)| {
            to.put(*content)?;
            to.list(chunks, |to, chunk| {
                to.put(&chunk.len.to_le_bytes())?;
                to.put(&chunk.sha256)
            })
        })
    }

    fn dir(&mut self, dir: &Dir) -> std::io::Result<()> {
        self.path(&dir.path)?;
        self.stat(&dir.stat)?;
        self.put(&[u8::from(dir.walked)])?;
        self.put(&dir.above.to_le_bytes())
    }

    fn record(&mut self, record: &Record) -> std::io::Result<()> {
        self.path(&record.path)?;
        self.stat(&record.stat)?;
        match &record.what {
            What::Nothing => self.put(&[0])?,
            What::File(sha256) => {
                self.put(&[1])?;
                self.put(sha256)?;
            }
            What::Link(target) => {
                self.put(&[2])?;
                self.bytes(target.as_bytes())?;
            }
            What::Special(_) => self.put(&[3])?,
        }
        let flags =
            if record.tracked { TRACKED } else { 0 } | if record.committed { COMMITTED } else { 0 };
        let rule = match record.rule {
            None => 0,
            Some(Rule::Default) => 1,
            Some(Rule::Config) => 2,
            Some(Rule::IgnoreFile) => 3,
        };
        self.put(&record.dir.to_le_bytes())?;
        self.put(&[flags, rule])
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
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
