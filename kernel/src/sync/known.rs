//! What a box was last seen to hold: a note here that saves asking there. A wrong one costs a round trip, no more.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crabbox_schemas::ids::LeaseId;
use crabbox_tree::Delta;

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
    /// In this file.
    Noted(PathBuf),
    Read(Manifest),
}

/// How the line begins that names the digest after each part of a note: the manifest, then what changed in it.
const NOW: &str = "now ";
/// Bytes of that line.
const LINE: u64 = 4 + 64 + 1;
/// Most paths of a change that is added to a note.
const SMALL: usize = 1000;
/// A note that would grow beyond this, and beyond twice what its files take, is written anew. Bytes.
const LEAST: u64 = 256 << 10;
const TWICE: u64 = 200;

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
        Some(Self { digest: hex(&manifest.digest()), held: Held::Read(manifest) })
    }

    /// What is noted; an empty tree when nothing is.
    pub(super) fn load(path: &Path) -> Self {
        let digest = File::open(path).ok().and_then(|file| last_digest(&file));
        match digest {
            // Should the note be damaged, its digest still only names what the box is asked to compare.
            Some(digest) => Self { digest, held: Held::Noted(path.to_owned()) },
            None => Self::nothing(),
        }
    }

    /// Its digest, 64 hex digits. It may change when the entries are read and the note is damaged or another one.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// Reads the entries.
    pub(super) fn read(&mut self) {
        if let Held::Noted(path) = &self.held {
            *self = whole(path).unwrap_or_else(Self::nothing);
        }
    }

    /// The entries, once they are read.
    pub(super) fn entries(&self) -> Option<&Manifest> {
        match &self.held {
            Held::Read(manifest) => Some(manifest),
            Held::Noted(_) => None,
        }
    }
}

/// The digest in the last line of a note.
fn last_digest(file: &File) -> Option<String> {
    let mut line = [0; LINE as usize];
    let at = file.metadata().ok()?.len().checked_sub(LINE)?;
    file.read_exact_at(&mut line, at).ok()?;
    let word = std::str::from_utf8(&line).ok()?.strip_prefix(NOW)?.strip_suffix('\n')?;
    unhex(word).map(|_| word.to_owned())
}

/// Reads a note and follows its changes; `None` unless they lead where it says.
fn whole(path: &Path) -> Option<Known> {
    let text = std::fs::read_to_string(path).ok()?;
    let (first, mut rest) = part(&text)?;
    let mut manifest = Manifest::from_text(first)?;
    let mut digest = "";
    while !rest.is_empty() {
        let word;
        (word, rest) = rest.split_once('\n')?;
        digest = word;
        if !rest.is_empty() {
            let change;
            (change, rest) = part(rest)?;
            manifest = Delta::from_text(change.as_bytes()).ok()?.apply(&manifest).ok()?;
        }
    }
    (hex(&manifest.digest()) == digest)
        .then(|| Known { digest: digest.to_owned(), held: Held::Read(manifest) })
}

/// What stands before the next line that names a digest, and what stands behind that line's first word.
fn part(text: &str) -> Option<(&str, &str)> {
    let at = text.find("\nnow ")? + 1;
    Some((&text[..at], &text[at + NOW.len()..]))
}

/// Notes what a box holds, and its digest: whole or not at all, but not proof against a crash of the machine.
pub(super) fn store(path: &Path, manifest: &Manifest, digest: &str) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    make_dir(dir)?;
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(dir)?;
        let text = format!("{}{NOW}{digest}\n", manifest.to_text());
        file.write_all(text.as_bytes())?;
        file.persist(path).map(drop).map_err(|e| e.error)
    };
    write().map_err(|e| failed("cannot write", path, &e))
}

/// Adds a small change to the note of a base, which then is one of so many files. Whether it was added; a note that is
/// not whole afterwards counts as none.
pub(super) fn follow(path: &Path, base: &str, delta: &Delta, digest: &str, files: u64) -> bool {
    let Ok(mut file) = File::options().read(true).append(true).open(path) else { return false };
    let (removed, wanted) = (&delta.removed, &delta.wanted);
    if removed.len() + wanted.len() > SMALL || last_digest(&file).as_deref() != Some(base) {
        return false;
    }
    let delta = Delta { removed: removed.clone(), wanted: wanted.clone(), recipes: Vec::new() };
    let mut text = delta.to_text();
    text.extend(format!("{NOW}{digest}\n").bytes());
    let size = file.metadata().map_or(u64::MAX, |facts| facts.len());
    let most = LEAST + files.saturating_mul(TWICE);
    size.saturating_add(text.len() as u64) <= most && file.write_all(&text).is_ok()
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

    fn links(paths: &[&str]) -> Manifest {
        let kind = Kind::Symlink { target: "x".into() };
        let entry = |path: &&str| Entry { path: path.into(), kind: kind.clone() };
        Manifest::new(paths.iter().map(entry).collect()).unwrap()
    }

    #[test]
    fn what_is_noted_is_read_back_and_damage_reads_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cbx_1/repo.base");
        let nothing = Known::nothing().digest().to_owned();
        assert_eq!(read(&path), (nothing.clone(), 0));
        let manifest = links(&["a"]);
        store(&path, &manifest, &hex(&manifest.digest())).unwrap();
        assert_eq!(Known::load(&path).digest(), hex(&manifest.digest()));
        assert_eq!(read(&path), (hex(&manifest.digest()), 1));
        let text = std::fs::read_to_string(&path).unwrap();
        for damaged in [text.replace("l x a", "l y a"), text[..text.len() - 9].to_owned()] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read(&path), (nothing.clone(), 0));
        }
    }

    #[test]
    fn a_change_is_added_to_the_note_of_its_base_and_to_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repo.base");
        let trees = [links(&["a", "b"]), links(&["a", "now \nc"]), links(&["now \nc"])];
        let digest = |tree: &Manifest| hex(&tree.digest());
        let add = |from: &Manifest, to: &Manifest| {
            follow(&path, &digest(from), &from.delta(to), &digest(to), 2)
        };
        assert!(!add(&trees[0], &trees[1]), "there is no note");
        store(&path, &trees[0], &digest(&trees[0])).unwrap();
        assert!(!add(&trees[1], &trees[2]), "the note is of another tree");
        assert!(add(&trees[0], &trees[1]) && add(&trees[1], &trees[2]));
        assert_eq!(Known::load(&path).digest(), digest(&trees[2]));
        assert_eq!(read(&path), (digest(&trees[2]), 1));
        let text = std::fs::read_to_string(&path).unwrap();
        let nothing = read(&dir.path().join("none"));
        for len in 0..text.len() {
            std::fs::write(&path, &text[..len]).unwrap();
            let (digest, entries) = read(&path);
            let is_known =
                trees.iter().any(|t| t.entries().len() == entries && hex(&t.digest()) == digest);
            assert!(is_known || (digest, entries) == nothing, "{len} bytes");
        }
        // Somebody else wrote in between: what is said is not what comes of it.
        let last = text[text.len() - LINE as usize..].to_owned();
        std::fs::write(
            &path,
            format!(
                "{text}{}{last}",
                String::from_utf8(trees[2].delta(&trees[0]).to_text()).unwrap()
            ),
        )
        .unwrap();
        assert_eq!(read(&path), nothing);
    }
}
