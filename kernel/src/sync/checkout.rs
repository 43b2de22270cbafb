//! Finds the files of a directory: by asking git in a work tree, by walking anywhere else.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use crabbox_schemas::error::ErrorCode;

use crate::error::{KernelError, Result};
use crate::sync::excludes::{Excludes, LeftOut, refuse_special};
use crate::sync::manifest::{bytes_of, unreadable};
use crate::sync::{SyncRules, TreeKind, git};

/// What git leaves out.
const GITIGNORE: &str = ".gitignore";
/// How deep repositories inside repositories are followed.
const MAX_NESTING: usize = 16;

/// The files of a directory, not yet read.
#[derive(Debug)]
pub struct Checkout {
    /// Its top.
    pub root: PathBuf,
    /// What it is.
    pub kind: TreeKind,
    /// Paths below the top, in the order of their bytes.
    pub paths: Vec<PathBuf>,
    /// Tracked files that are gone.
    pub tracked_deletions: u64,
    /// What was left out.
    pub left_out: LeftOut,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Where the files of a directory are looked for.
#[derive(Debug)]
pub struct Place {
    /// The top of the tree.
    pub root: PathBuf,
    /// What kind of tree it is.
    pub kind: TreeKind,
    notes: Vec<String>,
}

/// Finds the work tree around a directory, or the directory itself.
pub fn place(dir: &Path) -> Result<Place> {
    let dir = std::fs::canonicalize(dir).map_err(|e| unreadable(dir).because(&e))?;
    let (root, kind, notes) = match top(&dir)? {
        Top::Git(root) => (root, TreeKind::Git, Vec::new()),
        Top::Plain => (dir, TreeKind::Directory, Vec::new()),
        Top::NoGit => {
            let note = "git was not found: every file is sent, whatever .gitignore says";
            let notes = if dir.join(".git").exists() { vec![note.to_owned()] } else { Vec::new() };
            (dir, TreeKind::Directory, notes)
        }
    };
    Ok(Place { root, kind, notes })
}

/// Finds the files of a tree.
pub fn find(place: Place, rules: &SyncRules) -> Result<Checkout> {
    let Place { root, kind, mut notes } = place;
    let mut search = Search {
        excludes: Excludes::read(&root, rules)?,
        root,
        paths: Vec::new(),
        deletions: BTreeSet::new(),
        left_out: LeftOut::default(),
        real_dirs: HashMap::new(),
        notes: Vec::new(),
    };
    match kind {
        TreeKind::Git => search.repository(Path::new(""), 0)?,
        TreeKind::Directory => search.walk()?,
    }
    notes.append(&mut search.notes);
    search.paths.sort_unstable_by(|a, b| bytes_of(a).cmp(bytes_of(b)));
    search.paths.dedup();
    Ok(Checkout {
        root: search.root,
        kind,
        paths: search.paths,
        tracked_deletions: search.deletions.len() as u64,
        left_out: search.left_out,
        notes,
    })
}

enum Top {
    Git(PathBuf),
    Plain,
    NoGit,
}

fn top(dir: &Path) -> Result<Top> {
    let absent = |at: &Path| {
        let there = at.join(".git").symlink_metadata();
        there.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    };
    if dir.ancestors().all(absent) {
        return Ok(Top::Plain);
    }
    let out = match git(dir, &["rev-parse", "--show-toplevel"]) {
        Ok(out) => out,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Top::NoGit),
        Err(e) => return Err(cannot_start(&e)),
    };
    if out.status.success() {
        let line = out.stdout.strip_suffix(b"\n").unwrap_or(&out.stdout);
        return Ok(Top::Git(PathBuf::from(OsString::from_vec(line.to_vec()))));
    }
    let said = String::from_utf8_lossy(&out.stderr);
    if said.contains("not a git repository") || said.contains("must be run in a work tree") {
        return Ok(Top::Plain);
    }
    Err(refused(&out, dir))
}

/// What git said when it would not work, with the way out of the commonest trouble.
fn refused(out: &Output, dir: &Path) -> KernelError {
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    let error = KernelError::new(ErrorCode::SyncRead, format!("git cannot read {}", dir.display()));
    let error = if said.contains("dubious ownership") {
        error.hint(format!(
            "another user owns it; if you trust it: git config --global --add safe.directory {}",
            crate::shell::quote(&dir.to_string_lossy())
        ))
    } else {
        error
    };
    let first = said.lines().next().unwrap_or("no reason given").to_owned();
    KernelError { causes: vec![first], ..error }
}

fn git(dir: &Path, args: &[&str]) -> std::io::Result<Output> {
    git::command(dir, args).output()
}

/// A list that git makes while we do something else.
struct List(Option<Child>);

impl List {
    fn ask(dir: &Path, args: &[&str]) -> Result<Self> {
        let mut git = git::command(dir, args);
        let started = git.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        started.map(|child| Self(Some(child))).map_err(|e| cannot_start(&e))
    }

    /// What git lists, and what it could not look into.
    fn hear(mut self, dir: &Path) -> Result<(Vec<u8>, Vec<String>)> {
        let Some(child) = self.0.take() else { return Ok(Default::default()) };
        let out = child.wait_with_output().map_err(|e| cannot_start(&e))?;
        if !out.status.success() {
            return Err(refused(&out, dir));
        }
        let said = String::from_utf8_lossy(&out.stderr);
        let warnings = said.lines().filter(|l| l.starts_with("warning: could not open directory"));
        Ok((out.stdout, warnings.map(|line| format!("{line}; nothing in it is sent")).collect()))
    }
}

impl Drop for List {
    /// Nobody wants to know any more.
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn cannot_start(error: &std::io::Error) -> KernelError {
    KernelError::new(ErrorCode::SyncRead, "cannot start git").because(error)
}

/// What git's index changes against the last commit; without one, all of it was added.
pub(super) fn staged(dir: &Path, how: &[&str]) -> Result<Vec<u8>> {
    ask_staged(dir, how)?.hear(dir).map(|(names, _)| names)
}

fn ask_staged(dir: &Path, how: &[&str]) -> Result<List> {
    let fixed = &["diff", "--cached", "--no-ext-diff", "--no-relative", "-z"][..];
    List::ask(dir, &[fixed, how].concat())
}

pub(super) fn split(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == 0).filter(|name| !name.is_empty())
}

struct Search {
    root: PathBuf,
    excludes: Excludes,
    paths: Vec<PathBuf>,
    deletions: BTreeSet<PathBuf>,
    left_out: LeftOut,
    /// By the bytes of their paths.
    real_dirs: HashMap<Vec<u8>, bool>,
    notes: Vec<String>,
}

impl Search {
    /// One repository at `base` below the root, and those inside it.
    fn repository(&mut self, base: &Path, depth: usize) -> Result<()> {
        let dir = self.root.join(base);
        if depth > MAX_NESTING {
            return Err(KernelError::new(
                ErrorCode::SyncRead,
                format!("{} nests too deeply", dir.display()),
            ));
        }
        // Git waits for whoever would write to a pipe of this name.
        refuse_special(&dir.join(GITIGNORE), &base.join(GITIGNORE).to_string_lossy())?;
        // All at once: each of them looks at every file.
        let tracked = List::ask(&dir, &["ls-files", "--cached", "--stage", "-z"])?;
        let others = List::ask(&dir, &["ls-files", "--others", "--exclude-standard", "-z"])?;
        let deleted = List::ask(&dir, &["ls-files", "--deleted", "-z"])?;
        let unstaged = ask_staged(&dir, &["--name-only", "--diff-filter=D", "-M"])?;
        self.tracked(&tracked.hear(&dir)?.0, base, depth)?;
        let (others, warnings) = others.hear(&dir)?;
        self.notes.extend(warnings);
        for name in split(&others) {
            self.untracked(base, name, false, depth)?;
        }
        if self.excludes.has_includes() {
            let ignored = ["ls-files", "--others", "--ignored", "--exclude-standard", "-z"];
            for name in split(&List::ask(&dir, &ignored)?.hear(&dir)?.0) {
                self.untracked(base, name, true, depth)?;
            }
        }
        self.deleted(&deleted.hear(&dir)?.0, base);
        self.deleted(&unstaged.hear(&dir)?.0, base);
        Ok(())
    }

    fn tracked(&mut self, listing: &[u8], base: &Path, depth: usize) -> Result<()> {
        for record in split(listing) {
            let Some(tab) = record.iter().position(|b| *b == b'\t') else { continue };
            let path = base.join(OsStr::from_bytes(&record[tab + 1..]));
            if record.starts_with(b"160000 ") {
                if self.stands_in_real_dirs(&path)
                    && self.root.join(&path).join(".git").symlink_metadata().is_ok()
                {
                    self.repository(&path, depth + 1)?;
                }
            } else {
                self.offer(path, true);
            }
        }
        Ok(())
    }

    /// An untracked path; a directory among them is a repository of its own, sent only when asked for.
    fn untracked(&mut self, base: &Path, name: &[u8], ignored: bool, depth: usize) -> Result<()> {
        let is_dir = name.ends_with(b"/");
        let path = base.join(OsStr::from_bytes(name.strip_suffix(b"/").unwrap_or(name)));
        let asked = self.excludes.has_includes() && self.excludes.included(&path, is_dir);
        if ignored && !asked {
            return Ok(());
        }
        if !is_dir {
            self.offer(path, false);
        } else if asked {
            self.repository(&path, depth + 1)?;
        } else {
            self.left_out.repositories += 1;
        }
        Ok(())
    }

    fn deleted(&mut self, names: &[u8], base: &Path) {
        for name in split(names) {
            let path = base.join(OsStr::from_bytes(name));
            if !self.stands_in_real_dirs(&path) || self.root.join(&path).symlink_metadata().is_err()
            {
                self.deletions.insert(path);
            }
        }
    }

    /// Takes a path unless a rule leaves it out or git's own data is meant.
    fn offer(&mut self, path: PathBuf, tracked: bool) {
        if is_git_data(&path) || !self.stands_in_real_dirs(&path) {
            return;
        }
        match self.excludes.rule(&path, false, tracked) {
            Some(rule) => self.left_out.count(rule, tracked),
            None => {
                self.paths.push(path);
            }
        }
    }

    /// Whether no directory above a path is a link: a path below one belongs to somebody else.
    fn stands_in_real_dirs(&mut self, path: &Path) -> bool {
        let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else { return true };
        if let Some(known) = self.real_dirs.get(bytes_of(parent)) {
            return *known;
        }
        let here = self.root.join(parent).symlink_metadata();
        let real = self.stands_in_real_dirs(parent)
            && here
                .map_or_else(|e| e.kind() == std::io::ErrorKind::PermissionDenied, |m| m.is_dir());
        self.real_dirs.insert(bytes_of(parent).to_vec(), real);
        real
    }

    /// Every file of a plain directory. Directories that a rule leaves out are entered only to look for
    /// paths that `sync.include` names.
    fn walk(&mut self) -> Result<()> {
        let mut todo = vec![PathBuf::new()];
        while let Some(dir) = todo.pop() {
            let read = std::fs::read_dir(self.root.join(&dir));
            for item in read.map_err(|e| unreadable(&dir).because(&e))? {
                let item = item.map_err(|e| unreadable(&dir).because(&e))?;
                let path = dir.join(item.file_name());
                let kind = item.file_type().map_err(|e| unreadable(&path).because(&e))?;
                if is_git_data(&path) {
                    continue;
                }
                if !kind.is_dir() {
                    self.offer(path, false);
                } else if let Some(rule) = self.excludes.rule(&path, true, false)
                    && !self.excludes.has_includes()
                {
                    self.left_out.count(rule, false);
                } else {
                    todo.push(path);
                }
            }
        }
        Ok(())
    }
}

fn is_git_data(path: &Path) -> bool {
    bytes_of(path).split(|b| *b == b'/').any(|name| name == b".git")
}
