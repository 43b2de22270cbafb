//! What a flight has to change: from what the box is thought to hold to what it shall hold, corrected as more is known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::helper::{Blob, Origin};
use crabbox_tree::{Delta, Have, Piece, Recipe, WHOLE, is_inside, pieces};
use crabbox_wire::payload;

use crate::error::{KernelError, Result};
use crate::sync::blocks::{self, Source, Spoiled};
use crate::sync::known::Known;
use crate::sync::manifest::{self, Entry, Hash, Kind, Manifest, bytes_of, changing, hex, whole};
use crate::sync::survey::above;
use crate::sync::{LocalTree, SyncRules, seed};

/// How often one file may change before we give up on it, and how many may in one flight.
const CHANGES: u32 = 4;
const CHANGED: usize = 1000;
/// After this many refusals for drift everything is written anew.
const DRIFTS: u32 = 2;
/// Content up to this many bytes is sent without asking what the box has: asking costs a round trip. About a file
/// that travels in chunks it is worth that.
const UNASKED: u64 = 4 << 20;

/// What a flight has to change.
pub(super) struct Course<'a> {
    tree: &'a LocalTree,
    rules: &'a SyncRules,
    base: Known,
    /// What changed here since the tree was read; `None` is gone.
    amended: BTreeMap<PathBuf, (u32, Option<Entry>)>,
    /// What must be made good although base and target agree on it.
    repair: BTreeSet<PathBuf>,
    drifts: u32,
    recipes: HashMap<Hash, Recipe>,
}

/// What the box shall hold.
pub(super) enum Target<'a> {
    /// What stands here.
    Tree(&'a LocalTree),
    /// Something else: files changed meanwhile, or the box keeps what was removed here.
    Other(Manifest),
}

impl Target<'_> {
    pub(super) fn manifest(&self) -> Result<&Manifest> {
        match self {
            Self::Tree(tree) => tree.manifest(),
            Self::Other(manifest) => Ok(manifest),
        }
    }
}

/// One try: the change in the form it travels.
pub(super) struct Leg<'a> {
    /// What the box is thought to hold: its digest.
    pub(super) base: String,
    /// What it shall hold, and its digest.
    pub(super) target: Target<'a>,
    pub(super) digest: String,
    pub(super) delta: Delta,
    pub(super) pieces: Vec<Piece>,
    /// Whether to ask which pieces are there.
    pub(super) ask: bool,
    /// Where the box may find some of them by itself.
    pub(super) seed: Option<Origin>,
    /// Whether the box is thought to hold nothing.
    pub(super) first: bool,
}

impl<'a> Course<'a> {
    pub(super) fn new(tree: &'a LocalTree, rules: &'a SyncRules, base: Known) -> Self {
        Self {
            tree,
            rules,
            base,
            amended: BTreeMap::new(),
            repair: BTreeSet::new(),
            drifts: 0,
            recipes: HashMap::new(),
        }
    }

    /// The directory here.
    fn root(&self) -> &'a Path {
        &self.tree.root
    }

    /// Where the content of its files is read from.
    pub(super) fn source(&self) -> Source {
        Source::of(self.tree)
    }

    pub(super) fn rules(&self) -> &'a SyncRules {
        self.rules
    }

    /// Paths that had changed on the box.
    pub(super) fn drifted(&self) -> u64 {
        self.repair.len() as u64
    }

    /// The digest of what the box is thought to hold.
    pub(super) fn base(&self) -> &str {
        self.base.digest()
    }

    /// The next try, with recipes for its large files.
    pub(super) async fn leg(&mut self) -> Result<Leg<'a>> {
        for _ in 0..CHANGED {
            let target = self.target()?;
            let delta = self.delta(&target)?;
            match blocks::recipes(self.root(), self.uncut(&delta)).await {
                Ok(made) => self.recipes.extend(made.into_iter().map(|r| (r.content, r))),
                Err(Spoiled::Changed(path)) => {
                    self.amend(&path)?;
                    continue;
                }
                Err(Spoiled::Failed(error)) => return Err(error),
            }
            return self.plan(target, delta);
        }
        Err(changing(Path::new("the tree")))
    }

    fn plan(&self, target: Target<'a>, mut delta: Delta) -> Result<Leg<'a>> {
        let mut seen = BTreeSet::new();
        let large = delta.wanted.iter().filter_map(large);
        delta.recipes =
            large.filter(|hash| seen.insert(*hash)).filter_map(|hash| self.recipe(&hash)).collect();
        let pieces = pieces(&delta).map_err(|e| {
            KernelError::new(ErrorCode::Internal, "the tree cannot be cut in pieces").because(&e)
        })?;
        let digest = match &target {
            Target::Tree(tree) => hex(&tree.digest),
            Target::Other(_) if delta.is_empty() => self.base().to_owned(),
            Target::Other(manifest) => hex(&manifest.digest()),
        };
        let needed: u64 = pieces.iter().map(|p| u64::from(p.len)).sum();
        let ask = needed > UNASKED || !delta.recipes.is_empty();
        let first = self.base.entries().is_some_and(|m| m.entries().is_empty());
        let seeds = ask && self.rules.seed_above.is_some_and(|limit| needed > limit);
        let seed = if seeds { seed::origin(self.tree) } else { None };
        Ok(Leg { base: self.base().to_owned(), target, digest, delta, pieces, ask, seed, first })
    }

    fn recipe(&self, content: &Hash) -> Option<Recipe> {
        self.recipes.get(content).cloned().or_else(|| self.tree.recipe(content))
    }

    /// What the box shall hold.
    fn target(&mut self) -> Result<Target<'a>> {
        let mut target = Target::Tree(self.tree);
        if !self.amended.is_empty() {
            let here = target.manifest()?.entries().iter();
            let kept = here.filter(|e| !self.amended.contains_key(&e.path));
            let now = self.amended.values().filter_map(|(_, entry)| entry.as_ref());
            target = Target::Other(whole(kept.chain(now).cloned().collect())?);
        }
        if !self.rules.delete {
            let wanted = target.manifest()?;
            target = Target::Other(self.kept(wanted)?.with(wanted));
        }
        Ok(target)
    }

    /// What the box holds, without what stands where the tree needs something else.
    fn kept(&mut self, target: &Manifest) -> Result<Manifest> {
        let dirs: BTreeSet<&Path> = target.entries().iter().flat_map(|e| above(&e.path)).collect();
        let in_the_way = |e: &&Entry| {
            dirs.contains(e.path.as_path()) || above(&e.path).any(|d| target.get(d).is_some())
        };
        self.base.read();
        let held = self.base.entries().into_iter().flat_map(Manifest::entries);
        whole(held.filter(|e| !in_the_way(e)).cloned().collect())
    }

    fn delta(&mut self, target: &Target<'_>) -> Result<Delta> {
        let all = self.rules.full_resync || self.drifts > DRIFTS;
        if matches!(target, Target::Tree(_)) && self.repair.is_empty() && !all {
            if hex(&self.tree.digest) == self.base() {
                return Ok(Delta::default());
            }
            if let Some(delta) = self.tree.change_from(self.base()) {
                return Ok(delta.clone());
            }
        }
        let target = target.manifest()?;
        self.base.read();
        let mut delta = self.base.entries().map_or_else(Delta::default, |base| base.delta(target));
        if all {
            delta.wanted = target.entries().to_vec();
            return Ok(delta);
        }
        for path in &self.repair {
            match target.get(path) {
                Some(entry) => delta.wanted.push(entry.clone()),
                None => delta.removed.push(path.clone()),
            }
        }
        if !self.repair.is_empty() {
            delta.wanted.sort_by(|a, b| bytes_of(&a.path).cmp(bytes_of(&b.path)));
            delta.wanted.dedup_by(|a, b| a.path == b.path);
            delta.removed.sort_by(|a, b| bytes_of(a).cmp(bytes_of(b)));
            delta.removed.dedup();
        }
        Ok(delta)
    }

    /// The large files of a delta that nobody has cut yet.
    fn uncut(&self, delta: &Delta) -> Vec<blocks::Large> {
        let mut seen = BTreeSet::new();
        let files = delta.wanted.iter().filter_map(|e| large(e).map(|hash| (e.path.clone(), hash)));
        let unknown = files.filter(|(_, hash)| self.recipe(hash).is_none());
        unknown.filter(|(_, hash)| seen.insert(*hash)).collect()
    }

    /// A file changed here after the tree was read: it is described again.
    pub(super) fn amend(&mut self, path: &Path) -> Result<()> {
        let now = manifest::read(self.root(), vec![path.to_owned()], &mut Vec::new())?;
        let times = self.amended.get(path).map_or(0, |(times, _)| *times) + 1;
        if times > CHANGES || self.amended.len() > CHANGED {
            return Err(changing(path));
        }
        self.amended.insert(path.to_owned(), (times, now.into_entries().pop()));
        Ok(())
    }

    /// The box says that content was not what was promised, and not whose.
    pub(super) fn distrust(&mut self, leg: &Leg<'_>) -> Result<()> {
        let paths = leg.delta.wanted.iter().map(|e| e.path.clone()).collect();
        let now = manifest::read(self.root(), paths, &mut Vec::new())?;
        for entry in leg.delta.wanted.iter().filter(|e| now.get(&e.path) != Some(e)) {
            let times = self.amended.get(&entry.path).map_or(0, |(times, _)| *times) + 1;
            self.amended.insert(entry.path.clone(), (times, now.get(&entry.path).cloned()));
        }
        Ok(())
    }

    /// The box holds something else than was thought.
    pub(super) fn rebase(&mut self, text: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(text).ok();
        self.base = text.and_then(Known::from_text).ok_or_else(|| {
            KernelError::new(ErrorCode::SyncVerify, "the box sent a manifest that is not whole")
        })?;
        Ok(())
    }

    /// Paths were changed on the box.
    pub(super) fn drift(&mut self, paths: Vec<Blob>) -> Result<()> {
        self.drifts += 1;
        for path in paths {
            let bytes = match path {
                Blob::Text(text) => payload::unpack(Some(text), None),
                Blob::Bytes { b64 } => payload::unpack(None, Some(b64)),
            };
            let path = bytes.ok().map(|b| PathBuf::from(std::ffi::OsString::from_vec(b)));
            match path.filter(|p| is_inside(p)) {
                Some(path) => self.repair.insert(path),
                None => {
                    let what = "the box named a path that is not in its tree";
                    return Err(KernelError::new(ErrorCode::SyncVerify, what));
                }
            };
        }
        Ok(())
    }
}

impl Leg<'_> {
    /// What has to travel of it, a block's worth each.
    pub(super) fn parcels(&self, have: &Have) -> Vec<blocks::Parcel> {
        blocks::parcels(&self.delta, &self.pieces, have)
    }
}

/// The content of a file that travels in chunks.
fn large(entry: &Entry) -> Option<Hash> {
    match entry.kind {
        Kind::File { size, sha256, .. } if size > WHOLE => Some(sha256),
        _ => None,
    }
}
