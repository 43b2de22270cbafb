//! What the box holds equals the manifest.
//!
//! [`scan`] reads the directory here ([`checkout`] finds its files, [`excludes`] leaves some out, [`manifest`]
//! describes them, [`guard`] refuses what is too much). [`push::push`] then asks the box what it really holds
//! ([`survey`]), removes and sends the difference ([`archive`]), and asks again.

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
pub mod known;
pub mod manifest;
pub mod push;
pub mod survey;
mod talk;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::sync::excludes::LeftOut;
use crate::sync::manifest::Manifest;

pub use crate::config::values::SyncRules;

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
    let manifest = manifest::read(&found.root, found.paths, &mut notes)?;
    Ok(LocalTree {
        root: found.root,
        kind: found.kind,
        manifest,
        tracked_deletions: found.tracked_deletions,
        left_out: found.left_out,
        notes,
    })
}
