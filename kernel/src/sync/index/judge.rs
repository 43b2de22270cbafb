//! Says of one name whether git ignores it, from the same files that git reads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gix_ignore::glob::Pattern;
use gix_ignore::glob::pattern::Case;
use gix_ignore::glob::wildmatch;

use super::record::Stat;
use crate::sync::manifest::bytes_of;

/// The name of ignore files inside a tree.
pub(super) const IGNORE_FILE: &str = ".gitignore";

/// The ignore rules of a tree, read as they are needed.
pub(super) struct Judge {
    root: PathBuf,
    /// `info/exclude`, then the user's own file: what comes first decides.
    outer: [Rc<[Pattern]>; 2],
    inner: HashMap<PathBuf, Rc<[Pattern]>>,
}

/// The rules of one directory: its own first, then those of the directories above it.
pub(super) struct Rules(Vec<(usize, Rc<[Pattern]>)>);

impl Judge {
    /// The judge of the tree at `root`. `None` when a file of rules cannot be read.
    pub(super) fn new(root: &Path, exclude: &Path, user: Option<&Path>) -> Option<Self> {
        let user = user.map_or_else(|| Some([].into()), patterns)?;
        Some(Self {
            root: root.to_owned(),
            outer: [patterns(exclude)?, user],
            inner: HashMap::new(),
        })
    }

    /// The rules for names in a directory.
    pub(super) fn rules(&mut self, dir: &Path) -> Option<Rules> {
        let mut lists = Vec::new();
        for at in dir.ancestors() {
            let list = self.list(at)?;
            if !list.is_empty() {
                let len = bytes_of(at).len();
                lists.push((if len == 0 { 0 } else { len + 1 }, list));
            }
        }
        lists.extend(self.outer.iter().filter(|l| !l.is_empty()).map(|l| (0, Rc::clone(l))));
        Some(Rules(lists))
    }

    fn list(&mut self, dir: &Path) -> Option<Rc<[Pattern]>> {
        if let Some(known) = self.inner.get(dir) {
            return Some(Rc::clone(known));
        }
        let file = self.root.join(dir).join(IGNORE_FILE);
        // Git does not follow links here; what else it makes of them is its own business.
        let list = match std::fs::symlink_metadata(&file) {
            Ok(facts) if Stat::of(&facts).is_file() => patterns(&file)?,
            Ok(_) => return None,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => [].into(),
            Err(_) => return None,
        };
        self.inner.insert(dir.to_owned(), Rc::clone(&list));
        Some(list)
    }
}

impl Rules {
    /// Whether git ignores a path that stands directly in the directory of these rules.
    pub(super) fn ignore(&self, path: &Path, is_dir: bool) -> bool {
        let bytes = bytes_of(path);
        for (base, list) in &self.0 {
            let Some(below) = bytes.get(*base..) else { continue };
            let name = below.iter().rposition(|b| *b == b'/').map(|at| at + 1);
            let found = list.iter().rev().find(|pattern| {
                let mode = wildmatch::Mode::NO_MATCH_SLASH_LITERAL;
                let (case, is_dir) = (Case::Sensitive, Some(is_dir));
                pattern.matches_repo_relative_path(below.into(), name, is_dir, case, mode)
            });
            if let Some(pattern) = found {
                return !pattern.is_negative();
            }
        }
        false
    }
}

/// The patterns in a file; one that is not there has none.
fn patterns(file: &Path) -> Option<Rc<[Pattern]>> {
    match std::fs::read(file) {
        Ok(mut bytes) => {
            // Git ends the last line, which matters when it ends with a carriage return.
            bytes.push(b'\n');
            Some(gix_ignore::parse(&bytes, false).map(|(pattern, ..)| pattern).collect())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Some([].into()),
        Err(_) => None,
    }
}
