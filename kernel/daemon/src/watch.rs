//! What changed below a folder, told by the kernel: every change after a token was given out is told to whoever
//! asks with it, or nothing is told at all.
//!
//! A change that makes no event is not seen: one from another machine (network file systems are refused), one
//! through another name of the file (the index looks at every file that has several; one it gets outside the
//! tree makes no event either), and one through a mapping of a file until that is closed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_kernel::lease::acquire::random;
use crabbox_kernel::sync::git_dir;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::net::unix::pipe::Receiver;

/// Most folders that are watched; each costs about 1 KiB of the system's memory.
const FOLDERS: usize = 100_000;
/// Where git keeps its data.
const GIT: &str = ".git";
/// Most changed paths that are remembered one by one.
const PATHS: usize = 20_000;

/// File systems that tell of every change made on this machine, by their magic numbers.
const HONEST: &[u64] = &[
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683E, // btrfs
    0x0102_1994, // tmpfs
    0x794C_7630, // overlayfs
    0x2FC1_2FC1, // zfs
    0xF2F5_2010, // f2fs
    0xCA45_1A4E, // bcachefs
];

/// Watches a folder and all below it. Of its `.git` only the index is watched: with it what is tracked may change.
#[derive(Debug)]
pub struct Watcher {
    fd: Arc<OwnedFd>,
    root: PathBuf,
    device: u64,
    /// Names of folders that are not looked into, and said to be changed always.
    blind: &'static [&'static str],
    /// Tells this watcher's tokens from those of others.
    name: String,
    folders: HashMap<i32, PathBuf>,
    unseen: BTreeSet<PathBuf>,
    /// When each path changed last.
    changed: BTreeMap<PathBuf, u64>,
    now: u64,
    /// What was before this is forgotten.
    floor: u64,
    lost: bool,
}

impl Watcher {
    /// Begins to watch. Folders called as in `blind` are always said to be changed. Takes 5 µs a folder.
    pub fn begin(root: &Path, blind: &'static [&'static str]) -> io::Result<Self> {
        let facts = rustix::fs::statfs(root)?;
        let kind = u64::try_from(facts.f_type).unwrap_or_default();
        if !HONEST.contains(&kind) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut watcher = Self {
            fd: Arc::new(inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?),
            root: root.to_owned(),
            device: root.metadata()?.dev(),
            blind,
            name: unique()?,
            folders: HashMap::new(),
            unseen: BTreeSet::new(),
            changed: BTreeMap::new(),
            now: 1,
            floor: 0,
            lost: false,
        };
        watcher.enter(PathBuf::new())?;
        // In a linked work tree it is elsewhere.
        if let Some(git) = git_dir(root) {
            watcher.watch_git(&git);
        }
        Ok(watcher)
    }

    /// Stands for this moment: what changes from now on is told by [`Watcher::since`] with it. `None` when this
    /// watcher is of no more use.
    pub fn token(&mut self) -> Option<String> {
        self.catch_up();
        let token = format!("{}.{}", self.name, self.now);
        self.now += 1;
        (!self.lost).then_some(token)
    }

    /// What changed after a token was given out and before the last one was, relative to the root; a folder
    /// stands for all below it. `None` when that is not known.
    pub fn since(&self, token: &str) -> Option<Vec<PathBuf>> {
        let (name, then) = token.rsplit_once('.')?;
        let then: u64 = then.parse().ok()?;
        if name != self.name || then < self.floor || self.lost {
            return None;
        }
        let told = self.changed.iter().filter(|(_, at)| **at > then).map(|(path, _)| path);
        Some(told.chain(&self.unseen).cloned().collect())
    }

    /// Takes what the system has to tell. True when there was something, or nothing can be told any more.
    pub fn catch_up(&mut self) -> bool {
        let fd = Arc::clone(&self.fd);
        let mut buffer = Vec::with_capacity(64 << 10);
        let mut reader = inotify::Reader::new(&*fd, buffer.spare_capacity_mut());
        let mut some = false;
        while !self.lost {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    some |= self.hear(event.wd(), event.events(), name);
                }
                Err(Errno::WOULDBLOCK) => return some,
                Err(Errno::INTR) => {}
                Err(_) => self.lost = true,
            }
        }
        true
    }

    /// Ends when the system has something to tell.
    pub fn news(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let fd = self.fd.try_clone();
        // Readable as a pipe is, whatever it is.
        async move { Receiver::from_owned_fd_unchecked(fd?)?.readable().await }
    }

    /// Whether it is of no more use.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// How many folders it watches.
    pub fn folders(&self) -> usize {
        self.folders.len()
    }

    /// One event; whether it is about anything that is watched.
    fn hear(&mut self, wd: i32, what: ReadFlags, name: Option<&OsStr>) -> bool {
        if what.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT) {
            self.lost = true;
        }
        let Some(folder) = self.folders.get(&wd).cloned() else { return self.lost };
        if folder == Path::new(GIT) && !what.contains(ReadFlags::IGNORED) {
            // Whoever asks looks at the index anyway.
            return name.is_some_and(|name| name == "index");
        }
        let is_root = folder.as_os_str().is_empty();
        if what.contains(ReadFlags::IGNORED) {
            self.folders.remove(&wd);
            self.lost |= is_root;
            return true;
        }
        self.lost |= is_root && what.intersects(ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF);
        let Some(name) = name else {
            // Of the folder itself; its parent tells the rest.
            self.mark(folder);
            return true;
        };
        let path = folder.join(name);
        if what.contains(ReadFlags::ISDIR) {
            if what.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
                self.leave(&path);
            }
            if what.intersects(ReadFlags::MOVED_TO | ReadFlags::CREATE) {
                let entered = self.enter(path.clone());
                self.lost |= entered.is_err();
            }
        }
        self.mark(path);
        true
    }

    fn mark(&mut self, path: PathBuf) {
        self.changed.insert(path, self.now);
        if self.changed.len() > PATHS {
            self.changed.clear();
            self.floor = self.now;
        }
    }

    /// Watches a folder and those below it. Each is watched before it is read, so that none is missed.
    fn enter(&mut self, top: PathBuf) -> io::Result<()> {
        let mut todo = vec![top];
        while let Some(folder) = todo.pop() {
            let at = self.root.join(&folder);
            let blind =
                folder.file_name().is_some_and(|name| self.blind.iter().any(|b| name == *b));
            if folder == Path::new(GIT) {
                self.watch_git(&at);
                continue;
            }
            if blind || at.symlink_metadata().is_ok_and(|facts| facts.dev() != self.device) {
                self.unseen.insert(folder);
                continue;
            }
            if self.folders.len() >= FOLDERS {
                return Err(io::ErrorKind::StorageFull.into());
            }
            match inotify::add_watch(&self.fd, &at, watched()) {
                Ok(wd) => drop(self.folders.insert(wd, folder.clone())),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error.into()),
            }
            let entries = match at.read_dir() {
                Ok(entries) => entries,
                // It went between the two looks, which the watch on its parent tells.
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    todo.push(folder.join(entry.file_name()));
                }
            }
        }
        Ok(())
    }

    /// Watches the folder of git's index. Whether it is watched or not, nothing that is told depends on it.
    fn watch_git(&mut self, at: &Path) {
        if let Ok(wd) = inotify::add_watch(&self.fd, at, watched()) {
            self.folders.insert(wd, GIT.into());
        }
    }

    /// Forgets a folder that is not there any more, and those below it.
    fn leave(&mut self, top: &Path) {
        self.unseen.retain(|folder| !folder.starts_with(top));
        let fd = &self.fd;
        self.folders.retain(|wd, folder| {
            let stays = !folder.starts_with(top);
            if !stays {
                // Gone by itself when the folder was removed.
                let _ = inotify::remove_watch(fd, *wd);
            }
            stays
        });
    }
}

/// Never twice, also not on another day.
fn unique() -> io::Result<String> {
    let bytes = random().map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn watched() -> WatchFlags {
    WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVE_SELF
        | WatchFlags::DELETE_SELF
        | WatchFlags::ONLYDIR
        | WatchFlags::DONT_FOLLOW
}
