//! The index as a file: flat, sorted, ended by a checksum, replaced in one step.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crabbox_tree::{Chunk, Hash, bytes_of, is_inside};
use rustix::fs::{CWD, FileType, RawMode, RenameFlags, renameat_with};
use tempfile::NamedTempFile;

use super::record::{Record, Stat, What};
use super::refresh::{Recipes, locked, on_all_processors};
use super::staged::Staged;
use super::walk::Dir;
use super::witness::{Place, Witness};
use super::{Facts, Head, Kept};
use crate::sync::excludes::Rule;

/// First bytes; they change with the format.
const MAGIC: &[u8; 16] = b"crabbox-index 2\n";
/// Bytes of a record besides its path and what it holds.
const RECORD: usize = 48;
/// Bytes of the checksum.
const SUM: usize = 4;
/// Records that are read together.
const BATCH: usize = 1024;
/// How much is gathered before it is written. Bytes.
const HELD: usize = 1 << 16;

const TRACKED: u8 = 1;
const COMMITTED: u8 = 2;

/// Reads an index; `None` when it is damaged, of another version, or not there.
pub(super) fn read(path: &Path) -> Option<Kept> {
    let bytes = std::fs::read(path).ok()?;
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
    if !body.starts_with(MAGIC) || crc32fast::hash(body).to_le_bytes() != sum {
        return None;
    }
    kept(&mut Source(&body[MAGIC.len()..]))
}

fn kept(from: &mut Source<'_>) -> Option<Kept> {
    let head = Head {
        dir: from.path()?,
        moment: from.i64()?,
        surroundings: from.hash()?,
        rules: from.hash()?,
        token: from.option(|f| String::from_utf8(f.bytes()?.to_vec()).ok())?,
    };
    let facts = from.option(facts)?;
    let records = records(from)?;
    let recipes: Vec<_> = from.list(36, recipe)?;
    let digest = from.hash()?;
    from.0.is_empty().then_some(())?;
    Some(Kept { head, facts, records, recipes: recipes.into_iter().collect(), digest })
}

fn facts(from: &mut Source<'_>) -> Option<Facts> {
    Some(Facts {
        place: Place { root: from.path()?, own: from.path()?, shared: from.path()? },
        witnesses: from.list(42, witness)?,
        excludes: from.option(Source::path)?,
        index: from.stat()?,
        head: from.bytes()?.to_vec(),
        staged: Staged { deletions: from.list(4, Source::path)?, lacks: from.u8()? != 0 },
        dirs: from.list(46, |f| {
            let (path, stat) = (f.path()?, f.stat()?);
            Some(Dir { path, stat, walked: f.u8()? != 0, above: f.u32()? })
        })?,
    })
}

fn witness(from: &mut Source<'_>) -> Option<Witness> {
    Some(Witness { path: from.path()?, stat: from.stat()?, same: from.u8()? != 0 })
}

/// Records stand in batches, each with its length before it, and are read on all processors.
fn records(from: &mut Source<'_>) -> Option<Vec<Record>> {
    let count = from.u32()? as usize;
    let batches = from.list(4, Source::bytes)?;
    let most: usize = batches.iter().map(|batch| batch.len() / RECORD).sum();
    if count > most || batches.len() != count.div_ceil(BATCH) {
        return None;
    }
    let mut records = vec![Record::default(); count];
    let damaged = AtomicBool::new(false);
    let work = Mutex::new(batches.into_iter().zip(records.chunks_mut(BATCH)));
    on_all_processors(|| {
        while let Some((bytes, batch)) = locked(&work).next() {
            let mut from = Source(bytes);
            let whole = batch.iter_mut().all(|slot| {
                let read = record(&mut from);
                read.map(|record| *slot = record).is_some()
            });
            damaged.fetch_or(!whole || !from.0.is_empty(), Ordering::Relaxed);
        }
    });
    (!damaged.into_inner()).then_some(records)
}

fn record(from: &mut Source<'_>) -> Option<Record> {
    let path = from.path().filter(|path| is_inside(path))?;
    let stat = from.stat()?;
    let what = match from.u8()? {
        0 => What::Nothing,
        1 => What::File(from.hash()?),
        2 => What::Link(OsString::from_vec(from.bytes()?.to_vec())),
        3 => What::Special(FileType::from_raw_mode(stat.mode as RawMode)),
        _ => return None,
    };
    let dir = from.u32()?;
    let flags = from.u8()?;
    let rule = match from.u8()? {
        0 => None,
        1 => Some(Rule::Default),
        2 => Some(Rule::Config),
        3 => Some(Rule::IgnoreFile),
        _ => return None,
    };
    let (tracked, committed) = (flags & TRACKED != 0, flags & COMMITTED != 0);
    Some(Record { path, stat, what, dir, tracked, committed, rule })
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
        self.bytes().map(|bytes| PathBuf::from(OsString::from_vec(bytes.to_vec())))
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

/// An index being written: everything but what the manifest's digest adds is on its way to the disk.
pub(super) struct Draft(Sink);

impl Draft {
    /// Writes into a file beside `path`.
    pub(super) fn begin(folder: &Path) -> std::io::Result<Self> {
        let file =
            tempfile::Builder::new().prefix(crate::state::HALF_WRITTEN).tempfile_in(folder)?;
        let mut sink = Sink { file, held: Vec::new(), sum: crc32fast::Hasher::new() };
        sink.put(MAGIC)?;
        Ok(Self(sink))
    }

    pub(super) fn write(
        &mut self,
        head: &Head,
        facts: Option<&Facts>,
        records: &[Record],
        recipes: &Recipes,
    ) -> std::io::Result<()> {
        let to = &mut self.0;
        to.path(&head.dir)?;
        to.put(&head.moment.to_le_bytes())?;
        to.put(&head.surroundings)?;
        to.put(&head.rules)?;
        to.option(head.token.as_deref(), |to, token| to.bytes(token.as_bytes()))?;
        to.option(facts, Sink::facts)?;
        to.records(records)?;
        let recipes: Vec<_> = recipes.iter().collect();
        to.list(&recipes, |to, (content, chunks)| {
            to.put(*content)?;
            to.list(chunks, |to, chunk| {
                to.put(&chunk.len.to_le_bytes())?;
                to.put(&chunk.sha256)
            })
        })
    }

    /// Adds the digest and puts the file in its place. Not forced to the disk: what a crash spoils fails
    /// its checksum and is made again.
    pub(super) fn finish(mut self, digest: &Hash, path: &Path) -> std::io::Result<()> {
        self.0.put(digest)?;
        self.0.pour()?;
        let Sink { mut file, sum, .. } = self.0;
        file.write_all(&sum.finalize().to_le_bytes())?;
        // Two names trade places: file systems flush a file that replaces another, which costs more than
        // all else here. What the temporary name removes afterwards is the old index.
        if renameat_with(CWD, file.path(), CWD, path, RenameFlags::EXCHANGE).is_err() {
            file.persist(path).map_err(|e| e.error)?;
        }
        Ok(())
    }
}

/// Bytes of a record in the file.
fn length_of(record: &Record) -> usize {
    let what = match &record.what {
        What::Nothing | What::Special(_) => 0,
        What::File(sha256) => sha256.len(),
        What::Link(target) => 4 + target.len(),
    };
    RECORD + bytes_of(&record.path).len() + what
}

struct Sink {
    file: NamedTempFile,
    held: Vec<u8>,
    sum: crc32fast::Hasher,
}

impl Sink {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.held.extend_from_slice(bytes);
        if self.held.len() < HELD { Ok(()) } else { self.pour() }
    }

    fn pour(&mut self) -> std::io::Result<()> {
        self.sum.update(&self.held);
        self.file.write_all(&self.held)?;
        self.held.clear();
        Ok(())
    }

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
        self.put(&[u8::from(facts.staged.lacks)])?;
        self.list(&facts.dirs, |to, dir| {
            to.path(&dir.path)?;
            to.stat(&dir.stat)?;
            to.put(&[u8::from(dir.walked)])?;
            to.put(&dir.above.to_le_bytes())
        })
    }

    fn records(&mut self, records: &[Record]) -> std::io::Result<()> {
        self.length(records.len())?;
        self.length(records.len().div_ceil(BATCH))?;
        for batch in records.chunks(BATCH) {
            self.length(batch.iter().map(length_of).sum())?;
            batch.iter().try_for_each(|record| self.record(record))?;
        }
        Ok(())
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
