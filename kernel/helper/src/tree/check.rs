//! Whether the tree still is what was recorded: by the looks of its files, and by their bytes where looks prove nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use crabbox_tree::{Entry, Hash, Kind};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::tree::dirs::Dirs;
use crate::tree::fault::{Fault, Result};
use crate::tree::stat::{Look, Moment, Record};
use crate::tree::state::State;
use crate::tree::threads;

/// Size of one read.
pub(crate) const PIECE: usize = 128 << 10;

/// What a check found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Entries that are not as recorded, by index, in order.
    pub(crate) drift: Vec<usize>,
    /// New records of those that are.
    pub(crate) fresh: Vec<(usize, Record)>,
}

/// Checks these entries of the tree, or all. `bytes` reads every file.
pub(crate) fn check(
    top: &OwnedFd,
    state: &State,
    these: Option<&[usize]>,
    stamp: Moment,
    bytes: bool,
) -> Result<Checked> {
    let count = these.map_or(state.records.len(), <[usize]>::len);
    let parts = threads::split(count, |range| {
        let mut dirs = Dirs::new(top);
        let mut buffer = Vec::new();
        let mut checked = Checked::default();
        for at in range {
            let index = these.map_or(at, |these| these[at]);
            let (entry, record) = (&state.manifest.entries()[index], &state.records[index]);
            match one(&mut dirs, entry, record, stamp, bytes, &mut buffer)? {
                Verdict::Same => {}
                Verdict::Fresh(record) => checked.fresh.push((index, record)),
                Verdict::Drift => checked.drift.push(index),
            }
        }
        Ok::<_, Fault>(checked)
    });
    let mut all = Checked::default();
    for part in parts {
        let part = part?;
        all.drift.extend(part.drift);
        all.fresh.extend(part.fresh);
    }
    Ok(all)
}

enum Verdict {
    Same,
    Fresh(Record),
    Drift,
}

fn one(
    dirs: &mut Dirs<'_>,
    entry: &Entry,
    record: &Record,
    stamp: Moment,
    bytes: bool,
    buffer: &mut Vec<u8>,
) -> Result<Verdict> {
    let look = match dirs.look(&entry.path) {
        Ok(Some(look)) => look,
        Ok(None) => return Ok(Verdict::Drift),
        Err(errno) => return scarce(errno).map(|()| Verdict::Drift),
    };
    if record.sure && look == record.look && !bytes {
        return Ok(Verdict::Same);
    }
    Ok(match stands(dirs, entry, &look, buffer)? {
        Some(look) => Verdict::Fresh(Record::taken(look, stamp)),
        None => Verdict::Drift,
    })
}

/// Whether an entry stands at its path, read anew; how it looked, if so. `look` is how the path looks.
pub(crate) fn stands(
    dirs: &mut Dirs<'_>,
    entry: &Entry,
    look: &Look,
    buffer: &mut Vec<u8>,
) -> Result<Option<Look>> {
    match &entry.kind {
        Kind::Symlink { target } => {
            let is = look.kind() == FileType::Symlink && {
                let (dir, name) = match dirs.parent(&entry.path) {
                    Ok(place) => place,
                    Err(errno) => return scarce(errno).map(|()| None),
                };
                rustix::fs::readlinkat(dir, name, Vec::new())
                    .is_ok_and(|found| found.to_bytes() == target.as_bytes())
            };
            Ok(is.then_some(*look))
        }
        Kind::File { size, sha256, exec } => {
            if !look.is_file() || look.size != *size || look.exec() != *exec {
                return Ok(None);
            }
            Ok(content(dirs, &entry.path, buffer)?.filter(|(hash, _)| hash == sha256).map(|c| c.1))
        }
    }
}

/// The hash of a regular file that holds still, and how it looked; `None` when it cannot be had.
pub(crate) fn content(
    dirs: &mut Dirs<'_>,
    path: &std::path::Path,
    buffer: &mut Vec<u8>,
) -> Result<Option<(Hash, Look)>> {
    let read = dirs.open_file(path).and_then(|fd| content_of(&fd, buffer));
    match read {
        Ok(found) => Ok(found),
        Err(errno) => scarce(errno).map(|()| None),
    }
}

/// The same for an open file.
pub(crate) fn content_of(
    fd: impl AsFd,
    buffer: &mut Vec<u8>,
) -> rustix::io::Result<Option<(Hash, Look)>> {
    let before = Look::of(&fstat(&fd)?);
    if !before.is_file() {
        return Ok(None);
    }
    buffer.resize(PIECE, 0);
    let mut hasher = Sha256::new();
    let mut size = 0;
    loop {
        let n = match rustix::io::read(&fd, buffer.as_mut_slice()) {
            Err(Errno::INTR) => continue,
            read => read?,
        };
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
        if size > before.size {
            return Ok(None);
        }
        if size == before.size && n < buffer.len() {
            break;
        }
    }
    let after = Look::of(&fstat(&fd)?);
    Ok((after == before && size == after.size).then(|| (hasher.finalize().into(), after)))
}

/// An error that says nothing about the file is a fault; the others mean that it is not what it should be.
fn scarce(errno: Errno) -> Result<()> {
    match errno {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => Err(Fault::of("look at the tree")(errno)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crabbox_tree::{Manifest, content_hash};

    use super::*;

    #[test]
    fn reading_every_byte_sees_what_looks_hide() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "what is there").unwrap();
        let stat = rustix::fs::stat(dir.path().join("a")).unwrap();
        let kind = Kind::File { size: 13, sha256: content_hash(b"what was there"), exec: false };
        let mut state =
            State::unseen(Manifest::new(vec![Entry { path: "a".into(), kind }]).unwrap());
        state.records[0] = Record { look: Look::of(&stat), sure: true };
        let top: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        let look = |bytes| check(&top, &state, None, (0, 0), bytes).unwrap().drift;
        assert_eq!((look(false), look(true)), (vec![], vec![0]));
    }

    #[test]
    fn a_flight_with_checksum_sees_what_one_without_believes() {
        use crate::tree::{Begin, Tree};
        use crabbox_schemas::helper::{Refused, TreeChange};
        use crabbox_tree::{block::Block, hex};

        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(&dir.path().join("cbx_1"), "repo", "cbx_1").unwrap();
        let kind = Kind::File { size: 5, sha256: content_hash(b"right"), exec: false };
        let wanted = Manifest::new(vec![Entry { path: "a".into(), kind }]).unwrap();
        let (nothing, target) = (Manifest::default(), hex(&wanted.digest()));
        let change = |base: &str, checksum| {
            let (base, target) = (base.to_owned(), target.clone());
            TreeChange { base, target, ask: false, checksum, seed: None }
        };
        let begun = tree.begin(&change(&hex(&nothing.digest()), false), nothing.delta(&wanted));
        let Ok(Begin::Ready(mut staging)) = begun else { panic!("{begun:?}") };
        let mut block = Block::default();
        block.push(&content_hash(b"right"), b"right");
        staging.put(block.seal(None).unwrap().into()).unwrap();
        staging.apply(&mut tree).unwrap();

        let at = tree.workdir().join("a");
        std::fs::write(&at, "wrong").unwrap();
        let look = Look::of(&rustix::fs::stat(&at).unwrap());
        tree.state.records[0] = Record { look, sure: true };
        let begun = tree.begin(&change(&target, false), wanted.delta(&wanted)).unwrap();
        assert!(matches!(begun, Begin::Ready(_)), "looks are believed: {begun:?}");
        let begun = tree.begin(&change(&target, true), wanted.delta(&wanted)).unwrap();
        let Begin::Refused(Refused::Drift { paths }, None) = begun else { panic!("{begun:?}") };
        assert_eq!(paths.len(), 1);
    }
}
