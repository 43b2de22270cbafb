//! The guard: lets the system tell which paths changed since they were last looked at, so that nobody has to look at all.
//!
//! It only ever saves looks. Where the system may miss something (a file system of another machine, a file with a
//! second name, too many events, a directory that moved) everything is looked at.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crabbox_tree::Manifest;
use rustix::fs::fstatfs;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::tree::dirs::Dirs;
use crate::tree::plan::has_below;

/// Most directories that are watched: the system's memory is not ours alone.
const MOST_DIRS: usize = 30_000;
/// Most events that are read in one go; more are not worth telling apart.
const MOST_EVENTS: usize = 50_000;
/// Most paths in doubt: with more, everything is looked at.
const MOST_DOUBTS: usize = 2_000;

/// File systems of this machine, which report every change: ext, XFS, Btrfs, tmpfs, overlay, ZFS, F2FS, bcachefs.
const LOCAL: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0x2fc1_2fc1,
    0xf2f5_2010,
    0xca45_1a4e,
];

/// Watches on the directories of a tree.
#[derive(Debug)]
pub(crate) struct Guard {
    inotify: OwnedFd,
    dirs: HashMap<i32, PathBuf>,
    watched: HashSet<PathBuf>,
}

/// What has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Everything.
    All,
    /// These paths.
    Paths(BTreeSet<PathBuf>),
}

impl Doubt {
    /// Doubts these paths as well.
    pub(crate) fn add(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        if let Doubt::Paths(known) = self {
            known.extend(paths);
            if known.len() > MOST_DOUBTS {
                *self = Doubt::All;
            }
        }
    }
}

impl Guard {
    /// Watches every directory that leads to an entry; `None` where that cannot be relied on.
    pub(crate) fn arm(top: &OwnedFd, manifest: &Manifest) -> Option<Self> {
        if !is_local(top) {
            return None;
        }
        let wanted = directories(manifest)?;
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
        let mut guard = Self { inotify, dirs: HashMap::new(), watched: HashSet::new() };
        let mut walk = Dirs::new(top);
        // In this order parents come first: a directory that changes before it is watched is seen by its parent.
        for dir in wanted {
            let fd = match walk.open_dir(&dir) {
                Ok(fd) => fd,
                // What is not there now shows in its parent when it comes.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(_) => return None,
            };
            let way = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let watch = inotify::add_watch(&guard.inotify, way, EVENTS).ok()?;
            guard.dirs.insert(watch, dir.clone());
            guard.watched.insert(dir);
        }
        Some(guard)
    }

    /// Whether the directories of these paths are watched.
    pub(crate) fn covers<'p>(&self, paths: impl IntoIterator<Item = &'p Path>) -> bool {
        paths.into_iter().all(|path| path.parent().is_some_and(|dir| self.watched.contains(dir)))
    }

    /// What changed since the last time.
    pub(crate) fn doubts(&self, manifest: &Manifest) -> Doubt {
        let mut doubt = Doubt::Paths(BTreeSet::new());
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        for _ in 0..MOST_EVENTS {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::WOULDBLOCK) => return doubt,
                Err(Errno::INTR) => continue,
                Err(_) => return Doubt::All,
            };
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            match (self.dirs.get(&event.wd()), name) {
                (Some(dir), Some(name)) if !event.events().intersects(WHOLE) => {
                    let path = dir.join(name);
                    if manifest.get(&path).is_some() {
                        doubt.add([path]);
                    } else if has_below(manifest, &path) {
                        doubt = Doubt::All;
                    }
                }
                _ => doubt = Doubt::All,
            }
        }
        Doubt::All
    }
}

/// What is watched for.
const EVENTS: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Events after which nothing is known of a whole directory, or of all.
const WHOLE: ReadFlags = ReadFlags::QUEUE_OVERFLOW
    .union(ReadFlags::IGNORED)
    .union(ReadFlags::UNMOUNT)
    .union(ReadFlags::DELETE_SELF)
    .union(ReadFlags::MOVE_SELF);

#[allow(clippy::unnecessary_cast, reason = "the type of this field differs between systems")]
fn is_local(top: &OwnedFd) -> bool {
    fstatfs(top).is_ok_and(|stat| LOCAL.contains(&(stat.f_type as u64)))
}

/// The directories that lead to entries, parents first; `None` when they are too many.
fn directories(manifest: &Manifest) -> Option<Vec<PathBuf>> {
    let mut all = BTreeSet::from([PathBuf::new()]);
    let mut last = Path::new("");
    for entry in manifest.entries() {
        let dir = entry.path.parent().unwrap_or(last);
        if dir != last {
            last = dir;
            all.extend(
                dir.ancestors().take_while(|d| !d.as_os_str().is_empty()).map(Path::to_owned),
            );
        }
        if all.len() > MOST_DIRS {
            return None;
        }
    }
    Some(all.into_iter().collect())
}
