//! An index being written.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crabbox_tree::{Groups, bytes_of};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::NamedTempFile;

use super::file::{BATCH, Holds, MAGIC, Part};
use super::record::{Record, Stat, What};
use super::refresh::Recipes;
use super::source::{COMMITTED, TRACKED};
use super::walk::Dir;
use super::{Facts, Front, Sums};
use crate::sync::excludes::{LeftOut, Rule};

/// How much is gathered before it is written. Bytes.
const HELD: usize = 1 << 16;

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
