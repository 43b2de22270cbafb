//! What a flight will do: which paths go, and how each wanted entry comes to stand.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crabbox_tree::{
    ByHash, Delta, Entry, Groups, Hash, Kind, Manifest, between, bytes_of, hex, shown,
};

use crate::tree::fault::{Fault, Result};
use crate::tree::stat::{Look, Moment};
use crate::tree::state::State;

/// What a flight will do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) delta: Delta,
    /// What the tree will be; `None` when that is what it is already.
    pub(crate) aim: Option<Aim>,
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

/// What a tree will be: what its digest is made of, and the digest.
#[derive(Debug)]
pub(crate) struct Aim {
    pub(crate) groups: Groups,
    pub(crate) digest: Hash,
}

impl Aim {
    /// What a delta makes of a state.
    pub(crate) fn of(state: &State, delta: &Delta) -> Self {
        let after = After::new(&state.manifest, delta);
        let paths = delta.removed.iter().chain(delta.wanted.iter().map(|e| &e.path));
        let within = |from: &[u8], until: Option<&[u8]>| after.within(from, until);
        let groups = state.groups().clone().changed(paths.map(PathBuf::as_path), within);
        Self { digest: groups.digest(), groups }
    }

    /// The same when it is something a tree can hold, and what was announced.
    pub(crate) fn announced(state: &State, delta: &Delta, announced: &str) -> Result<Self> {
        let aim = Self::of(state, delta);
        if hex(&aim.digest) != announced {
            return Err(Fault::Protocol("the delta does not lead where it says".into()));
        }
        let after = After::new(&state.manifest, delta);
        // In an empty tree all that could stand below a file is wanted, and shows by the file above it.
        let fresh = state.manifest.entries().is_empty();
        let mut last: &[u8] = b"";
        for entry in &delta.wanted {
            if !fresh && after.has_below(&entry.path) {
                return Err(impossible(&entry.path));
            }
            let dir = entry.path.parent().map_or(&b""[..], bytes_of);
            if dir == last {
                continue;
            }
            last = dir;
            if let Some(file) = above(&entry.path).find(|dir| after.has(dir)) {
                return Err(impossible(file));
            }
        }
        Ok(aim)
    }
}

/// What a manifest will hold after a delta, without making it.
pub(crate) struct After<'a> {
    base: &'a Manifest,
    /// Which entries of the base go or are replaced, in order.
    gone: Vec<usize>,
    /// What comes, in order.
    wanted: &'a [Entry],
}

impl<'a> After<'a> {
    pub(crate) fn new(base: &'a Manifest, delta: &'a Delta) -> Self {
        let touched = delta.removed.iter().chain(delta.wanted.iter().map(|e| &e.path));
        let gone: BTreeSet<usize> = touched.filter_map(|path| base.find(path)).collect();
        Self { base, gone: gone.into_iter().collect(), wanted: &delta.wanted }
    }

    /// Whether it has an entry at a path.
    pub(crate) fn has(&self, path: &Path) -> bool {
        let wanted = self.wanted.binary_search_by(|e| bytes_of(&e.path).cmp(bytes_of(path)));
        wanted.is_ok()
            || self.base.find(path).is_some_and(|at| self.gone.binary_search(&at).is_err())
    }

    /// Whether it has entries below a path.
    pub(crate) fn has_below(&self, dir: &Path) -> bool {
        // What is below comes after the slash, and before the byte after the slash.
        let [from, until] = [b'/', b'/' + 1].map(|end| [bytes_of(dir), &[end]].concat());
        let (base, gone, wanted) = self.parts(&from, Some(&until));
        base.len() > gone.len() || !wanted.is_empty()
    }

    /// The entries from one path on and before another.
    fn within(&self, from: &[u8], until: Option<&[u8]>) -> Vec<Cow<'a, Entry>> {
        let (base, gone, mut wanted) = self.parts(from, until);
        let mut all = Vec::with_capacity(base.len() + wanted.len());
        for at in base.filter(|at| gone.binary_search(at).is_err()) {
            let kept = &self.base.entries()[at];
            while let Some((new, rest)) = wanted.split_first()
                && bytes_of(&new.path) < bytes_of(&kept.path)
            {
                all.push(Cow::Borrowed(new));
                wanted = rest;
            }
            all.push(Cow::Borrowed(kept));
        }
        all.extend(wanted.iter().map(Cow::Borrowed));
        all
    }

    /// What is between two paths: of the base, of what goes, of what comes.
    fn parts(&self, from: &[u8], until: Option<&[u8]>) -> (Range<usize>, &[usize], &'a [Entry]) {
        let base = between(self.base.entries(), from, until);
        let gone = |at: usize| self.gone.partition_point(|gone| *gone < at);
        let gone = gone(base.start)..gone(base.end);
        (base, &self.gone[gone], &self.wanted[between(self.wanted, from, until)])
    }
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
