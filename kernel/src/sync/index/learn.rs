//! Learns a work tree from scratch: all that has to be remembered to list its files without git.
//!
//! What is learned is believed only when it names exactly the files that git just named.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::Facts;
use super::git_index;
use super::judge::Judge;
use super::record::{Record, Stat, UNPLACED};
use super::refresh::left_out;
use super::staged::Staged;
use super::walk::{Dir, Walk, arrange, parent_of, places, real};
use super::witness::{Place, Settings};
use crate::error::Result;
use crate::sync::checkout::Checkout;
use crate::sync::excludes::{Excludes, LeftOut};
use crate::sync::manifest::bytes_of;
use crate::sync::{SyncRules, TreeKind};

/// What is known of a work tree, and its files; `None` when it has to be asked for every time.
pub(super) fn learn(
    checkout: &Checkout,
    gathered: Option<(Facts, Vec<Record>)>,
    rules: &SyncRules,
) -> Result<Option<(Facts, Vec<Record>)>> {
    let plain = checkout.kind == TreeKind::Git && checkout.notes.is_empty();
    if !plain || !rules.include.is_empty() || checkout.left_out.repositories > 0 {
        return Ok(None);
    }
    let Some((mut facts, mut records)) = gathered else { return Ok(None) };
    let excludes = Excludes::read(&checkout.root, rules)?;
    place(&mut records, &facts.dirs, || Ok(excludes))?;
    if !agree(&records, &facts.dirs, checkout) {
        return Ok(None);
    }
    facts.staged = Staged::ask(&checkout.root, &mut records)?;
    Ok(Some((facts, records)))
}

/// What can be seen without git's lists, of a tree that was found from `dir`.
pub(super) fn gather(
    root: &Path,
    dir: &Path,
    env: &BTreeMap<String, String>,
) -> Option<(Facts, Vec<Record>)> {
    let place = Place::find(root)?;
    let head = place.head()?;
    let (index, tracked) = read_index(&place)?;
    let Settings { mut witnesses, excludes } = Settings::read(&place, dir, env)?;
    let judge = Judge::new(root, &place.shared.join("info/exclude"), excludes.as_deref())?;
    let is_tracked = |path: &Path| is_among(&tracked, path);
    let mut walk = Walk::new(root, judge, &is_tracked, HashSet::new());
    walk.enter(Path::new(""))?;
    let Walk { mut dirs, found, ignores, .. } = walk;
    arrange(root, &mut dirs, tracked.iter().map(PathBuf::as_path))?;
    witnesses.extend(ignores);
    let mut records: Vec<Record> =
        tracked.into_iter().map(|path| Record::new(path, true)).collect();
    records.extend(found.into_iter().map(|path| Record::new(path, false)));
    sort(&mut records);
    let staged = Staged::default();
    Some((Facts { place, witnesses, excludes, index, head, staged, dirs }, records))
}

/// Git's index file: its facts, and the paths in it.
pub(super) fn read_index(place: &Place) -> Option<(Stat, Vec<PathBuf>)> {
    let file = place.index();
    match file.metadata() {
        Ok(facts) => Some((Stat::of(&facts), git_index::paths(&std::fs::read(&file).ok()?)?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Some((Stat::default(), Vec::new())),
        Err(_) => None,
    }
}

fn is_among(sorted: &[PathBuf], path: &Path) -> bool {
    sorted.binary_search_by(|p| bytes_of(p).cmp(bytes_of(path))).is_ok()
}

/// Sorts records by the bytes of their paths.
pub(super) fn sort(records: &mut [Record]) {
    records.sort_by(|a, b| bytes_of(&a.path).cmp(bytes_of(&b.path)));
}

/// Places records in their directories, and asks the rules about those that were in none yet.
pub(super) fn place(
    records: &mut [Record],
    dirs: &[Dir],
    excludes: impl FnOnce() -> Result<Excludes>,
) -> Result<()> {
    let places = places(dirs);
    if records.iter().any(|record| record.dir == UNPLACED) {
        let excludes = excludes()?;
        for record in records.iter_mut().filter(|record| record.dir == UNPLACED) {
            record.rule = excludes.rule(&record.path, false, record.tracked);
        }
    }
    let mut last: Option<(&Path, u32)> = None;
    for record in records {
        let parent = parent_of(&record.path);
        let at = match last {
            Some((dir, at)) if dir == parent => at,
            _ => places.get(parent).copied().unwrap_or_default(),
        };
        last = dirs.get(at as usize).map(|dir| (dir.path.as_path(), at));
        record.dir = at;
    }
    Ok(())
}

/// Judges all records by other rules.
pub(super) fn judge_again(records: &mut [Record], excludes: &Excludes) {
    for record in records {
        record.rule = excludes.rule(&record.path, false, record.tracked);
    }
}

/// Whether records name the same files as git did, and the same that are left out.
fn agree(records: &[Record], dirs: &[Dir], checkout: &Checkout) -> bool {
    let real = real(dirs);
    let sent = |record: &&Record| {
        record.rule.is_none() && real.get(record.dir as usize).copied().unwrap_or_default()
    };
    let mut theirs: Vec<&Path> = checkout.paths.iter().map(PathBuf::as_path).collect();
    theirs.sort_by(|a, b| bytes_of(a).cmp(bytes_of(b)));
    count_left_out(records, &real) == checkout.left_out
        && records.iter().filter(sent).map(|record| record.path.as_path()).eq(theirs)
}

/// How much the rules leave out.
pub(super) fn count_left_out(records: &[Record], real: &[bool]) -> LeftOut {
    let mut out = LeftOut::default();
    for (rule, tracked) in records.iter().filter_map(|record| left_out(record, real)) {
        out.count(rule, tracked);
    }
    out
}
