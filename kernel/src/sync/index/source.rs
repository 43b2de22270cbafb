//! An index being read: what its bytes say, without a copy of it where that is not needed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crabbox_tree::{Chunk, Groups, Hash, is_inside};
use rustix::fs::{FileType, RawMode};

use super::file::{Holds, MAGIC, Part};
use super::record::{Record, Stat, What};
use super::refresh::Recipes;
use super::staged::Staged;
use super::walk::Dir;
use super::witness::{Place, Witness};
use super::{Facts, Front, Head, Sums};
use crate::sync::excludes::{LeftOut, Rule};

/// Bits of a record's flags.
pub(super) const TRACKED: u8 = 1;
pub(super) const COMMITTED: u8 = 2;

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

impl DirItem<'_> {
    pub(super) fn owned(self) -> Dir {
        let Self { path, stat, walked, above } = self;
        Dir { path: path.to_owned(), stat, walked, above }
    }
}

impl RecordItem<'_> {
    /// Length of what is sent of it.
    pub(super) fn sent(&self) -> Option<u64> {
        match &self.what {
            WhatItem::File(_) => Some(self.stat.size),
            WhatItem::Link(target) => Some(target.len() as u64),
            WhatItem::Nothing | WhatItem::Special => None,
        }
    }

    pub(super) fn owned(self) -> Option<Record> {
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

/// Bytes being read.
pub(super) struct Source<'a>(pub(super) &'a [u8]);

impl<'a> Source<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
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

    pub(super) fn front(&mut self) -> Option<(Vec<Part>, Front)> {
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

    pub(super) fn rest(mut self) -> Option<(Groups, Recipes)> {
        let groups = self.list(36, |f| Some((f.bytes()?.to_vec(), f.hash()?)))?;
        let recipes = self.list(36, |f| Some((f.hash()?, f.list(36, Self::chunk)?)))?;
        self.0.is_empty().then(|| (groups.into_iter().collect(), recipes.into_iter().collect()))
    }

    fn chunk(&mut self) -> Option<Chunk> {
        Some(Chunk { len: self.u32()?, sha256: self.hash()? })
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

    pub(super) fn dir(&mut self) -> Option<DirItem<'a>> {
        let (path, stat) = (self.path_here()?, self.stat()?);
        Some(DirItem { path, stat, walked: self.u8()? != 0, above: self.u32()? })
    }

    pub(super) fn record(&mut self) -> Option<RecordItem<'a>> {
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
