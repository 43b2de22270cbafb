//! Refusals before anything is spent: too many files, too many bytes, too many deletions.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::view::{SizedPath, SyncPlanView};

use crate::error::{KernelError, Result};
use crate::sync::manifest::bytes_of;
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
    let mut files = Largest { limit, least: 0, kept: Vec::new() };
    let mut parents: Vec<(PathBuf, u64)> = Vec::new();
    tree.sizes(&mut |path, size| {
        files.see(path, size);
        let bytes = bytes_of(path);
        let parent = &bytes[..bytes.iter().rposition(|b| *b == b'/').unwrap_or(0)];
        match parents.last_mut() {
            Some((last, sum)) if bytes_of(last) == parent => *sum += size,
            _ => parents.push((Path::new(OsStr::from_bytes(parent)).to_owned(), size)),
        }
    })?;
    let found = findings(tree, rules).into_iter().map(|finding| match finding {
        Finding::Warn(line) => line,
        Finding::Refuse(error) => error.message,
    });
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
        largest_files: files.done(),
        largest_dirs: largest(dirs(&parents), limit),
        warnings: tree.notes.iter().cloned().chain(found).collect(),
    })
}

/// All directories, each with the bytes below it, from those that hold files directly.
fn dirs(parents: &[(PathBuf, u64)]) -> Vec<(&Path, u64)> {
    let mut dirs: HashMap<&[u8], (&Path, u64)> = HashMap::new();
    for (parent, size) in parents {
        for dir in parent.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            dirs.entry(bytes_of(dir)).or_insert((dir, 0)).1 += size;
        }
    }
    dirs.into_values().collect()
}

/// The largest of many, of which only few are kept at a time.
struct Largest {
    limit: usize,
    /// What is smaller is none of them.
    least: u64,
    kept: Vec<(PathBuf, u64)>,
}

impl Largest {
    fn see(&mut self, path: &Path, size: u64) {
        if size < self.least {
            return;
        }
        self.kept.push((path.to_owned(), size));
        if self.kept.len() > 64 + 4 * self.limit {
            self.kept.sort_by(|(a, n), (b, m)| order(&(a.as_path(), *n), &(b.as_path(), *m)));
            self.kept.truncate(self.limit);
            self.least = self.kept.last().map_or(u64::MAX, |(_, size)| *size);
        }
    }

    fn done(&self) -> Vec<SizedPath> {
        largest(self.kept.iter().map(|(path, size)| (path.as_path(), *size)).collect(), self.limit)
    }
}

/// What is larger comes first.
fn order(a: &(&Path, u64), b: &(&Path, u64)) -> std::cmp::Ordering {
    b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0))
}

fn largest(mut sized: Vec<(&Path, u64)>, limit: usize) -> Vec<SizedPath> {
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
