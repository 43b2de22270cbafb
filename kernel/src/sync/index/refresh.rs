//! Looks at every path again, on all processors: a stat each, and a read only where that differs.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crabbox_tree::{Chunk, Hash, WHOLE};
use rustix::fs::{FileType, Mode, OFlags};

use super::record::{Record, Stat, What};
use crate::error::{KernelError, Result};
use crate::sync::excludes::Rule;
use crate::sync::manifest::{read_file, unreadable};

/// How many paths a thread takes at once.
const BATCH: usize = 64;
/// Most threads that look at files.
const MAX_THREADS: usize = 16;

/// How large contents are cut, by their hash.
pub(in crate::sync) type Recipes = HashMap<Hash, Vec<Chunk>>;

/// What is believed without a read.
pub(in crate::sync) struct Trust<'a> {
    /// The directory the paths are below.
    pub(in crate::sync) root: &'a Path,
    /// What changed at this moment or later is read again, whatever its stat. Nanoseconds.
    pub(in crate::sync) moment: i64,
    /// Whether each remembered directory is one still; empty when none is remembered.
    pub(in crate::sync) real: &'a [bool],
    /// The only paths worth a look.
    pub(in crate::sync) only: Option<&'a Only>,
}

/// Paths of which one, or one below it, may have changed.
pub(in crate::sync) struct Only(Vec<PathBuf>);

impl Only {
    pub(in crate::sync) fn new(mut paths: Vec<PathBuf>) -> Self {
        paths.sort();
        Self(paths)
    }

    /// Whether a path is named, or stands below one that is.
    pub(in crate::sync) fn covers(&self, path: &Path) -> bool {
        !self.0.is_empty()
            && path.ancestors().any(|at| self.0.binary_search_by(|p| p.as_path().cmp(at)).is_ok())
    }

    /// Whether a directory may hold something that is named, or is named.
    pub(in crate::sync) fn touches(&self, dir: &Path) -> bool {
        self.covers(dir) || self.0.iter().any(|p| p.parent() == Some(dir))
    }
}

/// What a look found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::sync) struct Seen {
    /// Something was learned that is worth remembering.
    pub(in crate::sync) news: bool,
    /// What is sent is no longer the same.
    pub(in crate::sync) differs: bool,
}

/// Opens a directory for looks below it.
pub(in crate::sync) fn open_top(root: &Path) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty()).map_err(|e| unreadable(root).because(&e))
}

/// Brings records up to date, and `recipes` with them.
pub(in crate::sync) fn refresh(
    records: &mut [Record],
    recipes: &mut Recipes,
    trust: &Trust<'_>,
) -> Result<Seen> {
    let (seen, linked) = look_through(records, recipes, trust)?;
    if !linked || trust.only.is_none() {
        return Ok(seen);
    }
    // Whoever told of the new name did not tell of the old ones.
    let (more, _) = look_through(records, recipes, &Trust { only: None, ..*trust })?;
    Ok(Seen { news: seen.news || more.news, differs: seen.differs || more.differs })
}

/// Looks at records once; also says whether a file among them has further names that it had not.
fn look_through(
    records: &mut [Record],
    recipes: &mut Recipes,
    trust: &Trust<'_>,
) -> Result<(Seen, bool)> {
    let top = open_top(trust.root)?;
    let look = Look {
        trust,
        top: top.as_fd(),
        known: recipes,
        cut: Mutex::default(),
        failed: Mutex::default(),
        news: AtomicBool::new(false),
        differs: AtomicBool::new(false),
        linked: AtomicBool::new(false),
    };
    let work = Mutex::new(records.chunks_mut(BATCH));
    on_all_processors(|| {
        let mut buffer = Vec::new();
        while !look.has_failed() {
            let Some(batch) = locked(&work).next() else { break };
            for record in batch {
                look.at(record, &mut buffer);
            }
        }
    });
    let seen = Seen { news: look.news.into_inner(), differs: look.differs.into_inner() };
    let linked = look.linked.into_inner();
    if let Some((_, error)) = look.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let cut = look.cut.into_inner().unwrap_or_else(PoisonError::into_inner);
    recipes.extend(cut);
    Ok((seen, linked))
}

/// The stats of directories; `None` when one cannot be told.
pub(in crate::sync) fn stats<'p, P>(root: &Path, paths: &'p [P]) -> Option<Vec<Stat>>
where
    P: AsRef<Path> + Sync + 'p,
{
    let top = open_top(root).ok()?;
    let mut stats = vec![Stat::default(); paths.len()];
    let blind = AtomicBool::new(false);
    let work = Mutex::new(paths.chunks(BATCH).zip(stats.chunks_mut(BATCH)));
    on_all_processors(|| {
        loop {
            let Some((paths, stats)) = locked(&work).next() else { break };
            for (path, stat) in paths.iter().zip(stats) {
                match Stat::at(top.as_fd(), path.as_ref()) {
                    Ok(now) => *stat = now,
                    Err(_) => blind.store(true, Ordering::Relaxed),
                }
            }
        }
    });
    (!blind.into_inner()).then_some(stats)
}

/// Does the same work on several threads at once.
pub(super) fn on_all_processors(work: impl Fn() + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(&work);
        }
        work();
    });
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Look<'a> {
    trust: &'a Trust<'a>,
    top: BorrowedFd<'a>,
    known: &'a Recipes,
    cut: Mutex<Recipes>,
    /// The first failure in the order of paths, so that it is the same one every time.
    failed: Mutex<Option<(PathBuf, KernelError)>>,
    news: AtomicBool,
    differs: AtomicBool,
    linked: AtomicBool,
}

impl Look<'_> {
    fn has_failed(&self) -> bool {
        locked(&self.failed).is_some()
    }

    fn at(&self, record: &mut Record, buffer: &mut Vec<u8>) {
        if let Err(error) = self.try_at(record, buffer) {
            let mut failed = locked(&self.failed);
            if failed.as_ref().is_none_or(|(path, _)| record.path < *path) {
                *failed = Some((record.path.clone(), error));
            }
        }
    }

    fn try_at(&self, record: &mut Record, buffer: &mut Vec<u8>) -> Result<()> {
        if record.rule.is_some() && !record.tracked {
            if record.what != What::Nothing {
                (record.stat, record.what) = (Stat::default(), What::Nothing);
                self.differs.store(true, Ordering::Relaxed);
            }
            return Ok(());
        }
        let racy = record.stat.is_racy(self.trust.moment);
        // A path that only git spoke of was never looked at, and a shared file changes unheard.
        let heard = !racy && record.stat != Stat::default() && !record.stat.shared;
        if heard && self.trust.only.is_some_and(|only| !only.covers(&record.path)) {
            return Ok(());
        }
        let at_path = |e: &std::io::Error| unreadable(&record.path).because(e);
        let now = Stat::at(self.top, &record.path).map_err(|e| at_path(&e))?;
        if now.shared && !record.stat.shared {
            self.linked.store(true, Ordering::Relaxed);
        }
        let stands = self.trust.real.get(record.dir as usize).copied().unwrap_or(true);
        let wanted = record.rule.is_none() && stands;
        let kind = now.kind().filter(|_| wanted);
        if self.is_known(record, kind) && now.still(&record.stat, self.trust.moment) {
            return Ok(());
        }
        let (stat, what) = self.describe(&record.path, now, kind, buffer)?;
        let sent = |stat: &Stat, what: &What| {
            (!matches!(what, What::Nothing)).then_some((stat.mode & 0o100, stat.size))
        };
        if what != record.what || sent(&stat, &what) != sent(&record.stat, &record.what) {
            self.differs.store(true, Ordering::Relaxed);
        }
        if stat != record.stat || what != record.what || racy {
            self.news.store(true, Ordering::Relaxed);
        }
        (record.stat, record.what) = (stat, what);
        Ok(())
    }

    /// Whether what is remembered fits what stands there and lacks nothing.
    fn is_known(&self, record: &Record, kind: Option<FileType>) -> bool {
        match (&record.what, kind) {
            (What::File(sha256), Some(FileType::RegularFile)) => {
                record.stat.size <= WHOLE || self.known.contains_key(sha256)
            }
            (What::Link(_), Some(FileType::Symlink))
            | (What::Nothing, None | Some(FileType::Directory)) => true,
            (What::Special(was), Some(is)) => *was == is,
            _ => false,
        }
    }

    fn describe(
        &self,
        path: &Path,
        now: Stat,
        kind: Option<FileType>,
        buffer: &mut Vec<u8>,
    ) -> Result<(Stat, What)> {
        let at = || self.trust.root.join(path);
        match kind {
            None | Some(FileType::Directory) => Ok((now, What::Nothing)),
            Some(FileType::Symlink) => {
                let target = std::fs::read_link(at()).map_err(|e| unreadable(path).because(&e))?;
                Ok((now, What::Link(target.into_os_string())))
            }
            Some(FileType::RegularFile) => {
                let (facts, content) = read_file(&at(), path, buffer)?;
                if content.size > WHOLE {
                    locked(&self.cut).insert(content.sha256, content.chunks);
                }
                Ok((Stat::of(&facts), What::File(content.sha256)))
            }
            Some(other) => Ok((now, What::Special(other))),
        }
    }
}

/// What counts as left out is not read, but a tracked path still counts as there or gone.
pub(in crate::sync) fn is_gone(record: &Record) -> bool {
    record.tracked && record.stat.mode == 0
}

/// Whether a rule leaves a record out where it stands.
pub(in crate::sync) fn left_out(record: &Record, real: &[bool]) -> Option<(Rule, bool)> {
    let stands = real.get(record.dir as usize).copied().unwrap_or(true);
    record.rule.filter(|_| stands).map(|rule| (rule, record.tracked))
}
