//! A private copy of a tree for one run: everything in it, by reference where the file system can.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, Timespec, Timestamps, fchmod, fstat, futimens,
    mkdirat, openat, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::{Errno, Result};

use crate::tree::copy::copy;
use crate::tree::dirs::{Dirs, is_gone, list, remove_all};
use crate::tree::fault::Fault;
use crate::tree::place::{PRIVATE_TREES, folder};
use crate::tree::{Tree, threads};

const OPEN: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Tree {
    /// Copies the whole tree, also what was never sent, for one run. Where the copy stands.
    pub fn isolate(&self, run_id: &str) -> std::result::Result<PathBuf, Fault> {
        check_id(run_id)?;
        let place = &self.place;
        let isolated = folder(&place.notes, OsStr::new("isolated"))?;
        let run = folder(&isolated, OsStr::new(run_id))?;
        let (top, _) = place.top()?;
        fresh_dir(&run, &place.repo)
            .and_then(|into| copy_tree(&top, &into))
            .map_err(Fault::of("make a private copy of the tree"))?;
        Ok(place.base_dir.join(".crabbox/isolated").join(run_id).join(&place.repo))
    }
}

/// The base directory of a tree that only this run has: for one that shall not wait for the common tree.
pub fn private_base(base_dir: &Path, run_id: &str) -> std::result::Result<PathBuf, Fault> {
    check_id(run_id)?;
    Ok(base_dir.join(PRIVATE_TREES).join(run_id))
}

/// Removes the private copy of a run, if there is one.
pub fn forget_isolated(base_dir: &Path, run_id: &str) -> std::result::Result<(), Fault> {
    check_id(run_id)?;
    let opened = openat(CWD, base_dir.join(".crabbox/isolated"), OPEN, Mode::empty());
    match opened.and_then(|dir| remove_all(dir.as_fd(), OsStr::new(run_id))) {
        Ok(()) => Ok(()),
        Err(errno) if is_gone(errno) => Ok(()),
        Err(errno) => Err(Fault::of("remove a private copy of the tree")(errno)),
    }
}

fn check_id(run_id: &str) -> std::result::Result<(), Fault> {
    let mut parts = Path::new(run_id).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => Ok(()),
        _ => Err(Fault::Protocol(format!("{run_id:?} is not a run's id"))),
    }
}

fn fresh_dir(run: &OwnedFd, repo: &OsStr) -> Result<OwnedFd> {
    match remove_all(run.as_fd(), repo) {
        Err(errno) if !is_gone(errno) => return Err(errno),
        _ => mkdirat(run, repo, 0o700.into())?,
    }
    openat(run, repo, OPEN, Mode::empty())
}

/// Copies directories and links at once, and files on a few threads; at last the directories get their modes and
/// times.
fn copy_tree(top: &OwnedFd, into: &OwnedFd) -> Result<()> {
    let mut dirs = vec![PathBuf::new()];
    let mut files = Vec::new();
    let (mut from, mut to) = (Dirs::new(top), Dirs::new(into));
    let mut next = 0;
    while next < dirs.len() {
        let dir = dirs[next].clone();
        next += 1;
        let names = match from.open_dir(&dir).and_then(list) {
            Err(errno) if is_gone(errno) => continue,
            listed => listed?,
        };
        for (name, kind) in names {
            let path = dir.join(&name);
            match known(kind, &mut from, &path)? {
                FileType::RegularFile => files.push(path),
                FileType::Directory => {
                    let (up, name) = to.parent(&path)?;
                    mkdirat(up, name, 0o700.into())?;
                    dirs.push(path);
                }
                FileType::Symlink => copy_link(&mut from, &mut to, &path)?,
                // Sockets and pipes belong to processes of the tree itself.
                _ => {}
            }
        }
    }
    let copied = threads::split(files.len(), |range| {
        let (mut from, mut to) = (Dirs::new(top), Dirs::new(into));
        files[range].iter().try_for_each(|path| match copy_file(&mut from, &mut to, path) {
            Err(errno) if is_gone(errno) => Ok(()),
            done => done,
        })
    });
    copied.into_iter().collect::<Result<()>>()?;
    for dir in dirs.iter().rev() {
        let stat = match from.open_dir(dir).and_then(fstat) {
            Err(errno) if is_gone(errno) => continue,
            stat => stat?,
        };
        let made = openat(to.open_dir(dir)?, ".", OPEN, Mode::empty())?;
        futimens(&made, &times(&stat))?;
        fchmod(&made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    Ok(())
}

/// The kind of a listed name; not every file system tells it at once.
fn known(kind: FileType, from: &mut Dirs<'_>, path: &Path) -> Result<FileType> {
    match kind {
        FileType::Unknown => Ok(from.look(path)?.map_or(FileType::Unknown, |look| look.kind())),
        kind => Ok(kind),
    }
}

fn copy_link(from: &mut Dirs<'_>, to: &mut Dirs<'_>, path: &Path) -> Result<()> {
    let (dir, name) = from.parent(path)?;
    let target = match readlinkat(dir, name, Vec::new()) {
        Err(errno) if is_gone(errno) => return Ok(()),
        target => target?,
    };
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let (dir, name) = to.parent(path)?;
    symlinkat(target, dir, name)?;
    utimensat(dir, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_file(from: &mut Dirs<'_>, to: &mut Dirs<'_>, path: &Path) -> Result<()> {
    let file = File::from(from.open_file(path)?);
    let stat = fstat(&file)?;
    let (dir, name) = to.parent(path)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = File::from(openat(dir, name, flags, 0o600.into())?);
    copy(&file, &made).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    fchmod(&made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    futimens(&made, &times(&stat))
}

#[allow(clippy::unnecessary_cast, reason = "the types of these fields differ between systems")]
fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as i64, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec {
            tv_sec: stat.st_mtime as i64,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}
