//! Refusals before anything is spent: too many files, too many bytes, too many deletions.

use std::collections::HashMap;
use std::path::Path;

use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::view::{SizedPath, SyncPlanView};

use crate::error::{KernelError, Result};
use crate::sync::manifest::{Manifest, bytes_of};
use crate::sync::{LocalTree, SyncRules, TreeKind};

/// From this many deleted tracked files on, we ask for a word of consent.
pub const MASS_DELETIONS: u64 = 200;

/// What one guard says.
enum Finding {
    Warn(String),
    Refuse(KernelError),
}

/// Runs the guards: warnings as lines, the first refusal as an error.
pub fn check(tree: &LocalTree, rules: &SyncRules) -> Result<Vec<String>> {
    findings(tree, rules)
        .into_iter()
        .map(|finding| match finding {
            Finding::Warn(line) => Ok(line),
            Finding::Refuse(error) => Err(error.at("plan")),
        })
        .collect()
}

/// What a sync would do, for `sync-plan`; at most `limit` files and directories are listed.
pub fn plan_view(tree: &LocalTree, rules: &SyncRules, limit: usize) -> Result<SyncPlanView> {
    let manifest = tree.manifest()?;
    let files = manifest.entries().iter().map(|e| (e.path.as_path(), e.size()));
    Ok(SyncPlanView {
        schema_version: SCHEMA_VERSION,
        root: tree.root.display().to_string(),
        kind: match tree.kind {
            TreeKind::Git => "git".to_owned(),
            TreeKind::Directory => "directory".to_owned(),
        },
        files: tree.files(),
        bytes: tree.bytes(),
        tracked_deletions: tree.tracked_deletions,
        excluded: tree.left_out.total(),
        largest_files: largest(files.collect(), limit),
        largest_dirs: largest(dirs(manifest), limit),
        warnings: findings(tree, rules)
            .into_iter()
            .map(|finding| match finding {
                Finding::Warn(line) => line,
                Finding::Refuse(error) => error.message,
            })
            .collect(),
    })
}

/// The directories of a manifest, each with the bytes below it.
fn dirs(manifest: &Manifest) -> Vec<(&Path, u64)> {
    let mut parents: Vec<(&Path, u64)> = Vec::new();
    for entry in manifest.entries() {
        let parent = entry.path.parent().unwrap_or(Path::new(""));
        match parents.last_mut() {
            Some((last, size)) if bytes_of(last) == bytes_of(parent) => *size += entry.size(),
            _ => parents.push((parent, entry.size())),
        }
    }
    let mut dirs: HashMap<&[u8], (&Path, u64)> = HashMap::new();
    for (parent, size) in parents {
        for dir in parent.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            dirs.entry(bytes_of(dir)).or_insert((dir, 0)).1 += size;
        }
    }
    dirs.into_values().collect()
}

fn largest(mut sized: Vec<(&Path, u64)>, limit: usize) -> Vec<SizedPath> {
    let order = |a: &(&Path, u64), b: &(&Path, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0));
    if limit < sized.len() {
        sized.select_nth_unstable_by(limit, order);
        sized.truncate(limit);
    }
    sized.sort_by(order);
    sized
        .into_iter()
        .map(|(path, bytes)| SizedPath { path: path.to_string_lossy().into_owned(), bytes })
        .collect()
}

fn findings(tree: &LocalTree, rules: &SyncRules) -> Vec<Finding> {
    let mut out = Vec::new();
    let count = |n: u64| format!("{n} files");
    out.extend(large(
        tree.files(),
        rules.warn_files,
        rules.fail_files,
        rules.allow_large,
        "Files",
        count,
    ));
    out.extend(large(
        tree.bytes(),
        rules.warn_bytes,
        rules.fail_bytes,
        rules.allow_large,
        "Bytes",
        mebibytes,
    ));
    if tree.tracked_deletions >= MASS_DELETIONS {
        let message = format!("{} tracked files are deleted here", tree.tracked_deletions);
        out.push(if rules.allow_mass_deletions {
            Finding::Warn(format!("warning: {message}"))
        } else {
            Finding::Refuse(
                KernelError::new(ErrorCode::SyncGuard, format!("{message}, which looks like an accident"))
                    .hint("set sync.allowMassDeletions or CRABBOX_ALLOW_MASS_DELETIONS=1 if it is intended"),
            )
        });
    }
    out
}

fn large(
    have: u64,
    warn: u64,
    fail: u64,
    allowed: bool,
    key: &str,
    say: impl Fn(u64) -> String,
) -> Option<Finding> {
    if have > fail && !allowed {
        let message =
            format!("the tree is too large: {} where at most {} are allowed", say(have), say(fail));
        return Some(Finding::Refuse(KernelError::new(ErrorCode::SyncGuard, message).hint(format!(
            "`crabbox sync-plan` lists what is large; leave it out with sync.exclude, raise sync.fail{key}, or pass --force-sync-large"
        ))));
    }
    (have > warn).then(|| {
        Finding::Warn(format!("warning: the tree is large: {} (sync.warn{key})", say(have)))
    })
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
