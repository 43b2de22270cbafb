//! The content store of a box: what left a tree, by hash, for whoever wants it next; the oldest goes first.
//!
//! An object is a file of its own: it is moved in from a tree and moved out again, never linked or shared. Nobody
//! believes its name: who takes it hashes it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crabbox_tree::{Hash, hex};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, fstatvfs, linkat, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::{Errno, Result};

use crate::tree::dirs::list;
use crate::tree::place::folder;
use crate::tree::stat::{Look, Moment};

/// Most bytes the store may hold, and its largest share of the disk, one part in so many.
const MOST: (u64, u64) = (2 << 30, 10);

/// The content store.
#[derive(Debug)]
pub(crate) struct Store {
    objects: OwnedFd,
    /// Whether anything was put in since it was last trimmed.
    grown: AtomicBool,
}

/// An object as it is found.
struct Object {
    /// When it came: a rename sets this time.
    since: Moment,
    bytes: u64,
    shelf: std::ffi::OsString,
    name: std::ffi::OsString,
}

impl Store {
    /// Opens the store beside a lease's folder; `None` when there can be none.
    pub(crate) fn beside(base_dir: &Path) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, base_dir.parent()?, flags, Mode::empty()).ok()?;
        let objects = ["store", "objects"]
            .iter()
            .try_fold(folder(&root, OsStr::new(".crabbox")).ok()?, |dir, name| {
                folder(&dir, OsStr::new(name)).ok()
            })?;
        Some(Self { objects, grown: AtomicBool::new(true) })
    }

    /// Moves a file in.
    pub(crate) fn keep(&self, hash: &Hash, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        self.shelved(hash, |at| renameat(dir, name, &self.objects, at))
    }

    /// Takes a second name of a file that is about to lose its first.
    pub(crate) fn keep_link(&self, hash: &Hash, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let linked =
            self.shelved(hash, |at| linkat(dir, name, &self.objects, at, AtFlags::empty()));
        match linked {
            Err(Errno::EXIST) => Ok(()),
            linked => linked,
        }
    }

    fn shelved(&self, hash: &Hash, put: impl Fn(&str) -> Result<()>) -> Result<()> {
        let at = place_of(hash);
        self.grown.store(true, Ordering::Relaxed);
        match put(&at) {
            Err(Errno::NOENT) => match mkdirat(&self.objects, &at[..2], 0o700.into()) {
                Ok(()) | Err(Errno::EXIST) => put(&at),
                Err(errno) => Err(errno),
            },
            done => done,
        }
    }

    /// Moves an object out. Whether there was one; its bytes are unproven.
    pub(crate) fn claim(&self, hash: &Hash, into: &OwnedFd, name: &str) -> bool {
        let at = place_of(hash);
        let alone = statat(&self.objects, &at, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_nlink == 1 && Look::of(&stat).is_file());
        alone && renameat(&self.objects, &at, into, name).is_ok()
    }

    /// Removes the oldest objects until the rest fits, when something was put in since the last time.
    pub(crate) fn trim(&self) -> Result<()> {
        if !self.grown.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let disk = fstatvfs(&self.objects)?;
        self.trim_to(MOST.0.min(disk.f_blocks.saturating_mul(disk.f_frsize) / MOST.1))
    }

    /// Removes the oldest objects until this many bytes are left.
    pub(crate) fn trim_to(&self, limit: u64) -> Result<()> {
        let mut objects = self.objects()?;
        let mut bytes: u64 = objects.iter().map(|o| o.bytes).sum();
        if bytes <= limit {
            return Ok(());
        }
        objects.sort_by_key(|o| o.since);
        // Some more than needed, so that the next time is not at once.
        let limit = limit - limit / 10;
        for object in objects.iter().take_while(|o| {
            let over = bytes > limit;
            bytes = bytes.saturating_sub(o.bytes);
            over
        }) {
            let at = Path::new(&object.shelf).join(&object.name);
            match unlinkat(&self.objects, at, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Whether nothing was ever put in.
    pub(crate) fn is_empty(&self) -> bool {
        list(self.objects.as_fd()).is_ok_and(|shelves| shelves.is_empty())
    }

    /// How many bytes it holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.objects().map_or(0, |all| all.iter().map(|o| o.bytes).sum())
    }

    fn objects(&self) -> Result<Vec<Object>> {
        let mut all = Vec::new();
        for (shelf, _) in list(self.objects.as_fd())? {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(dir) = openat(&self.objects, &shelf, flags, Mode::empty()) else { continue };
            for (name, _) in list(dir.as_fd())? {
                if let Ok(stat) = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
                    let since = Look::of(&stat).ctime;
                    all.push(Object { since, bytes, shelf: shelf.clone(), name });
                }
            }
        }
        Ok(all)
    }
}

/// How many bytes the store of a work root holds.
pub fn store_bytes(base_dir: &Path) -> u64 {
    Store::beside(base_dir).map_or(0, |store| store.bytes())
}

fn place_of(hash: &Hash) -> String {
    let name = hex(hash);
    format!("{}/{}", &name[..2], &name[2..])
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use crabbox_tree::content_hash;

    use super::*;

    #[test]
    fn the_oldest_objects_go_first_and_a_second_name_is_not_given_out() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("lease");
        std::fs::create_dir(&base).unwrap();
        let store = Store::beside(&base).unwrap();
        let from = File::open(&base).unwrap();
        let put = |n: u8| {
            std::fs::write(base.join("file"), vec![n; 8 << 10]).unwrap();
            store.keep(&content_hash(&[n]), from.as_fd(), "file".as_ref()).unwrap();
        };
        (0..9).for_each(put);
        // Until the file system's clock has ticked.
        let latest = || store.objects().unwrap().iter().map(|o| o.since).max();
        let before = latest();
        while latest() == before {
            put(9);
        }
        let all = store.bytes();
        assert!(all >= 80 << 10);
        store.trim_to(all).unwrap();
        assert_eq!(store.bytes(), all);
        store.trim_to(all / 2).unwrap();
        assert!(store.bytes() <= all / 2);
        let into: OwnedFd = File::open(&base).unwrap().into();
        assert!(!store.claim(&content_hash(&[0]), &into, "oldest"));
        assert!(store.claim(&content_hash(&[9]), &into, "latest"));
        assert_eq!(std::fs::read(base.join("latest")).unwrap(), [9; 8 << 10]);

        store.keep_link(&content_hash(&[9]), into.as_fd(), "latest".as_ref()).unwrap();
        assert!(!store.claim(&content_hash(&[9]), &into, "again"));
        std::fs::remove_file(base.join("latest")).unwrap();
        assert!(store.claim(&content_hash(&[9]), &into, "again"));
    }
}
