//! Finds untracked files: reads the directories that changed, and believes the others.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::judge::{IGNORE_FILE, Judge};
use super::record::Stat;
use super::witness::Witness;
use crate::sync::manifest::bytes_of;

/// A directory that holds files of the tree, or could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dir {
    pub(super) path: PathBuf,
    pub(super) stat: Stat,
    /// Whether untracked files in it count; in ignored ones only tracked files do.
    pub(super) walked: bool,
    /// Where the directory above it stands in the list; its own place for the top.
    pub(super) above: u32,
}

impl AsRef<Path> for Dir {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// A walk under way.
pub(super) struct Walk<'a> {
    root: &'a Path,
    judge: Judge,
    is_tracked: &'a dyn Fn(&Path) -> bool,
    /// Directories that are believed or read already.
    known: HashSet<PathBuf>,
    /// Directories that were read.
    pub(super) dirs: Vec<Dir>,
    /// Untracked files in them.
    pub(super) found: Vec<PathBuf>,
    /// Ignore files in directories that are new.
    pub(super) ignores: Vec<Witness>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        root: &'a Path,
        judge: Judge,
        is_tracked: &'a dyn Fn(&Path) -> bool,
        known: HashSet<PathBuf>,
    ) -> Self {
        let (dirs, found, ignores) = (Vec::new(), Vec::new(), Vec::new());
        Self { root, judge, is_tracked, known, dirs, found, ignores }
    }

    /// Reads a directory and the unknown ones below it. `None` when only git can tell what is in there.
    pub(super) fn enter(&mut self, dir: &Path) -> Option<()> {
        let mut todo = vec![dir.to_owned()];
        while let Some(dir) = todo.pop() {
            let facts = self.root.join(&dir).symlink_metadata().ok()?;
            if !facts.is_dir() || facts.mode() == 0 {
                return None;
            }
            todo.extend(self.read(&dir)?);
            self.known.insert(dir.clone());
            self.dirs.push(Dir { path: dir, stat: Stat::of(&facts), walked: true, above: 0 });
        }
        Some(())
    }

    /// Notes the files of a directory; returns the directories in it that are to be read next.
    fn read(&mut self, dir: &Path) -> Option<Vec<PathBuf>> {
        let rules = self.judge.rules(dir)?;
        let mut below = Vec::new();
        for item in std::fs::read_dir(self.root.join(dir)).ok()? {
            let item = item.ok()?;
            let (name, kind) = (item.file_name(), item.file_type().ok()?);
            let path = dir.join(&name);
            if name == ".git" {
                dir.as_os_str().is_empty().then_some(())?;
                continue;
            }
            if name == IGNORE_FILE {
                self.ignores.push(Witness::of(self.root.join(&path), false)?);
            }
            if kind.is_dir() {
                if !self.known.contains(&path) && !rules.ignore(&path, true) {
                    below.push(path);
                }
            } else if (kind.is_file() || kind.is_symlink())
                && !(self.is_tracked)(&path)
                && !rules.ignore(&path, false)
            {
                self.found.push(path);
            }
        }
        Some(below)
    }
}

/// Sorts directories, adds those that tracked files stand in, and links each to the one above.
pub(super) fn arrange<'p>(
    root: &Path,
    dirs: &mut Vec<Dir>,
    tracked: impl Iterator<Item = &'p Path>,
) -> Option<()> {
    let mut known: HashSet<PathBuf> = dirs.iter().map(|dir| dir.path.clone()).collect();
    let mut last = Path::new("");
    for path in tracked {
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent == last {
            continue;
        }
        last = parent;
        for at in parent.ancestors() {
            if !known.insert(at.to_owned()) {
                break;
            }
            let stat = match root.join(at).symlink_metadata() {
                Ok(facts) => Stat::of(&facts),
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return None,
                Err(_) => Stat::default(),
            };
            dirs.push(Dir { path: at.to_owned(), stat, walked: false, above: 0 });
        }
    }
    dirs.sort_by(|a, b| bytes_of(&a.path).cmp(bytes_of(&b.path)));
    let places = places(dirs);
    let above: Vec<u32> = dirs
        .iter()
        .map(|dir| places.get(parent_of(&dir.path)).copied().unwrap_or_default())
        .collect();
    dirs.iter_mut().zip(above).for_each(|(dir, above)| dir.above = above);
    Some(())
}

/// Where each directory stands in the list.
pub(super) fn places(dirs: &[Dir]) -> HashMap<&Path, u32> {
    (0..).zip(dirs).map(|(at, dir)| (dir.path.as_path(), at)).collect()
}

/// The directory a path stands in; the top's is the top.
pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Which directories are directories, all the way up.
pub(super) fn real(dirs: &[Dir]) -> Vec<bool> {
    let mut real: Vec<bool> = Vec::with_capacity(dirs.len());
    for (at, dir) in dirs.iter().enumerate() {
        let above = dir.above as usize;
        let stands = above == at || real.get(above).copied().unwrap_or(false);
        real.push(stands && dir.stat.is_dir());
    }
    real
}
