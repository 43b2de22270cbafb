//! Brings what is known of a work tree up to date without git, as far as that can be done.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::Facts;
use super::judge::Judge;
use super::learn::{place, read_index, sort};
use super::record::{Record, UNPLACED};
use super::refresh::{Only, stats};
use super::staged::Staged;
use super::walk::{Walk, arrange, real};
use super::witness::Witness;
use crate::error::Result;
use crate::sync::excludes::Excludes;
use crate::sync::manifest::bytes_of;

/// What changed in what is known.
#[derive(Debug, Default)]
pub(super) struct Renewed {
    /// Something is worth remembering.
    pub(super) news: bool,
    /// Files came or went.
    pub(super) differs: bool,
    /// Those that went and were sent.
    pub(super) gone: Vec<PathBuf>,
}

/// When something was believed, and which of it is worth a look.
pub(super) struct Since<'a> {
    pub(super) moment: i64,
    pub(super) only: Option<&'a Only>,
}

/// Renews facts and records; `None` when the tree has to be learned again.
pub(super) fn renew(
    facts: &mut Facts,
    records: &mut Vec<Record>,
    since: &Since<'_>,
    excludes: impl FnOnce() -> Result<Excludes>,
) -> Result<Option<Renewed>> {
    if !facts.witnesses.iter().all(|witness| witness.holds(since.moment)) {
        return Ok(None);
    }
    let Some(head) = facts.place.head() else { return Ok(None) };
    let Some(tracked) = tracked_changes(facts, records, since.moment) else { return Ok(None) };
    let Some(stale) = look_at_dirs(facts, since) else { return Ok(None) };
    let news = tracked.file_changed || stale.news;
    let mut renewed = Renewed { news, ..Renewed::default() };
    if stale.any || !tracked.is_empty() {
        let Some(gone) = reshape(facts, records, &tracked, &stale) else { return Ok(None) };
        place(records, &facts.dirs, excludes)?;
        renewed = Renewed { news: true, differs: true, gone };
    }
    let moved = facts.head != head;
    if moved || (tracked.file_changed && (facts.staged.lacks || tracked.lost)) {
        facts.staged = Staged::ask(&facts.place.root, records)?;
        facts.head = head;
        renewed.news = true;
    }
    Ok(Some(renewed))
}

/// How git's index changed.
#[derive(Debug, Default)]
struct Tracked {
    file_changed: bool,
    gone: HashSet<PathBuf>,
    new: Vec<PathBuf>,
    /// Something that went is in the last commit.
    lost: bool,
}

impl Tracked {
    fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty()
    }
}

fn tracked_changes(facts: &mut Facts, records: &[Record], moment: i64) -> Option<Tracked> {
    let file = facts.place.index();
    let now = Witness::of(file, false)?.stat;
    if now.still(&facts.index, moment) {
        return Some(Tracked::default());
    }
    let (stat, paths) = read_index(&facts.place)?;
    facts.index = stat;
    let mut tracked = Tracked { file_changed: true, ..Tracked::default() };
    let mut old = records.iter().filter(|record| record.tracked).peekable();
    for path in paths {
        while let Some(gone) = old.next_if(|old| bytes_of(&old.path) < bytes_of(&path)) {
            tracked.lost |= gone.committed;
            tracked.gone.insert(gone.path.clone());
        }
        if old.next_if(|old| bytes_of(&old.path) == bytes_of(&path)).is_none() {
            tracked.new.push(path);
        }
    }
    for gone in old {
        tracked.lost |= gone.committed;
        tracked.gone.insert(gone.path.clone());
    }
    Some(tracked)
}

/// Which directories cannot be believed any more.
#[derive(Debug, Default)]
struct Stale {
    /// One for each directory: it has to be read again.
    again: Vec<bool>,
    any: bool,
    news: bool,
}

fn look_at_dirs(facts: &mut Facts, since: &Since<'_>) -> Option<Stale> {
    let told = since.only.map(|only| only.touches(&facts.dirs));
    let worth = |at: &usize| {
        let told = told.as_ref().is_none_or(|told| told[*at]);
        told || facts.dirs[*at].stat.is_racy(since.moment)
    };
    let chosen: Vec<usize> = (0..facts.dirs.len()).filter(worth).collect();
    let paths: Vec<&Path> = chosen.iter().map(|at| facts.dirs[*at].path.as_path()).collect();
    let now = stats(&facts.place.root, &paths)?;
    let mut stale = Stale { again: vec![false; facts.dirs.len()], ..Stale::default() };
    for (at, now) in chosen.into_iter().zip(now) {
        let dir = &mut facts.dirs[at];
        let still = now.still(&dir.stat, since.moment);
        stale.news |= now != dir.stat;
        stale.again[at] = !still && dir.walked;
        stale.any |= stale.again[at] || now.is_dir() != dir.stat.is_dir();
        dir.stat = now;
    }
    Some(stale)
}

/// Reads stale directories again and gives the records their new shape. The paths that were sent and are gone.
fn reshape(
    facts: &mut Facts,
    records: &mut Vec<Record>,
    tracked: &Tracked,
    stale: &Stale,
) -> Option<Vec<PathBuf>> {
    let root = facts.place.root.clone();
    let real = real(&facts.dirs);
    let parents: HashSet<&Path> = tracked.gone.iter().filter_map(|path| path.parent()).collect();
    // Each directory: kept as it is, read again, or neither.
    let read = |at: usize| {
        let dir = &facts.dirs[at];
        dir.walked && real[at] && (stale.again[at] || parents.contains(dir.path.as_path()))
    };
    let again: Vec<bool> = (0..facts.dirs.len()).map(read).collect();
    let keep = |at: usize| facts.dirs[at].walked && real[at] && !again[at];
    let kept: Vec<bool> = (0..facts.dirs.len()).map(keep).collect();

    let mut old = drop_records(records, tracked, &kept);
    records.extend(tracked.new.iter().map(|path| Record::new(path.clone(), true)));
    sort(records);

    let known = facts.dirs.iter().zip(kept.iter().zip(&again));
    let known = known.filter(|(_, (kept, again))| **kept || **again);
    let known: HashSet<PathBuf> = known.map(|(dir, _)| dir.path.clone()).collect();
    let judge =
        Judge::new(&root, &facts.place.shared.join("info/exclude"), facts.excludes.as_deref())?;
    let is_tracked = |path: &Path| {
        let found = records.binary_search_by(|r| bytes_of(&r.path).cmp(bytes_of(path)));
        found.is_ok_and(|at| records[at].tracked)
    };
    let mut walk = Walk::new(&root, judge, &is_tracked, known);
    let mut todo = Vec::new();
    let mut at = 0;
    facts.dirs.retain(|dir| {
        at += 1;
        todo.extend(again[at - 1].then(|| dir.path.clone()));
        kept[at - 1]
    });
    todo.iter().try_for_each(|dir| walk.enter(dir))?;
    let Walk { dirs, found, ignores, .. } = walk;
    for ignore in ignores {
        let told = facts.witnesses.iter().any(|witness| witness.path == ignore.path);
        let dir = ignore.path.parent().and_then(|dir| dir.strip_prefix(&root).ok());
        // New rules in a directory that was known may change all below it.
        if !told && dir.is_none_or(|dir| todo.iter().any(|known| known == dir)) {
            return None;
        }
        facts.witnesses.extend((!told).then_some(ignore));
    }
    facts.dirs.extend(dirs);
    records.extend(found.into_iter().map(|path| Record::new(path, false)));
    for record in records.iter_mut().filter(|record| record.dir == UNPLACED) {
        if let Some(old) = old.remove(&record.path) {
            record.learn_from(old);
        }
    }
    sort(records);
    let tracked =
        records.iter().filter(|record| record.tracked).map(|record| record.path.as_path());
    arrange(&root, &mut facts.dirs, tracked)?;
    Some(old.into_values().filter(|old| old.sent().is_some()).map(|old| old.path).collect())
}

/// Takes out the records that are no longer sure: by path, since most come back.
fn drop_records(
    records: &mut Vec<Record>,
    tracked: &Tracked,
    kept: &[bool],
) -> HashMap<PathBuf, Record> {
    let new: HashSet<&Path> = tracked.new.iter().map(PathBuf::as_path).collect();
    let unsure = |record: &mut Record| {
        if record.tracked {
            tracked.gone.contains(&record.path)
        } else {
            !kept.get(record.dir as usize).copied().unwrap_or_default()
                || new.contains(record.path.as_path())
        }
    };
    records.extract_if(.., unsure).map(|record| (record.path.clone(), record)).collect()
}
