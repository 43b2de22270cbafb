//! A tree in which nothing stands yet: a content that comes for it goes straight to its places.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use crabbox_tree::{ByHash, Hash, Kind, shown};
use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fstat, openat, unlinkat};
use rustix::io::Errno;

use crate::tree::dirs::Dirs;
use crate::tree::fault::{Fault, Result};
use crate::tree::plan::{How, Plan, mode};
use crate::tree::stat::Look;

/// The places that wait in an empty tree. Until the flight lands they count as unfinished.
#[derive(Debug)]
pub(crate) struct Vacant {
    top: OwnedFd,
    /// By content: the files that shall have it.
    homes: ByHash<Vec<Home>>,
    /// How each of the plan's entries looks that was put in its place.
    taken: Vec<OnceLock<Look>>,
}

/// Where a content belongs.
#[derive(Debug)]
struct Home {
    /// Its place in the plan.
    todo: usize,
    path: PathBuf,
    exec: bool,
}

impl Vacant {
    /// The places of the files in a plan.
    pub(crate) fn of(top: OwnedFd, plan: &Plan) -> Self {
        let mut homes = ByHash::<Vec<Home>>::default();
        for (at, todo) in plan.todo.iter().enumerate() {
            let entry = plan.entry(todo);
            if let (How::Move(_), Kind::File { sha256, exec, .. }) = (&todo.how, &entry.kind) {
                let home = Home { todo: at, path: entry.path.clone(), exec: *exec };
                homes.entry(*sha256).or_default().push(home);
            }
        }
        let taken = plan.todo.iter().map(|_| OnceLock::new()).collect();
        Self { top, homes, taken }
    }

    /// A way through the tree.
    pub(crate) fn dirs(&self) -> Dirs<'_> {
        Dirs::new(&self.top)
    }

    /// Puts a content, whose bytes were checked, in all its places. Whether it is in all of them now: what stands in
    /// the way of one is dealt with when the flight lands.
    pub(crate) fn settle(&self, dirs: &mut Dirs<'_>, hash: &Hash, bytes: &[u8]) -> Result<bool> {
        let mut all = true;
        let empty = |home: &&Home| self.taken[home.todo].get().is_none();
        for home in self.homes.get(hash).into_iter().flatten().filter(empty) {
            match home.build(dirs, bytes)? {
                Some(look) => drop(self.taken[home.todo].set(look)),
                None => all = false,
            }
        }
        Ok(all)
    }

    /// How an entry of the plan looked when it was put in its place.
    pub(crate) fn taken(&self, todo: usize) -> Option<Look> {
        self.taken.get(todo)?.get().copied()
    }
}

impl Home {
    /// Makes the file; `None` when something is in its way. Half a file is not left.
    fn build(&self, dirs: &mut Dirs<'_>, bytes: &[u8]) -> Result<Option<Look>> {
        const MAKE: OFlags = OFlags::WRONLY
            .union(OFlags::CREATE)
            .union(OFlags::EXCL)
            .union(OFlags::NOFOLLOW)
            .union(OFlags::CLOEXEC);
        let failed = || format!("write {}", shown(&self.path));
        let (dir, name) = dirs.made(&self.path).map_err(Fault::of(failed()))?;
        let mut file = match openat(dir, name, MAKE, Mode::from_raw_mode(0o600)) {
            Ok(fd) => File::from(fd),
            Err(Errno::EXIST) => return Ok(None),
            Err(errno) => return Err(Fault::of(failed())(errno)),
        };
        let written = file.write_all(bytes).map_err(Fault::io(failed())).and_then(|()| {
            let ready = fchmod(file.as_fd(), mode(self.exec)).and_then(|()| fstat(&file));
            ready.map_err(Fault::of(failed()))
        });
        if written.is_err() {
            let _ = unlinkat(dir, name, AtFlags::empty());
        }
        written.map(|stat| Some(Look::of(&stat)))
    }
}
