//! What a box was last seen to hold: a note here that saves asking there. A wrong one costs a round trip, no more.

use std::io::Write;
use std::path::{Path, PathBuf};

use crabbox_schemas::ids::LeaseId;

use crate::error::Result;
use crate::state::{State, failed, make_dir};
use crate::sync::manifest::{Manifest, hex};

/// A manifest and its digest.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) manifest: Manifest,
    /// 64 hex digits.
    pub(super) digest: String,
}

/// The file with what a lease's box holds of a repository.
pub(super) fn file(state: &State, lease: &LeaseId, repo: &str) -> PathBuf {
    state.boxes().join(lease.as_str()).join(format!("{repo}.base"))
}

/// Forgets a lease's box; nothing else of it is touched.
pub fn forget(state: &State, lease: &LeaseId) {
    let _ = std::fs::remove_dir_all(state.boxes().join(lease.as_str()));
}

impl Known {
    /// An empty tree.
    pub(super) fn nothing() -> Self {
        let manifest = Manifest::default();
        let digest = hex(&manifest.digest());
        Self { manifest, digest }
    }

    /// From a manifest's text form; `None` when it is not whole.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let manifest = Manifest::from_text(text)?;
        // Its last line is its digest, which reading it has proved.
        let digest = text.trim_end().rsplit(' ').next()?.to_owned();
        Some(Self { manifest, digest })
    }

    /// What is noted; an empty tree when nothing is.
    pub(super) fn load(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).ok();
        text.and_then(|text| Self::from_text(&text)).unwrap_or_else(Self::nothing)
    }

    /// Notes it: whole or not at all, but not proof against a crash of the machine.
    pub(super) fn store(&self, path: &Path) -> Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        make_dir(dir)?;
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(dir)?;
            file.write_all(self.manifest.to_text().as_bytes())?;
            file.persist(path).map(drop).map_err(|e| e.error)
        };
        write().map_err(|e| failed("cannot write", path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_back_and_damage_reads_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cbx_1/repo.base");
        assert_eq!(Known::load(&path).digest, Known::nothing().digest);
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let mut notes = Vec::new();
        let manifest =
            crate::sync::manifest::read(dir.path(), vec!["file".into()], &mut notes).unwrap();
        let digest = hex(&manifest.digest());
        Known { manifest, digest: digest.clone() }.store(&path).unwrap();
        assert_eq!(Known::load(&path).digest, digest);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        assert_eq!(Known::load(&path).digest, Known::nothing().digest);
    }
}
