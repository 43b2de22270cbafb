//! What a flight will do: which paths go, and how each wanted entry comes to stand.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crabbox_tree::{ByHash, Delta, Entry, Hash, Kind, Manifest, bytes_of, hex, shown};

use crate::tree::fault::{Fault, Result};
use crate::tree::stat::{Look, Moment};

/// What a flight will do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) delta: Delta,
    /// What the tree will hold, and its digest; `None` when that is what it holds already.
    pub(crate) aim: Option<(Manifest, Hash)>,
    /// Paths to be removed, in order.
    pub(crate) removed: Vec<PathBuf>,
    /// What to do for each wanted entry, in the order of paths.
    pub(crate) todo: Vec<Todo>,
    /// Managed files among those that are removed or replaced, unchanged since they were written, in order.
    pub(crate) going: Vec<Going>,
    /// The file system's clock when the plan was made.
    pub(crate) stamp: Moment,
}

/// A file that leaves its place, and whose content may be wanted again.
#[derive(Debug)]
pub(crate) struct Going {
    pub(crate) path: PathBuf,
    pub(crate) sha256: Hash,
    pub(crate) size: u64,
    /// How it looked when it was last seen to be right.
    pub(crate) look: Look,
    /// Another file takes its place.
    pub(crate) replaced: bool,
    /// It goes to the staging folder, since this flight needs it, and not to the store.
    pub(crate) to_staging: bool,
}

/// What to do for one wanted entry.
#[derive(Debug)]
pub(crate) struct Todo {
    /// Its index in `delta.wanted`.
    pub(crate) wanted: usize,
    pub(crate) how: How,
}

/// How a wanted entry comes to stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum How {
    /// It stands already, and looked so.
    Keep(Look),
    /// Its content stands already, and looked so; the mode is wrong.
    Chmod(Look),
    /// A link is made.
    Link,
    /// The file with this name in the staging folder is moved.
    Move(String),
}

impl Plan {
    pub(crate) fn entry(&self, todo: &Todo) -> &Entry {
        &self.delta.wanted[todo.wanted]
    }

    /// Whether nothing in the tree is touched.
    pub(crate) fn is_idle(&self) -> bool {
        self.removed.is_empty() && self.todo.iter().all(|t| matches!(t.how, How::Keep(_)))
    }

    /// Every path that is touched.
    pub(crate) fn touched(&self) -> Vec<PathBuf> {
        let written = self.todo.iter().filter(|t| !matches!(t.how, How::Keep(_)));
        let mut touched = self.removed.clone();
        touched.extend(written.map(|t| self.entry(t).path.clone()));
        touched
    }

    /// Contents that have to be put into the staging folder, with the names they get there.
    pub(crate) fn moves(&self) -> impl Iterator<Item = (&Entry, &str)> {
        self.todo.iter().filter_map(|t| match &t.how {
            How::Move(name) => Some((self.entry(t), name.as_str())),
            _ => None,
        })
    }
}

/// The manifest a delta leads to, when it is one a tree can hold and the one that was announced.
pub(crate) fn target(base: &Manifest, delta: &Delta, announced: &str) -> Result<(Manifest, Hash)> {
    let target = merged(base, delta)?;
    let digest = target.digest();
    if hex(&digest) != announced {
        return Err(Fault::Protocol("the delta does not lead where it says".into()));
    }
    // In an empty tree all that could stand below a file is wanted, and shows by the file above it.
    let fresh = base.entries().is_empty();
    let mut last: &[u8] = b"";
    for entry in &delta.wanted {
        if !fresh && has_below(&target, &entry.path) {
            return Err(impossible(&entry.path));
        }
        let dir = entry.path.parent().map_or(&b""[..], bytes_of);
        if dir == last {
            continue;
        }
        last = dir;
        if let Some(file) = above(&entry.path).find(|d| target.get(d).is_some()) {
            return Err(impossible(file));
        }
    }
    Ok((target, digest))
}

/// The manifest a delta leads to.
pub(crate) fn merged(base: &Manifest, delta: &Delta) -> Result<Manifest> {
    let wanted = Manifest::new(delta.wanted.clone())?;
    if base.entries().is_empty() {
        return Ok(wanted);
    }
    let gone: HashSet<&Path> = delta.removed.iter().map(PathBuf::as_path).collect();
    let mut entries = Vec::with_capacity(base.entries().len() + wanted.entries().len());
    let mut wanted = wanted.into_entries().into_iter().peekable();
    for old in base.entries() {
        let path = bytes_of(&old.path);
        while let Some(new) = wanted.next_if(|new| bytes_of(&new.path) < path) {
            entries.push(new);
        }
        match wanted.next_if(|new| new.path == old.path) {
            Some(new) => entries.push(new),
            None if gone.contains(old.path.as_path()) => {}
            None => entries.push(old.clone()),
        }
    }
    entries.extend(wanted);
    Ok(Manifest::new(entries)?)
}

fn impossible(path: &Path) -> Fault {
    Fault::Protocol(format!("{} cannot be a file and a directory", shown(path)))
}

/// The directories above a path, nearest first, without the top.
pub(crate) fn above(path: &Path) -> impl Iterator<Item = &Path> {
    path.ancestors().skip(1).filter(|d| !d.as_os_str().is_empty())
}

/// Whether the manifest has entries below this path.
pub(crate) fn has_below(manifest: &Manifest, dir: &Path) -> bool {
    let mut prefix = bytes_of(dir).to_vec();
    prefix.push(b'/');
    let entries = manifest.entries();
    let at = entries.partition_point(|e| bytes_of(&e.path) < prefix.as_slice());
    entries.get(at).is_some_and(|e| bytes_of(&e.path).starts_with(&prefix))
}

/// Names in the staging folder: the content's hash, numbered when it is needed more than once.
#[derive(Debug, Default)]
pub(crate) struct Names(ByHash<usize>);

impl Names {
    pub(crate) fn next(&mut self, kind: &Kind) -> How {
        let Kind::File { sha256, .. } = kind else { return How::Link };
        let count = self.0.entry(*sha256).or_insert(0);
        *count += 1;
        How::Move(match count {
            1 => hex(sha256),
            n => format!("{}.{n}", hex(sha256)),
        })
    }
}
