//! Content that is on the box already: in files that go, in the store, in other files of this tree and of others.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use crabbox_tree::{Entry, Hash, Kind, hex};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, statat, unlinkat};

use crate::tree::check::content_of;
use crate::tree::copy::copy;
use crate::tree::dirs::{Dirs, list, open_file};
use crate::tree::fault::{Fault, Result};
use crate::tree::notes::rumours;
use crate::tree::place::Place;
use crate::tree::plan::Going;
use crate::tree::shelf::fresh;
use crate::tree::stat::Look;
use crate::tree::state::State;
use crate::tree::{STATE, threads};

/// How many other trees are looked through.
const TREES: usize = 16;

/// Where contents may be found.
pub(crate) struct Finder<'a> {
    pub(crate) place: &'a Place,
    pub(crate) top: &'a OwnedFd,
    pub(crate) state: &'a State,
}

/// Files that may have a content: which tree, the path there, and the content's size.
type Sources<'a> = HashMap<Hash, (&'a OwnedFd, PathBuf, u64)>;

impl Finder<'_> {
    /// Brings contents into the staging folder; each is proved by its hash. Which were found. Those in files that
    /// go are not brought yet: the files are marked to go there.
    pub(crate) fn find(
        &self,
        wanted: &HashSet<Hash>,
        going: &mut [Going],
    ) -> Result<HashSet<Hash>> {
        let mut found = self.promised(wanted, going)?;
        let missing = |found: &HashSet<Hash>| -> Vec<Hash> {
            wanted.iter().filter(|hash| !found.contains(*hash)).copied().collect()
        };
        if let Some(store) = &self.place.store {
            found.extend(each(&missing(&found), |hash| {
                let name = hex(hash);
                Ok(store.claim(hash, &self.place.staging, &name) && self.proved(hash, &name)?)
            })?);
        }
        let rest: HashSet<Hash> = missing(&found).into_iter().collect();
        if rest.is_empty() {
            return Ok(found);
        }
        let mut sources = Sources::new();
        gather(self.state.manifest.entries(), &rest, self.top, &mut sources);
        found.extend(self.copied(&sources)?);
        let rest: HashSet<Hash> = missing(&found).into_iter().collect();
        if !rest.is_empty() {
            let others = self.others(&rest);
            let mut sources = Sources::new();
            for (top, entries) in &others {
                gather(entries, &rest, top, &mut sources);
            }
            found.extend(self.copied(&sources)?);
        }
        Ok(found)
    }

    /// Contents that files have which are to go: they will move.
    fn promised(&self, wanted: &HashSet<Hash>, going: &mut [Going]) -> Result<HashSet<Hash>> {
        let mut first = HashSet::new();
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
        let mut found = HashSet::new();
        for (at, right) in chosen.into_iter().zip(parts.into_iter().flatten()) {
            if right {
                going[at].to_staging = true;
                found.insert(going[at].sha256);
            }
        }
        Ok(found)
    }

    /// Copies contents from other files.
    fn copied(&self, sources: &Sources<'_>) -> Result<HashSet<Hash>> {
        let hashes: Vec<Hash> = sources.keys().copied().collect();
        each(&hashes, |hash| {
            let (top, path, size) = &sources[hash];
            let Ok(from) = Dirs::new(top).open_file(path) else { return Ok(false) };
            let look = fstat(&from).map(|stat| Look::of(&stat));
            if !look.is_ok_and(|look| look.is_file() && look.size == *size) {
                return Ok(false);
            }
            let name = hex(hash);
            let into = fresh(&self.place.staging, &name).map_err(Fault::of("stage a copy"))?;
            copy(&File::from(from), &File::from(into)).map_err(Fault::io("stage a copy"))?;
            self.proved(hash, &name)
        })
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
    fn others(&self, wanted: &HashSet<Hash>) -> Vec<(OwnedFd, Vec<Entry>)> {
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
        let Some(root) = self.place.base_dir.parent() else { return trees };
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

/// Adds files that may have some of these contents.
fn gather<'a>(
    entries: &[Entry],
    wanted: &HashSet<Hash>,
    top: &'a OwnedFd,
    sources: &mut Sources<'a>,
) {
    for entry in entries {
        if let Kind::File { sha256, size, .. } = &entry.kind
            && wanted.contains(sha256)
        {
            sources.entry(*sha256).or_insert_with(|| (top, entry.path.clone(), *size));
        }
    }
}

fn has(entry: &Entry, wanted: &HashSet<Hash>) -> bool {
    matches!(&entry.kind, Kind::File { sha256, .. } if wanted.contains(sha256))
}

/// Which of these hashes `get` finds, on a few threads.
fn each(hashes: &[Hash], get: impl Fn(&Hash) -> Result<bool> + Sync) -> Result<HashSet<Hash>> {
    let parts = threads::split(hashes.len(), |range| {
        hashes[range].iter().map(|hash| Ok((*hash, get(hash)?))).collect::<Result<Vec<_>>>()
    });
    let mut found = HashSet::new();
    for part in parts {
        found.extend(part?.into_iter().filter(|(_, is)| *is).map(|(hash, _)| hash));
    }
    Ok(found)
}

/// Tells directories apart.
fn place_id(dir: &OwnedFd) -> Option<u64> {
    fstat(dir).ok().map(|stat| Look::of(&stat).ino)
}
