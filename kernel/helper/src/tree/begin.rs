//! The first half of a flight: is the base right, is the tree as recorded, and what has to be done?

use std::collections::{BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crabbox_schemas::helper::{Blob, Refused, TreeChange};
use crabbox_tree::{Delta, Entry, Kind, bytes_of, hex};

use crate::tree::check::{self, content};
use crate::tree::dirs::Dirs;
use crate::tree::fault::{Fault, Result};
use crate::tree::guard::Doubt;
use crate::tree::plan::{After, Aim, Going, How, Names, Plan, Todo};
use crate::tree::staging::Staging;
use crate::tree::stat::Record;
use crate::tree::{Tree, threads};

/// What became of the first half of a flight.
#[derive(Debug)]
pub enum Begin {
    /// Nothing was written. With a refused base comes the text of the manifest that is held.
    Refused(Refused, Option<String>),
    /// Content can be put in, then applied.
    Ready(Box<Staging>),
}

impl Tree {
    /// Compares what the laptop believes with what is there. The caller holds the lock until the tree is applied
    /// or given up. Nothing is written in the tree.
    pub fn begin(&mut self, change: &TreeChange, delta: Delta) -> Result<Begin> {
        let started = Instant::now();
        self.place.check_fence()?;
        self.reload()?;
        if hex(&self.state.digest) != change.base {
            return Ok(Begin::Refused(Refused::Base, Some(self.state.manifest.to_text())));
        }
        if !delta.wanted.is_sorted_by(|a, b| bytes_of(&a.path) < bytes_of(&b.path)) {
            return Err(Fault::Protocol("the delta is not in order".into()));
        }
        let aim = match delta.is_empty() && change.base == change.target {
            true => None,
            false => Some(Aim::announced(&self.state, &delta, &change.target)?),
        };
        let (top, _) = self.place.top()?;
        let stamp = self.place.stamp()?;
        let unfinished = self.unfinished()?;
        let drift = self.drifted(&top, unfinished.as_ref(), change.checksum)?;
        let open = uncovered(&drift, &delta);
        if !open.is_empty() {
            return Ok(Begin::Refused(Refused::Drift { paths: open }, None));
        }
        let after = After::new(&self.state.manifest, &delta);
        let leftovers = unfinished.iter().flatten().filter(|path| !after.has(path));
        let removed = removed(&delta, leftovers);
        let drift: HashSet<&Path> = drift.iter().map(PathBuf::as_path).collect();
        let todo = self.todo(&top, &delta, &drift)?;
        let going = self.going(&delta, &removed, &todo, &drift);
        let plan = Plan { delta, aim, removed, todo, going, stamp };
        let ready = Staging::new(self, top, plan, change.ask, unfinished.is_some(), started)?;
        Ok(Begin::Ready(Box::new(ready)))
    }

    /// The paths that are not as recorded: managed ones that changed, and those that a flight cut off has left.
    fn drifted(
        &mut self,
        top: &OwnedFd,
        unfinished: Option<&BTreeSet<PathBuf>>,
        bytes: bool,
    ) -> Result<Vec<PathBuf>> {
        let mut strays = Vec::new();
        let mut dirs = Dirs::new(top);
        for path in unfinished.into_iter().flatten() {
            match self.state.find(path) {
                Some(at) => self.state.records[at] = Record::default(),
                None => strays.push(path),
            }
        }
        if unfinished.is_some() {
            self.doubt = Doubt::All;
        }
        let (drifted, _) = self.look(top, bytes)?;
        let entries = self.state.manifest.entries();
        let mut drift: Vec<PathBuf> = drifted.iter().map(|at| entries[*at].path.clone()).collect();
        for path in strays {
            let stands = dirs.look(path).map_err(Fault::of("look at the tree"))?;
            if stands.is_some_and(|look| look.kind() != rustix::fs::FileType::Directory) {
                drift.push(path.clone());
            }
        }
        Ok(drift)
    }

    /// The managed files that leave their places as they were written.
    fn going(
        &self,
        delta: &Delta,
        removed: &[PathBuf],
        todo: &[Todo],
        drift: &HashSet<&Path>,
    ) -> Vec<Going> {
        let replaced = todo
            .iter()
            .filter(|todo| matches!(todo.how, How::Link | How::Move(_)))
            .map(|todo| (&delta.wanted[todo.wanted].path, true));
        let gone = removed.iter().map(|path| (path, false));
        gone.chain(replaced)
            .filter(|(path, _)| !drift.contains(path.as_path()))
            .filter_map(|(path, replaced)| {
                let at = self.state.find(path)?;
                match self.state.manifest.entries()[at].kind {
                    Kind::File { size, sha256, .. } if size > 0 => Some(Going {
                        path: path.clone(),
                        sha256,
                        size,
                        look: self.state.records[at].look,
                        replaced,
                        to_staging: false,
                    }),
                    _ => None,
                }
            })
            .collect()
    }

    /// How each wanted entry comes to stand. What is right already stays as it is.
    fn todo(&self, top: &OwnedFd, delta: &Delta, drift: &HashSet<&Path>) -> Result<Vec<Todo>> {
        let parts = threads::split(delta.wanted.len(), |range| {
            let mut dirs = Dirs::new(top);
            let mut buffer = Vec::new();
            let there = |entry: &Entry| {
                self.there(&mut dirs, entry, drift.contains(entry.path.as_path()), &mut buffer)
            };
            delta.wanted[range].iter().map(there).collect::<Result<Vec<_>>>()
        });
        let mut names = Names::default();
        let mut todo = Vec::with_capacity(delta.wanted.len());
        for part in parts {
            for there in part? {
                let wanted = todo.len();
                let how = there.unwrap_or_else(|| names.next(&delta.wanted[wanted].kind));
                todo.push(Todo { wanted, how });
            }
        }
        Ok(todo)
    }

    /// Whether an entry stands already, or all but its mode.
    fn there(
        &self,
        dirs: &mut Dirs<'_>,
        entry: &Entry,
        drifted: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<How>> {
        let known = self.state.find(&entry.path).filter(|_| !drifted);
        let look = match dirs.look(&entry.path) {
            Ok(Some(look)) => look,
            // What cannot be looked at is replaced.
            Ok(None) | Err(_) => return Ok(None),
        };
        let Kind::File { size, sha256, exec } = &entry.kind else {
            let stands = check::stands(dirs, entry, &look, buffer)?;
            return Ok(stands.map(How::Keep));
        };
        if !look.is_file() || look.size != *size {
            return Ok(None);
        }
        let (hash, look) = match known.map(|at| &self.state.manifest.entries()[at].kind) {
            Some(Kind::File { sha256, .. }) => (*sha256, look),
            _ => match content(dirs, &entry.path, buffer)? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        Ok(match hash == *sha256 {
            false => None,
            true if look.exec() == *exec => Some(How::Keep(look)),
            // The mode of a file with two names is not ours alone.
            true => dirs.is_alone(&entry.path).then_some(How::Chmod(look)),
        })
    }
}

/// The paths that the delta does not make right.
fn uncovered(drift: &[PathBuf], delta: &Delta) -> Vec<Blob> {
    if drift.is_empty() {
        return Vec::new();
    }
    let wanted = delta.wanted.iter().map(|e| &e.path);
    let covered: HashSet<&PathBuf> = wanted.chain(&delta.removed).collect();
    drift.iter().filter(|path| !covered.contains(path)).map(|path| blob(path)).collect()
}

/// The paths to be removed, in order: the delta's, and what a flight that was cut off has left.
fn removed<'a>(delta: &'a Delta, leftovers: impl Iterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
    let mut removed: Vec<PathBuf> = delta.removed.iter().chain(leftovers).cloned().collect();
    if !removed.is_empty() {
        let wanted: HashSet<&PathBuf> = delta.wanted.iter().map(|e| &e.path).collect();
        removed.retain(|path| !wanted.contains(path));
    }
    removed.sort_by(|a, b| bytes_of(a).cmp(bytes_of(b)));
    removed.dedup();
    removed
}

/// How a path is written on the wire.
fn blob(path: &Path) -> Blob {
    match String::from_utf8(bytes_of(path).to_vec()) {
        Ok(text) => Blob::Text(text),
        Err(_) => Blob::Bytes { b64: base64_of(bytes_of(path)) },
    }
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
