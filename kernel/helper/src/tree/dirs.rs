//! Ways through a tree that never lead out of it: directories are opened one by one, and links are never followed.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crabbox_tree::bytes_of;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::{Errno, Result};

use crate::tree::stat::Look;

const WALK: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How to list a directory.
const LIST: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How often somebody who undoes what we do is put up with.
const PATIENCE: usize = 5;

/// A walker below one directory that keeps the way it came open: neighbours cost nothing.
#[derive(Debug)]
pub(crate) struct Dirs<'a> {
    top: BorrowedFd<'a>,
    /// The path that is open.
    at: Vec<u8>,
    /// Its directories: where each one's name ends in `at`, and the directory.
    open: Vec<(usize, OwnedFd)>,
    /// A directory that is not there; nor is what would be below it.
    missing: Option<Vec<u8>>,
    /// Whether directories may be closed to us by their mode.
    mortal: bool,
}

impl<'a> Dirs<'a> {
    pub(crate) fn new(top: &'a OwnedFd) -> Self {
        let mortal = !rustix::process::geteuid().is_root();
        Self { top: top.as_fd(), at: Vec::new(), open: Vec::new(), missing: None, mortal }
    }

    /// The directory a path stands in, and its name there. Not found, or not a directory, when there is no
    /// such directory inside the tree.
    pub(crate) fn parent<'p>(&mut self, path: &'p Path) -> Result<(BorrowedFd<'_>, &'p OsStr)> {
        let (dir, name) = split(path);
        self.enter(dir, false)?;
        Ok((self.here(), name))
    }

    /// The same, making the directory; what stands in its way and is none is removed.
    pub(crate) fn made<'p>(&mut self, path: &'p Path) -> Result<(BorrowedFd<'_>, &'p OsStr)> {
        let (dir, name) = split(path);
        self.enter(dir, true)?;
        Ok((self.here(), name))
    }

    /// How a path looks; `None` when nothing is there.
    pub(crate) fn look(&mut self, path: &Path) -> Result<Option<Look>> {
        let seen =
            self.parent(path).and_then(|(dir, name)| statat(dir, name, AtFlags::SYMLINK_NOFOLLOW));
        match seen {
            Ok(stat) => Ok(Some(Look::of(&stat))),
            Err(errno) if is_gone(errno) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether what stands at a path has no other name.
    pub(crate) fn is_alone(&mut self, path: &Path) -> bool {
        self.parent(path)
            .and_then(|(dir, name)| statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))
            .is_ok_and(|stat| stat.st_nlink == 1)
    }

    /// A directory of the tree; an empty path names the top.
    pub(crate) fn open_dir(&mut self, path: &Path) -> Result<BorrowedFd<'_>> {
        self.enter(bytes_of(path), false)?;
        Ok(self.here())
    }

    /// Opens a regular file to read it.
    pub(crate) fn open_file(&mut self, path: &Path) -> Result<OwnedFd> {
        let (dir, name) = self.parent(path)?;
        open_file(dir, name)
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.top, |(_, fd)| fd.as_fd())
    }

    fn enter(&mut self, dir: &[u8], make: bool) -> Result<()> {
        let below = |gone: &Vec<u8>| {
            dir.strip_prefix(gone.as_slice()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        };
        match make {
            true => self.missing = None,
            false if self.missing.as_ref().is_some_and(below) => return Err(Errno::NOENT),
            false => {}
        }
        let common = |end: usize| {
            dir.len() >= end
                && dir[..end] == self.at[..end]
                && matches!(dir.get(end), None | Some(b'/'))
        };
        let keep = self.open.iter().take_while(|(end, _)| common(*end)).count();
        self.open.truncate(keep);
        let mut end = self.open.last().map_or(0, |(end, _)| *end);
        self.at.truncate(end);
        while end < dir.len() {
            let start = if end == 0 { 0 } else { end + 1 };
            let stop =
                dir[start..].iter().position(|b| *b == b'/').map_or(dir.len(), |n| start + n);
            let name = OsStr::from_bytes(&dir[start..stop]);
            let fd = match if make { self.make(name) } else { self.step(name) } {
                Err(Errno::NOENT) => {
                    self.missing = Some(dir[..stop].to_vec());
                    return Err(Errno::NOENT);
                }
                fd => fd?,
            };
            self.at.extend_from_slice(&dir[end..stop]);
            self.open.push((stop, fd));
            end = stop;
        }
        Ok(())
    }

    fn step(&self, name: &OsStr) -> Result<OwnedFd> {
        let fd = openat(self.here(), name, WALK, Mode::empty())?;
        if self.mortal {
            let stat = statat(&fd, c"", AtFlags::EMPTY_PATH)?;
            if stat.st_mode & 0o700 != 0o700 {
                allow(fd.as_fd(), stat.st_mode);
            }
        }
        Ok(fd)
    }

    fn make(&self, name: &OsStr) -> Result<OwnedFd> {
        let mut last = Errno::NOENT;
        for _ in 0..PATIENCE {
            match self.step(name) {
                Err(Errno::NOENT) => match rustix::fs::mkdirat(self.here(), name, 0o755.into()) {
                    Ok(()) => return self.step(name).inspect(|fd| plain(fd.as_fd())),
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                },
                Err(errno @ (Errno::NOTDIR | Errno::LOOP)) => {
                    last = errno;
                    match unlinkat(self.here(), name, AtFlags::empty()) {
                        Ok(()) | Err(Errno::NOENT | Errno::ISDIR | Errno::PERM) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                done => return done,
            }
        }
        Err(last)
    }
}

/// Whether an error says that nothing is there.
pub(crate) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// Opens a regular file to read it, without following a link and without waiting for a pipe.
pub(crate) fn open_file(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    const READ: OFlags = OFlags::RDONLY
        .union(OFlags::NOFOLLOW)
        .union(OFlags::NONBLOCK)
        .union(OFlags::NOCTTY)
        .union(OFlags::CLOEXEC);
    let fd = openat(dir, name, READ, Mode::empty())?;
    Ok(fd)
}

fn split(path: &Path) -> (&[u8], &OsStr) {
    let bytes = bytes_of(path);
    match bytes.iter().rposition(|b| *b == b'/') {
        Some(at) => (&bytes[..at], OsStr::from_bytes(&bytes[at + 1..])),
        None => (b"", OsStr::from_bytes(bytes)),
    }
}

/// Gives a new directory its mode, whatever our umask is.
fn plain(dir: BorrowedFd<'_>) {
    if let Ok(stat) = statat(dir, c"", AtFlags::EMPTY_PATH)
        && stat.st_mode & 0o777 != 0o755
    {
        allow(dir, stat.st_mode & !0o777 | 0o755);
    }
}

/// Opens a directory of ours to us. When it cannot be, what follows says so.
fn allow(dir: BorrowedFd<'_>, mode: u32) {
    let mode = Mode::from_raw_mode(mode & 0o7777 | 0o700);
    let name = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let _ = rustix::fs::chmodat(rustix::fs::CWD, name, mode, AtFlags::empty());
}

/// Opens to us a directory that somebody closed.
pub(crate) fn unlock(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let fd = openat(dir, name, WALK, Mode::empty())?;
    allow(fd.as_fd(), statat(&fd, c"", AtFlags::EMPTY_PATH)?.st_mode);
    Ok(())
}

/// Removes a directory with all it holds; links in it are removed, not followed.
pub(crate) fn remove_all(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let fd = openat(dir, name, WALK, Mode::empty())?;
    let stat = statat(&fd, c"", AtFlags::EMPTY_PATH)?;
    if stat.st_mode & 0o700 != 0o700 {
        allow(fd.as_fd(), stat.st_mode);
    }
    for _ in 0..PATIENCE {
        for (child, kind) in list(fd.as_fd())? {
            match remove_one(fd.as_fd(), &child, kind) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(Errno::NOENT) => return Ok(()),
            done => return done,
        }
    }
    Err(Errno::NOTEMPTY)
}

fn remove_one(dir: BorrowedFd<'_>, name: &OsStr, kind: FileType) -> Result<()> {
    if kind == FileType::Directory {
        return remove_all(dir, name);
    }
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => remove_all(dir, name),
        done => done,
    }
}

/// The names in a directory, with their kinds where the file system tells.
pub(crate) fn list(dir: BorrowedFd<'_>) -> Result<Vec<(std::ffi::OsString, FileType)>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(openat(dir, c".", LIST, Mode::empty())?)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push((OsStr::from_bytes(name.to_bytes()).to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}
