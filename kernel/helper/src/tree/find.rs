//! Content that is on the box already: in files that go, in the store, in other files of this tree and of others.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crabbox_tree::{Entry, Hash, Hashes, Kind, WHOLE, content_hash, hex};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, statat, unlinkat};

use crate::tree::check::content_of;
use crate::tree::copy::copy;
use crate::tree::dirs::{Dirs, list, open_file};
use crate::tree::fault::{Fault, Result};
use crate::tree::notes::rumours;
use crate::tree::place::{Place, lease_folder};
use crate::tree::plan::Going;
use crate::tree::shelf::fresh;
use crate::tree::stat::Look;
use crate::tree::state::State;
use crate::tree::store::Store;
use crate::tree::{STATE, threads};

/// How many other trees are looked through.
const TREES: usize = 16;

/// Where contents may be found.
pub(crate) struct Finder<'a> {
    pub(crate) place: &'a Place,
    pub(crate) top: &'a OwnedFd,
    pub(crate) state: &'a State,
}

impl Finder<'_> {
    /// Brings contents into the staging folder, each proved by its hash, and takes what was found off the list.
    /// Those in files that go are not brought yet: the files are marked to go there.
    pub(crate) fn find(&self, wanted: &mut Hashes, going: &mut [Going]) -> Result<()> {
        self.promised(wanted, going);
        if let Some(store) = self.place.store.as_ref().filter(|store| !store.is_empty()) {
            self.claimed(store, wanted)?;
        }
        self.copied(self.top, self.state.manifest.entries(), wanted)?;
        if !wanted.is_empty() {
            for (top, entries) in &self.others(wanted) {
                self.copied(top, entries, wanted)?;
            }
        }
        Ok(())
    }

    /// Contents that files have which are to go: they will move.
    fn promised(&self, wanted: &mut Hashes, going: &mut [Going]) {
        let mut first = Hashes::default();
        let chosen: Vec<usize> = (0..going.len())
            .filter(|at| wanted.contains(&going[*at].sha256) && first.insert(going[*at].sha256))
            .collect();
        let parts = threads::split(chosen.len(), |range| {
            let mut dirs = Dirs::new(self.top);
            let mut buffer = Vec::new();
            let going = &going[..];
            chosen[range]
                .iter()
                .map(|at| {
                    let Going { path, sha256, .. } = &going[*at];
                    let fd = dirs.open_file(path);
                    let read = fd.and_then(|fd| content_of(&fd, &mut buffer)).ok().flatten();
                    read.is_some_and(|(is, _)| is == *sha256) && dirs.is_alone(path)
                })
                .collect::<Vec<bool>>()
        });
        for (at, right) in chosen.into_iter().zip(parts.into_iter().flatten()) {
            if right {
                going[at].to_staging = true;
                wanted.remove(&going[at].sha256);
            }
        }
    }

    /// Contents in the store.
    fn claimed(&self, store: &Store, wanted: &mut Hashes) -> Result<()> {
        let hashes: Vec<Hash> = wanted.iter().copied().collect();
        take_off(wanted, &hashes, |range| {
            let claim = |hash: &Hash| {
                let name = hex(hash);
                Ok(store.claim(hash, &self.place.staging, &name) && self.proved(hash, &name)?)
            };
            hashes[range].iter().map(claim).collect()
        })
    }

    /// Contents in other files of some tree: copied.
    fn copied(&self, top: &OwnedFd, entries: &[Entry], wanted: &mut Hashes) -> Result<()> {
        let mut seen = Hashes::default();
        let files: Vec<(&Path, u64, Hash)> = entries
            .iter()
            .filter_map(|entry| match entry.kind {
                Kind::File { size, sha256, .. } if wanted.contains(&sha256) => {
                    seen.insert(sha256).then_some((entry.path.as_path(), size, sha256))
                }
                _ => None,
            })
            .collect();
        let hashes: Vec<Hash> = files.iter().map(|(.., hash)| *hash).collect();
        take_off(wanted, &hashes, |range| {
            let mut dirs = Dirs::new(top);
            let copy = |(path, size, hash): &(&Path, u64, Hash)| {
                // What cannot be opened is simply not found.
                dirs.open_file(path).map_or(Ok(false), |fd| self.copy(&fd.into(), *size, hash))
            };
            files[range].iter().map(copy).collect()
        })
    }

    /// Copies a file that should have this content; whether it has.
    fn copy(&self, from: &File, size: u64, hash: &Hash) -> Result<bool> {
        let look = fstat(from).map(|stat| Look::of(&stat)).unwrap_or_default();
        if !look.is_file() || look.size != size {
            return Ok(false);
        }
        let name = hex(hash);
        let failed = || Fault::io("stage a copy");
        let into = || fresh(&self.place.staging, &name).map_err(Fault::of("stage a copy"));
        if size > WHOLE {
            copy(from, &into()?.into()).map_err(failed())?;
            return self.proved(hash, &name);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let read = from.take(size).read_to_end(&mut bytes);
        if read.is_err() || content_hash(&bytes) != *hash {
            return Ok(false);
        }
        File::from(into()?).write_all(&bytes).map(|()| true).map_err(failed())
    }

    /// Whether a staged file is what its name says; else it is removed.
    fn proved(&self, hash: &Hash, name: &str) -> Result<bool> {
        let staging = &self.place.staging;
        let failed = || Fault::of("read a staged file");
        let right = open_file(staging.as_fd(), name.as_ref())
            .and_then(|fd| content_of(&fd, &mut Vec::new()))
            .map_err(failed())?
            .is_some_and(|(is, _)| is == *hash);
        if !right {
            unlinkat(staging, name, AtFlags::empty()).map_err(failed())?;
        }
        Ok(right)
    }

    /// Other trees under the same work root, the latest first, with what they may have of these contents.
    fn others(&self, wanted: &Hashes) -> Vec<(OwnedFd, Vec<Entry>)> {
        let mut trees = self.neighbours();
        trees.sort_by_key(|(look, ..)| std::cmp::Reverse(look.mtime));
        let read = |(_, meta, top): (Look, OwnedFd, OwnedFd)| {
            let mut entries = rumours(&meta, self.place.boot)?;
            entries.retain(|entry| has(entry, wanted));
            (!entries.is_empty()).then_some((top, entries))
        };
        trees.into_iter().take(TREES).filter_map(read).collect()
    }

    /// Every other tree of ours under the work root: how its state's file looks, its notes, its top.
    fn neighbours(&self) -> Vec<(Look, OwnedFd, OwnedFd)> {
        const DIR: OFlags =
            OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
        let own = place_id(&self.place.meta);
        let mut trees = Vec::new();
        let Some(root) = lease_folder(&self.place.base_dir).parent() else { return trees };
        let Ok(root) = openat(CWD, root, DIR & !OFlags::NOFOLLOW, Mode::empty()) else {
            return trees;
        };
        let open = |dir: &OwnedFd, name: &std::ffi::OsStr| openat(dir, name, DIR, Mode::empty());
        for (lease, _) in list(root.as_fd()).unwrap_or_default() {
            let Ok(base) = open(&root, &lease) else { continue };
            let Ok(notes) = openat(&base, ".crabbox/tree", DIR, Mode::empty()) else { continue };
            for (repo, _) in list(notes.as_fd()).unwrap_or_default() {
                let (Ok(meta), Ok(top)) = (open(&notes, &repo), open(&base, &repo)) else {
                    continue;
                };
                let stat = statat(&meta, STATE, AtFlags::SYMLINK_NOFOLLOW);
                let ours = rustix::process::geteuid().as_raw();
                match stat {
                    Ok(stat) if stat.st_uid == ours && place_id(&meta) != own => {
                        trees.push((Look::of(&stat), meta, top));
                    }
                    _ => {}
                }
            }
        }
        trees
    }
}

fn has(entry: &Entry, wanted: &Hashes) -> bool {
    matches!(&entry.kind, Kind::File { sha256, .. } if wanted.contains(sha256))
}

/// Takes those hashes off the list that `get` finds: it is asked for ranges of them, on a few threads.
fn take_off(
    wanted: &mut Hashes,
    hashes: &[Hash],
    get: impl Fn(Range<usize>) -> Result<Vec<bool>> + Sync,
) -> Result<()> {
    let mut hashes = hashes.iter();
    for part in threads::split(hashes.len(), get) {
        for (found, hash) in part?.into_iter().zip(&mut hashes) {
            if found {
                wanted.remove(hash);
            }
        }
    }
    Ok(())
}

/// Tells directories apart.
fn place_id(dir: &OwnedFd) -> Option<u64> {
    fstat(dir).ok().map(|stat| Look::of(&stat).ino)
}
