//! What the box holds equals the manifest.
//!
//! [`scan`] reads the directory here ([`checkout`] finds its files, [`excludes`] leaves some out, [`manifest`]
//! describes them, [`guard`] refuses what is too much). [`push::push`] then asks the box what it really holds
//! ([`survey`]), removes and sends the difference ([`archive`]), and asks again.

pub mod archive;
pub mod checkout;
pub mod excludes;
pub mod guard;
pub mod manifest;
pub mod push;
pub mod survey;
mod talk;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Result;
use crate::sync::excludes::LeftOut;
use crate::sync::manifest::Manifest;

/// What the user wants of a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRules {
    /// `sync.exclude`: patterns as in `.gitignore`, for tracked files too.
    pub exclude: Vec<String>,
    /// `sync.include`: patterns whose files are sent although git ignores or a default excludes them.
    pub include: Vec<String>,
    /// Remove files from the box that are gone here.
    pub delete: bool,
    /// Trust nothing on the box: replace every file.
    pub full_resync: bool,
    /// Longest a sync may take.
    pub timeout: Duration,
    /// Warn above this many files.
    pub warn_files: u64,
    /// Warn above this many bytes.
    pub warn_bytes: u64,
    /// Refuse above this many files.
    pub fail_files: u64,
    /// Refuse above this many bytes.
    pub fail_bytes: u64,
    /// Lift the two refusals above.
    pub allow_large: bool,
    /// Lift the guard against deleting many tracked files.
    pub allow_mass_deletions: bool,
}

impl Default for SyncRules {
    fn default() -> Self {
        Self {
            exclude: Vec::new(),
            include: Vec::new(),
            delete: true,
            full_resync: false,
            timeout: Duration::from_secs(15 * 60),
            warn_files: 50_000,
            warn_bytes: 5 << 30,
            fail_files: 150_000,
            fail_bytes: 20 << 30,
            allow_large: false,
            allow_mass_deletions: false,
        }
    }
}

/// What kind of directory is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeKind {
    /// A git work tree.
    Git,
    /// Any other directory.
    Directory,
}

/// A directory here, read and described.
#[derive(Debug, Clone)]
pub struct LocalTree {
    /// Absolute path of its top.
    pub root: PathBuf,
    /// What kind it is.
    pub kind: TreeKind,
    /// What the box shall hold.
    pub manifest: Manifest,
    /// Tracked files that are gone here.
    pub tracked_deletions: u64,
    /// What was left out, and by which rule.
    pub left_out: LeftOut,
    /// What else the user should know, one line each.
    pub notes: Vec<String>,
}

impl LocalTree {
    /// Entries in the manifest.
    pub fn files(&self) -> u64 {
        self.manifest.entries().len() as u64
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.manifest.bytes()
    }
}

/// Reads the tree around `root` and runs the guards; the lines are for the user, a refusal is an error.
pub fn scan(root: &Path, rules: &SyncRules) -> Result<(LocalTree, Vec<String>)> {
    let tree = look(root, rules)?;
    let mut lines = tree.notes.clone();
    lines.extend(tree.left_out.sentence());
    lines.extend(guard::check(&tree, rules)?);
    Ok((tree, lines))
}

/// Reads the tree around `root` without judging its size.
pub fn look(root: &Path, rules: &SyncRules) -> Result<LocalTree> {
    let found = checkout::find(root, rules)?;
    let mut notes = found.notes;
    let manifest = Manifest::read(&found.root, found.paths, &mut notes)?;
    Ok(LocalTree {
        root: found.root,
        kind: found.kind,
        manifest,
        tracked_deletions: found.tracked_deletions,
        left_out: found.left_out,
        notes,
    })
}
