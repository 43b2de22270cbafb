//! What the box holds equals the manifest.
//!
//! [`scan`] reads the directory here ([`checkout`] finds its files, [`excludes`] leaves some out, [`manifest`]
//! describes them, `index` remembers it all for the next scan, [`guard`] refuses what is too much).
//! [`push::push`] then asks the box what it really holds ([`survey`]), removes and sends the difference
//! ([`archive`]), and asks again.

pub mod archive;
mod blocks;
pub mod checkout;
pub mod commits;
mod course;
mod exchange;
pub mod excludes;
pub mod flight;
mod git;
pub mod guard;
mod index;
pub mod known;
pub mod manifest;
pub mod push;
mod seed;
pub mod survey;
mod talk;
mod width;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use crabbox_tree::{Delta, Hash, Recipe, hex};

use crate::error::Result;
use crate::ports::Stop;
use crate::sync::excludes::LeftOut;
use crate::sync::index::file::Opened;
use crate::sync::index::refresh::Recipes;
use crate::sync::manifest::Manifest;

pub use crate::config::values::SyncRules;
pub use crate::sync::index::git_dir;

/// What kind of directory is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeKind {
    /// A git work tree.
    Git,
    /// Any other directory.
    Directory,
}

/// Something that is made when it is first asked for.
type Lazy<T> = LazyLock<T, Box<dyn FnOnce() -> T + Send>>;

/// What leads here from the tree of an earlier scan.
#[derive(Debug, Clone)]
struct Change {
    /// The earlier tree's digest.
    from: Hash,
    delta: Delta,
}

/// A directory here, read and described.
#[derive(Debug, Clone)]
pub struct LocalTree {
    /// Absolute path of its top.
    pub root: PathBuf,
    /// What kind it is.
    pub kind: TreeKind,
    manifest: Arc<Lazy<Result<Manifest>>>,
    /// The manifest's digest.
    pub digest: Hash,
    change: Option<Change>,
    files: u64,
    bytes: u64,
    /// How its large contents are cut.
    recipes: Arc<Lazy<Recipes>>,
    /// The index that says all of it, where nothing changed since the last scan.
    index: Option<Arc<Opened>>,
    /// When it began to be read, on the file system's clock. What changed later may differ from the manifest.
    moment: i64,
    /// What the index that was left behind calls the moment of this scan; see [`ScanOptions::token`].
    pub token: Option<String>,
    /// Tracked files that are gone here.
    pub tracked_deletions: u64,
    /// What was left out, and by which rule.
    pub left_out: LeftOut,
    /// What else the user should know, one line each.
    pub notes: Vec<String>,
}

impl LocalTree {
    /// What the box shall hold. It is made when it is asked for: a run that finds the box as it should be needs only
    /// the digest, and one that finds it as it was at the last scan only what changed since.
    pub fn manifest(&self) -> Result<&Manifest> {
        self.manifest.as_ref().as_ref().map_err(Clone::clone)
    }

    /// Shows each entry's path and length, in order.
    fn sizes(&self, see: &mut dyn FnMut(&Path, u64)) -> Result<()> {
        match &self.index {
            Some(index) => index.sizes(see).ok_or_else(|| index.damaged()),
            None => {
                self.manifest()?.entries().iter().for_each(|e| see(&e.path, e.size()));
                Ok(())
            }
        }
    }

    /// What leads here from the tree with this digest, if that is known.
    fn change_from(&self, digest: &str) -> Option<&Delta> {
        self.change.as_ref().filter(|change| hex(&change.from) == digest).map(|c| &c.delta)
    }

    /// Entries in the manifest.
    pub fn files(&self) -> u64 {
        self.files
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How a content larger than [`crabbox_tree::WHOLE`] is cut.
    pub fn recipe(&self, content: &Hash) -> Option<Recipe> {
        let chunks = self.recipes.get(content)?.clone();
        Some(Recipe { content: *content, chunks })
    }
}

/// What a watcher knows. It can only save work: whatever it says, the index decides what is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The token of the scan since which it watched. An index that holds another is scanned in full.
    pub token: String,
    /// Paths below the tree's top that may have changed since, or that hold what may have.
    pub changed: Vec<PathBuf>,
}

/// Where an index is kept between scans.
#[derive(Debug, Clone, Copy)]
pub struct Keep<'a> {
    /// The folder of indexes; made when it is missing.
    pub dir: &'a Path,
    /// The environment that git sees.
    pub env: &'a BTreeMap<String, String>,
}

/// How a tree is scanned.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScanOptions<'a> {
    /// Nothing is remembered without.
    pub keep: Option<Keep<'a>>,
    /// What a watcher knows.
    pub hint: Option<&'a Hint>,
    /// What a watcher that begins before this scan will name in its hints. When the index in place needs no
    /// change it keeps the token it has: [`LocalTree::token`] says which one counts.
    pub token: Option<&'a str>,
    /// A wish to stop, which ends the scan.
    pub stop: Option<&'a Stop>,
}

/// Reads the tree around `root` and runs the guards; the lines are for the user, a refusal is an error.
pub fn scan(
    root: &Path,
    rules: &SyncRules,
    options: &ScanOptions<'_>,
) -> Result<(LocalTree, Vec<String>)> {
    let tree = look(root, rules, options)?;
    let mut lines = tree.notes.clone();
    lines.extend(tree.left_out.sentence());
    lines.extend(guard::check(&tree, rules)?);
    Ok((tree, lines))
}

/// Reads the tree around `root` without judging its size.
pub fn look(root: &Path, rules: &SyncRules, options: &ScanOptions<'_>) -> Result<LocalTree> {
    match options.keep {
        Some(keep) => index::look(root, rules, keep, options),
        None => index::look_afresh(root, rules, options),
    }
}
