//! Changes to a work tree between two runs.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::repos::append;
use crate::stage::Stage;

/// Somebody who edits files of a repository, each time differently.
pub(crate) struct Editor {
    files: Vec<PathBuf>,
    times: Cell<usize>,
}

impl Editor {
    pub(crate) fn of(stage: &Stage, repo: &Path) -> Result<Self> {
        let listing = stage.listing(repo)?;
        let names =
            listing.split(|b| *b == 0).map(|name| String::from_utf8_lossy(name).into_owned());
        let files: Vec<PathBuf> =
            names.filter(|n| n.ends_with(".rs")).map(|n| repo.join(n)).collect();
        if files.is_empty() {
            Err("no sources to edit".into())
        } else {
            Ok(Self { files, times: Cell::new(0) })
        }
    }

    /// Adds a line to so many files that lie far from each other.
    pub(crate) fn edit(&self, count: usize) -> Result<()> {
        let time = self.times.replace(self.times.get() + 1);
        let step = (self.files.len() / count.max(1)).max(1);
        let files = self.files.iter().skip(time % step).step_by(step).take(count);
        files
            .map(PathBuf::as_path)
            .try_for_each(|path| append(path, &format!("// edit {time} of {count}\n")))
    }

    /// The first of them, for changes on the box.
    pub(crate) fn first(&self) -> &Path {
        &self.files[0]
    }
}
