//! Looks at every path again, on all processors: a stat each, and a read only where that differs.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crabbox_schemas::error::ErrorCode;
use crabbox_tree::{Chunk, Hash, WHOLE, bytes_of};
use rustix::fs::{FileType, Mode, OFlags};

use super::record::{Record, Stat, What};
use super::walk::Dir;
use crate::error::{KernelError, Result};
use crate::ports::Stop;
use crate::sync::excludes::Rule;
use crate::sync::manifest::{is_raised, read_file, unreadable};

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
    /// A wish to stop, which ends the look.
    pub(in crate::sync) stop: Option<&'a Stop>,
}

/// What may have changed.
#[derive(Default)]
pub(in crate::sync) struct Only {
    /// These paths, and what is below them.
    paths: Vec<PathBuf>,
    /// These directories, without what is below them.
    dirs: Vec<PathBuf>,
}

impl Only {
    pub(in crate::sync) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, dirs: Vec::new() }
    }

    pub(super) fn with_dirs(self, dirs: Vec<PathBuf>) -> Self {
        Self { dirs, ..self }
    }

    /// Which of some paths, sorted by their bytes, are named, or stand below one that is.
    fn covers<T>(&self, sorted: &[T], path_of: impl Fn(&T) -> &Path) -> Vec<bool> {
        let mut covered = vec![false; sorted.len()];
        let place = |path: &[u8]| sorted.partition_point(|item| bytes_of(path_of(item)) < path);
        for path in &self.paths {
            let path = bytes_of(path);
            if path.is_empty() {
                covered.fill(true);
                continue;
            }
            // What is below comes after the slash, and before the byte after the slash.
            let below = [b'/', b'/' + 1].map(|end| place(&[path, &[end]].concat()));
            covered[below[0]..below[1]].fill(true);
            let at = place(path);
            if sorted.get(at).is_some_and(|item| bytes_of(path_of(item)) == path) {
                covered[at] = true;
            }
        }
        covered
    }

    /// Which of some directories are named, stand below a name, or hold one directly.
    pub(super) fn touches(&self, sorted: &[Dir]) -> Vec<bool> {
        let mut touched = self.covers(sorted, |dir| &dir.path);
        let holders = self.paths.iter().map(|path| path.parent().unwrap_or(path));
        for dir in holders.chain(self.dirs.iter().map(PathBuf::as_path)) {
            let found = sorted.binary_search_by(|d| bytes_of(&d.path).cmp(bytes_of(dir)));
            if let Ok(at) = found {
                touched[at] = true;
            }
        }
        touched
    }
}

/// What a look found.
#[derive(Debug, Default)]
pub(in crate::sync) struct Seen {
    /// Something was learned that is worth remembering.
    pub(in crate::sync) news: bool,
    /// What is sent is no longer the same.
    pub(in crate::sync) differs: bool,
    /// The paths of which something else is sent now, or nothing any more.
    pub(in crate::sync) changed: Vec<PathBuf>,
}

impl Seen {
    pub(super) fn add(&mut self, more: Self) {
        self.news |= more.news;
        self.differs |= more.differs;
        self.changed.extend(more.changed);
    }
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
    let (mut seen, linked) = look_through(records, recipes, trust)?;
    if !linked || trust.only.is_none() {
        return Ok(seen);
    }
    // Whoever told of the new name did not tell of the old ones.
    let (more, _) = look_through(records, recipes, &Trust { only: None, ..*trust })?;
    seen.add(more);
    Ok(seen)
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
        changed: Mutex::default(),
    };
    let told = match trust.only {
        Some(only) => only.covers(records, |record| &record.path),
        None => vec![true; records.len()],
    };
    let work = Mutex::new(records.chunks_mut(BATCH).zip(told.chunks(BATCH)));
    on_all_processors(|| {
        let mut buffer = Vec::new();
        while !look.has_failed() && !is_raised(trust.stop) {
            let Some((batch, told)) = locked(&work).next() else { break };
            for (record, told) in batch.iter_mut().zip(told) {
                look.at(record, *told, &mut buffer);
            }
        }
    });
    let seen = Seen {
        news: look.news.into_inner(),
        differs: look.differs.into_inner(),
        changed: look.changed.into_inner().unwrap_or_else(PoisonError::into_inner),
    };
    let linked = look.linked.into_inner();
    if is_raised(trust.stop) {
        return Err(KernelError::new(
            ErrorCode::Cancelled,
            "interrupted while the tree was read; nothing was asked for or sent",
        ));
    }
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
    changed: Mutex<Vec<PathBuf>>,
}

impl Look<'_> {
    fn has_failed(&self) -> bool {
        locked(&self.failed).is_some()
    }

    /// Something else is sent of a path now.
    fn differs(&self, record: &Record) {
        self.differs.store(true, Ordering::Relaxed);
        locked(&self.changed).push(record.path.clone());
    }

    fn at(&self, record: &mut Record, told: bool, buffer: &mut Vec<u8>) {
        if let Err(error) = self.try_at(record, told, buffer) {
            let mut failed = locked(&self.failed);
            if failed.as_ref().is_none_or(|(path, _)| record.path < *path) {
                *failed = Some((record.path.clone(), error));
            }
        }
    }

    fn try_at(&self, record: &mut Record, told: bool, buffer: &mut Vec<u8>) -> Result<()> {
        if record.rule.is_some() && !record.tracked {
            if record.what != What::Nothing {
                (record.stat, record.what) = (Stat::default(), What::Nothing);
                self.differs(record);
            }
            return Ok(());
        }
        let racy = record.stat.is_racy(self.trust.moment);
        let stands = self.trust.real.get(record.dir as usize).copied().unwrap_or(true);
        if !told && stands && !record.is_doubtful(self.trust.moment) {
            return Ok(());
        }
        let at_path = |e: &std::io::Error| unreadable(&record.path).because(e);
        let now = Stat::at(self.top, &record.path).map_err(|e| at_path(&e))?;
        if now.shared && !record.stat.shared {
            self.linked.store(true, Ordering::Relaxed);
        }
        let wanted = record.rule.is_none() && stands;
        let kind = now.kind().filter(|_| wanted);
        if self.is_known(record, kind) && now.still(&record.stat, self.trust.moment) {
            record.looked = true;
            return Ok(());
        }
        let (stat, what) = self.describe(&record.path, now, kind, buffer)?;
        let sent = |stat: &Stat, what: &What| {
            (!matches!(what, What::Nothing)).then_some((stat.mode & 0o100, stat.size))
        };
        if what != record.what || sent(&stat, &what) != sent(&record.stat, &record.what) {
            self.differs(record);
        }
        if stat != record.stat || what != record.what || racy || !record.looked {
            self.news.store(true, Ordering::Relaxed);
        }
        (record.stat, record.what, record.looked) = (stat, what, true);
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
                let (facts, content) = read_file(&at(), path, buffer, self.trust.stop)?;
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
