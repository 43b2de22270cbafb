//! What a box was last seen to hold: a note here that saves asking there. A wrong one costs a round trip, no more.

use std::io::Write;
use std::path::{Path, PathBuf};

use crabbox_schemas::ids::LeaseId;

use crate::error::Result;
use crate::state::{State, failed, make_dir};
use crate::sync::manifest::{Manifest, hex, unhex};

/// What a box is thought to hold; its entries are read when they are needed.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// 64 hex digits.
    digest: String,
    held: Held,
}

#[derive(Debug, Clone)]
enum Held {
    Text(String),
    Read(Manifest),
}

/// The file with what a lease's box holds of a repository.
pub(super) fn file(state: &State, lease: &LeaseId, repo: &str) -> PathBuf {
    state.boxes().join(lease.as_str()).join(format!("{repo}.base"))
}

/// What a lease's box was last seen to hold of a repository.
pub fn noted(state: &State, lease: &LeaseId, repo: &str) -> Manifest {
    let mut known = Known::load(&file(state, lease, repo));
    known.read();
    known.entries().cloned().unwrap_or_default()
}

/// Forgets a lease's box; nothing else of it is touched.
pub fn forget(state: &State, lease: &LeaseId) {
    let _ = std::fs::remove_dir_all(state.boxes().join(lease.as_str()));
}

impl Known {
    /// An empty tree.
    fn nothing() -> Self {
        let manifest = Manifest::default();
        Self { digest: hex(&manifest.digest()), held: Held::Read(manifest) }
    }

    /// From a manifest's text form; `None` when it is not whole.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let manifest = Manifest::from_text(text)?;
        Some(Self { digest: last_word(text)?, held: Held::Read(manifest) })
    }

    /// What is noted; an empty tree when nothing is.
    pub(super) fn load(path: &Path) -> Self {
        let Ok(text) = std::fs::read_to_string(path) else { return Self::nothing() };
        match last_word(&text) {
            // Should the note be damaged, its digest still only names what the box is asked to compare.
            Some(digest) => Self { digest, held: Held::Text(text) },
            None => Self::nothing(),
        }
    }

    /// Its digest, 64 hex digits. It may change when the entries are read and the note is damaged.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// Reads the entries.
    pub(super) fn read(&mut self) {
        if let Held::Text(text) = &self.held {
            *self = Self::from_text(text).unwrap_or_else(Self::nothing);
        }
    }

    /// The entries, once they are read.
    pub(super) fn entries(&self) -> Option<&Manifest> {
        match &self.held {
            Held::Read(manifest) => Some(manifest),
            Held::Text(_) => None,
        }
    }
}

/// The digest that ends a manifest's text form.
fn last_word(text: &str) -> Option<String> {
    let word = text.trim_end().rsplit(' ').next()?;
    unhex(word).map(|_| word.to_owned())
}

/// Notes what a box holds, and its digest: whole or not at all, but not proof against a crash of the machine.
pub(super) fn store(path: &Path, manifest: &Manifest, digest: &str) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    make_dir(dir)?;
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(dir)?;
        file.write_all(manifest.to_text_with(digest).as_bytes())?;
        file.persist(path).map(drop).map_err(|e| e.error)
    };
    write().map_err(|e| failed("cannot write", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::manifest::{Entry, Kind};

    fn read(path: &Path) -> (String, usize) {
        let mut known = Known::load(path);
        known.read();
        (known.digest().to_owned(), known.entries().unwrap().entries().len())
    }

    #[test]
    fn what_is_noted_is_read_back_and_damage_reads_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cbx_1/repo.base");
        let nothing = Known::nothing().digest().to_owned();
        assert_eq!(read(&path), (nothing.clone(), 0));
        let kind = Kind::Symlink { target: "x".into() };
        let manifest = Manifest::new(vec![Entry { path: "a".into(), kind }]).unwrap();
        store(&path, &manifest, &hex(&manifest.digest())).unwrap();
        assert_eq!(Known::load(&path).digest(), hex(&manifest.digest()));
        assert_eq!(read(&path), (hex(&manifest.digest()), 1));
        let text = std::fs::read_to_string(&path).unwrap();
        for damaged in [text.replace("l x a", "l y a"), text[..text.len() - 9].to_owned()] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read(&path), (nothing.clone(), 0));
        }
    }
}
