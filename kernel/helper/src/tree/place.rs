//! The folders of one tree on the box: the tree itself, our notes beside it, and the fence.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, linkat, mkdirat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::tree::dirs::{list, unlock};
use crate::tree::fault::{Fault, Result};
use crate::tree::stat::{Look, Moment};
use crate::tree::state::Boot;
use crate::tree::store::Store;

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Mode of our folders, and of our files.
const PRIVATE: (Mode, Mode) = (Mode::from_raw_mode(0o700), Mode::from_raw_mode(0o600));
/// Longest lease id that is believed.
const LEASE: u64 = 1024;

/// Where private trees stand, below the lease's folder.
pub(crate) const PRIVATE_TREES: &str = ".crabbox/isolated";

/// The lease's folder of a tree: its base directory, unless it is a private tree inside one.
pub(crate) fn lease_folder(base_dir: &Path) -> &Path {
    let inside = base_dir.parent().filter(|parent| parent.ends_with(PRIVATE_TREES));
    inside.and_then(|parent| parent.ancestors().nth(2)).unwrap_or(base_dir)
}

/// The folders of one tree.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) base_dir: PathBuf,
    pub(crate) repo: OsString,
    lease: String,
    base: OwnedFd,
    /// `.crabbox` in the base directory.
    pub(crate) notes: OwnedFd,
    /// `.crabbox/tree/<repo>`.
    pub(crate) meta: OwnedFd,
    /// `.crabbox/tree/<repo>/staging`.
    pub(crate) staging: OwnedFd,
    /// The content store, when there can be one.
    pub(crate) store: Option<Store>,
    /// The file whose times tell the file system's clock.
    clock: File,
    pub(crate) boot: Boot,
}

impl Place {
    /// Makes the folders and the fence, or checks it.
    pub(crate) fn open(base_dir: &Path, repo: &str, lease: &str) -> Result<Self> {
        let mut parts = Path::new(repo).components();
        let plain = matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
        if !plain || !base_dir.is_absolute() || repo == ".crabbox" {
            return Err(Fault::Protocol(format!("{base_dir:?} and {repo:?} name no tree")));
        }
        std::fs::create_dir_all(base_dir).map_err(Fault::io("make the lease's folder"))?;
        let base = openat(CWD, base_dir, DIR, Mode::empty())
            .map_err(Fault::of("open the lease's folder"))?;
        let notes = folder(&base, OsStr::new(".crabbox"))?;
        fence(&notes, lease)?;
        let meta = folder(&folder(&notes, OsStr::new("tree"))?, OsStr::new(repo))?;
        let staging = folder(&meta, OsStr::new("staging"))?;
        let clock = create(&meta, "clock")?;
        Ok(Self {
            base_dir: base_dir.to_owned(),
            repo: repo.into(),
            lease: lease.to_owned(),
            base,
            notes,
            meta,
            staging,
            store: Store::beside(lease_folder(base_dir)),
            clock,
            boot: boot(),
        })
    }

    /// Checks the fence again.
    pub(crate) fn check_fence(&self) -> Result<()> {
        fence(&self.notes, &self.lease)
    }

    /// Opens the tree's top, making it; a link or file in its place is removed. Whether it was made.
    pub(crate) fn top(&self) -> Result<(OwnedFd, bool)> {
        let flags = DIR.union(OFlags::NOFOLLOW);
        let failed = || Fault::of("open the work directory");
        match openat(&self.base, &self.repo, flags, Mode::empty()) {
            Ok(top) => return Ok((top, false)),
            Err(Errno::ACCESS) => {
                unlock(self.base.as_fd(), &self.repo).map_err(failed())?;
                let top = openat(&self.base, &self.repo, flags, Mode::empty());
                return Ok((top.map_err(failed())?, false));
            }
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => {
                unlinkat(&self.base, &self.repo, AtFlags::empty()).map_err(failed())?;
            }
            Err(errno) => return Err(failed()(errno)),
        }
        match mkdirat(&self.base, &self.repo, 0o755.into()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Fault::of("make the work directory")(errno)),
        }
        let top = openat(&self.base, &self.repo, flags, Mode::empty()).map_err(failed())?;
        rustix::fs::fchmod(&top, 0o755.into()).map_err(failed())?;
        Ok((top, true))
    }

    /// Opens the tree's top as it stands; `None` when it is gone, or is no folder.
    pub(crate) fn standing(&self) -> Result<Option<OwnedFd>> {
        match openat(&self.base, &self.repo, DIR.union(OFlags::NOFOLLOW), Mode::empty()) {
            Ok(top) => Ok(Some(top)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(Fault::of("open the work directory")(errno)),
        }
    }

    /// The file system's clock.
    pub(crate) fn stamp(&self) -> Result<Moment> {
        touch(&self.clock)
            .and_then(|()| rustix::fs::fstat(&self.clock))
            .map(|stat| Look::of(&stat).mtime)
            .map_err(Fault::of("read the file system's clock"))
    }

    /// The lock's file.
    pub(crate) fn lock_file(&self) -> Result<File> {
        create(&self.meta, "lock")
    }

    /// Reads a note; `None` when there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<(Vec<u8>, Look)>> {
        read(&self.meta, name)
    }

    /// How a note's file looks.
    pub(crate) fn look(&self, name: &str) -> Option<Look> {
        look(&self.meta, name)
    }

    /// Replaces a note at once.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let aside = format!("{name}.new");
        self.write_aside(&aside, bytes)?;
        self.rename(&aside, name)
    }

    /// Writes a file that is to become a note.
    pub(crate) fn write_aside(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = create(&self.meta, name)?;
        file.set_len(0)
            .and_then(|()| file.write_all(bytes))
            .map_err(Fault::io(format!("write the note {name:?}")))
    }

    /// Puts a note in the place of another.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        renameat(&self.meta, from, &self.meta, to)
            .map_err(Fault::of(format!("write the note {to:?}")))
    }

    /// Removes all notes whose names begin so.
    pub(crate) fn forget_all(&self, prefix: &str) -> Result<()> {
        let names = list(self.meta.as_fd()).map_err(Fault::of("list the notes"))?;
        let names = names.iter().filter_map(|(name, _)| name.to_str());
        names.filter(|name| name.starts_with(prefix)).try_for_each(|name| self.forget(name))
    }

    /// Removes a note.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        forget(&self.meta, name)
    }

    /// Where the sync without a helper keeps its notes of this tree.
    pub(crate) fn shell_notes(&self) -> Option<OwnedFd> {
        let flags = DIR.union(OFlags::NOFOLLOW);
        let sync = openat(&self.notes, "sync", flags, Mode::empty()).ok()?;
        openat(&sync, &self.repo, flags, Mode::empty()).ok()
    }
}

/// How a file of ours looks; `None` when there is none.
pub(crate) fn look(dir: &OwnedFd, name: &str) -> Option<Look> {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| Look::of(&stat))
}

/// Removes a file of ours.
pub(crate) fn forget(dir: &OwnedFd, name: &str) -> Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Fault::of(format!("remove the note {name:?}"))(errno)),
    }
}

/// Reads a file of ours.
pub(crate) fn read(dir: impl AsFd, name: &str) -> Result<Option<(Vec<u8>, Look)>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let failed = || format!("read the note {name:?}");
    let file = match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Fault::of(failed())(errno)),
    };
    let look = Look::of(&rustix::fs::fstat(&file).map_err(Fault::of(failed()))?);
    let mut bytes = Vec::with_capacity(usize::try_from(look.size).unwrap_or(0).min(64 << 20));
    (&file).read_to_end(&mut bytes).map_err(Fault::io(failed()))?;
    Ok(Some((bytes, look)))
}

/// Opens a file of ours to write, making it.
pub(crate) fn create(dir: impl AsFd, name: &str) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, PRIVATE.1)
        .map(File::from)
        .map_err(Fault::of(format!("write the note {name:?}")))
}

/// Opens a folder of ours, making it; nobody else may look into it.
pub(crate) fn folder(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let failed = || Fault::of(format!("make the folder {name:?}"));
    let flags = DIR.union(OFlags::NOFOLLOW);
    let opened = match openat(&dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            match mkdirat(&dir, name, PRIVATE.0) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed()(errno)),
            }
            openat(&dir, name, flags, Mode::empty())
        }
        opened => opened,
    };
    let fd = opened.map_err(failed())?;
    let stat = rustix::fs::fstat(&fd).map_err(failed())?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Fault::Io(format!("the folder {name:?} belongs to somebody else")));
    }
    if stat.st_mode & 0o777 != 0o700 {
        rustix::fs::fchmod(&fd, PRIVATE.0).map_err(failed())?;
    }
    Ok(fd)
}

/// Sets a file's times to now.
pub(crate) fn touch(file: impl AsFd) -> rustix::io::Result<()> {
    rustix::fs::futimens(file, &NOW)
}

/// Both times: now.
pub(crate) const NOW: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW as _ },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW as _ },
};

/// The fence says whose the folder is; the first who comes writes it.
fn fence(notes: &OwnedFd, lease: &str) -> Result<()> {
    let failed = || Fault::of("make the fence");
    for _ in 0..2 {
        if let Some((bytes, look)) = read(notes, "lease")? {
            let found = String::from_utf8_lossy(&bytes[..bytes.len().min(LEASE as usize)]);
            let ours = look.kind() == FileType::RegularFile && found.trim_end() == lease;
            return if ours {
                Ok(())
            } else {
                Err(Fault::Fence { lease: found.trim_end().into() })
            };
        }
        let fresh = format!("lease.{}", rustix::process::getpid().as_raw_pid());
        let mut file = create(notes, &fresh)?;
        file.write_all(lease.as_bytes()).map_err(Fault::io("make the fence"))?;
        let linked = linkat(notes, &fresh, notes, "lease", AtFlags::empty());
        unlinkat(notes, &fresh, AtFlags::empty()).map_err(failed())?;
        match linked {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed()(errno)),
        }
    }
    Err(failed()(Errno::NOENT))
}

fn boot() -> Boot {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}
