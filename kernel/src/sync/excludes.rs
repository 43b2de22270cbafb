//! Which files stay here: built-in defaults, the user's patterns, and what opts files back in.

use std::path::Path;

use crabbox_schemas::error::ErrorCode;
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{KernelError, Result};
use crate::sync::SyncRules;

/// The ignore file at the top of a tree.
pub const IGNORE_FILE: &str = ".crabboxignore";

/// What is rarely wanted on a box; never applied to tracked files.
const DEFAULTS: &[&str] = &[
    "._*",
    "node_modules",
    ".turbo",
    ".next",
    "dist",
    "dist-runtime",
    "coverage",
    ".cache",
    ".local",
    ".swiftpm",
    ".build",
    "apps/*/.build",
    ".pnpm-store",
    ".npm",
    "**/.yarn/cache",
    ".venv",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".gradle",
    "target",
    ".ignored",
    ".vite",
    ".parcel-cache",
    ".rollup.cache",
    "playwright-report",
    "test-results",
    ".tmp",
    "**/.crabbox/env",
    "**/.crabbox/scripts",
    "**/.crabbox/logs",
    "**/.crabbox/captures",
    "**/.crabbox/runs",
];

/// Which rule left a path out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A built-in default.
    Default,
    /// `sync.exclude`.
    Config,
    /// `.crabboxignore`.
    IgnoreFile,
}

/// How much was left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Untracked paths, by a built-in default.
    pub default: u64,
    /// Paths, by `sync.exclude`.
    pub config: u64,
    /// Paths, by `.crabboxignore`.
    pub ignore_file: u64,
    /// How many of them git tracks.
    pub tracked: u64,
    /// Untracked directories that are git repositories of their own.
    pub repositories: u64,
}

impl LeftOut {
    /// Counts one path.
    pub fn count(&mut self, rule: Rule, tracked: bool) {
        match rule {
            Rule::Default => self.default += 1,
            Rule::Config => self.config += 1,
            Rule::IgnoreFile => self.ignore_file += 1,
        }
        self.tracked += u64::from(tracked);
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.default + self.config + self.ignore_file + self.repositories
    }

    /// One line for people; `None` when nothing was left out.
    pub fn sentence(&self) -> Option<String> {
        let parts = [
            (self.default, "by built-in defaults"),
            (self.config, "by sync.exclude"),
            (self.ignore_file, "by .crabboxignore"),
            (self.repositories, "nested repositories"),
        ];
        let parts: Vec<_> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let tracked = match self.tracked {
            0 => String::new(),
            n => format!("; {n} of them tracked by git"),
        };
        (!parts.is_empty()).then(|| format!("left out: {}{tracked}", parts.join(", ")))
    }
}

/// The rules of one tree, ready to ask.
#[derive(Debug)]
pub struct Excludes {
    include: Gitignore,
    file: Gitignore,
    config: Gitignore,
    default: Gitignore,
}

impl Excludes {
    /// Reads the rules for the tree at `root`.
    pub fn read(root: &Path, rules: &SyncRules) -> Result<Self> {
        let text = ignore_file(root)?;
        let text = String::from_utf8_lossy(&text);
        let text = text.trim_start_matches('\u{feff}');
        Ok(Self {
            include: matcher("sync.include", rules.include.iter().map(String::as_str))?,
            file: matcher(IGNORE_FILE, text.lines())?,
            config: matcher("sync.exclude", rules.exclude.iter().map(String::as_str))?,
            default: matcher("the built-in excludes", DEFAULTS.iter().copied())?,
        })
    }

    /// Whether any pattern opts files in.
    pub fn has_includes(&self) -> bool {
        !self.include.is_empty()
    }

    /// Whether a pattern opts this path in, itself or by a directory above it.
    pub fn included(&self, path: &Path, is_dir: bool) -> bool {
        self.include.matched_path_or_any_parents(path, is_dir).is_ignore()
    }

    /// Which rule leaves this path out; the last word has `sync.include`, then `.crabboxignore`, then
    /// `sync.exclude`.
    pub fn rule(&self, path: &Path, is_dir: bool, tracked: bool) -> Option<Rule> {
        if self.has_includes() && self.included(path, is_dir) {
            return None;
        }
        for (matcher, rule) in [(&self.file, Rule::IgnoreFile), (&self.config, Rule::Config)] {
            match matcher.matched_path_or_any_parents(path, is_dir) {
                Match::Ignore(_) => return Some(rule),
                Match::Whitelist(_) => return None,
                Match::None => {}
            }
        }
        let default =
            !tracked && self.default.matched_path_or_any_parents(path, is_dir).is_ignore();
        default.then_some(Rule::Default)
    }
}

/// Words for all that decides what the rules of the tree at `root` leave out.
pub(super) fn fingerprint(root: &Path, rules: &SyncRules) -> Result<crabbox_tree::Hash> {
    let mut text = ignore_file(root)?;
    let defaults = DEFAULTS.iter().copied().map(|p| ("default", p));
    let exclude = rules.exclude.iter().map(|p| ("exclude", p.as_str()));
    let include = rules.include.iter().map(|p| ("include", p.as_str()));
    for (list, pattern) in defaults.chain(exclude).chain(include) {
        text.extend(format!("\0{list} {pattern}").bytes());
    }
    Ok(crabbox_tree::content_hash(&text))
}

fn ignore_file(root: &Path) -> Result<Vec<u8>> {
    let file = root.join(IGNORE_FILE);
    refuse_special(&file, IGNORE_FILE)?;
    match std::fs::read(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|e| super::manifest::unreadable(Path::new(IGNORE_FILE)).because(&e)),
    }
}

/// Refuses what is no file: whoever opens a pipe waits for somebody to write to it.
pub(super) fn refuse_special(file: &Path, name: &str) -> Result<()> {
    match file.metadata() {
        Ok(meta) if !meta.is_file() => Err(KernelError::new(
            ErrorCode::SyncRead,
            format!("{name} is not a regular file, and cannot be read"),
        )
        .hint("remove it, or put a file of patterns in its place")),
        _ => Ok(()),
    }
}

fn matcher<'a>(origin: &str, lines: impl Iterator<Item = &'a str>) -> Result<Gitignore> {
    let bad = |e: &ignore::Error, line: &str| {
        KernelError::new(ErrorCode::Config, format!("bad pattern {line:?} in {origin}")).because(e)
    };
    let mut builder = GitignoreBuilder::new("");
    for line in lines {
        builder.add_line(None, line).map_err(|e| bad(&e, line))?;
    }
    builder.build().map_err(|e| bad(&e, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(exclude: &[&str], include: &[&str]) -> SyncRules {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        SyncRules { exclude: list(exclude), include: list(include), ..SyncRules::default() }
    }

    #[test]
    fn defaults_never_touch_tracked_files() {
        let dir = tempfile::tempdir().unwrap();
        let excludes = Excludes::read(dir.path(), &rules(&[], &[])).unwrap();
        for path in
            ["dist/app.js", "a/node_modules/b/c", "x/.yarn/cache/z", "._x", "apps/web/.build/y"]
        {
            assert_eq!(excludes.rule(Path::new(path), false, false), Some(Rule::Default), "{path}");
            assert_eq!(excludes.rule(Path::new(path), false, true), None, "{path}");
        }
        assert_eq!(excludes.rule(Path::new("src/distance.rs"), false, false), None);
    }

    #[test]
    fn the_user_has_the_last_word() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(IGNORE_FILE), "# talk\n*.log\n!keep.log\n").unwrap();
        let excludes =
            Excludes::read(dir.path(), &rules(&["*.log", "big/"], &["target/wanted"])).unwrap();
        let rule = |path: &str| excludes.rule(Path::new(path), false, true);
        assert_eq!(rule("a.log"), Some(Rule::IgnoreFile));
        assert_eq!(rule("keep.log"), None);
        assert_eq!(rule("big/x"), Some(Rule::Config));
        assert_eq!(excludes.rule(Path::new("target/wanted/x"), false, false), None);
        assert_eq!(excludes.rule(Path::new("target/other"), false, false), Some(Rule::Default));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_ignore_file_that_is_a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join(IGNORE_FILE), 0o600.into()).unwrap();
        let error = fingerprint(dir.path(), &rules(&[], &[])).unwrap_err();
        assert_eq!(error.code, ErrorCode::SyncRead);
        assert!(error.message.contains(IGNORE_FILE), "{error}");
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Excludes::read(dir.path(), &rules(&["a[z-a]"], &[])).unwrap_err();
        assert_eq!(error.code, ErrorCode::Config);
        assert!(error.message.contains("sync.exclude"), "{error}");
    }
}
