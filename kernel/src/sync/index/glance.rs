//! A glance: whether all is as the index says, found without making anything of it.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::file::Opened;
use super::record::Stat;
use super::refresh::{Only, locked, open_top};
use super::source::Item;
use super::witness::Witness;
use super::{Facts, Head};
use crate::error::Result;
use crate::sync::excludes::fingerprint;
use crate::sync::manifest::bytes_of;
use crate::sync::{Hint, SyncRules};

/// With more paths than this in a hint, what they are is not looked at first.
const FEW: usize = 16;
/// With more changes than this the whole tree is looked at again.
const MOST: usize = 1000;

/// What a glance says.
pub(super) enum Glance {
    /// Everything is as it was.
    Still,
    /// Only these paths are not.
    Changed(Only),
    /// It cannot tell.
    Doubt,
}

/// Compares an index with the tree, or with what a watcher told of it.
pub(super) fn glance(
    index: &Opened,
    head: &Head,
    rules: &SyncRules,
    hint: Option<&Hint>,
) -> Result<Glance> {
    let front = &index.front;
    let Some(facts) = front.facts.as_ref().filter(|_| !rules.checksum) else {
        return Ok(Glance::Doubt);
    };
    let same_rules = rules.include.is_empty()
        && front.head.surroundings == head.surroundings
        && front.head.rules == fingerprint(&facts.place.root, rules)?;
    if !same_rules || !git_stands(facts, front.head.moment) {
        return Ok(Glance::Doubt);
    }
    let told = match hint {
        None => None,
        Some(hint) if front.sums.doubtful || hint.changed.len() > FEW => {
            return Ok(Glance::Changed(Only::new(hint.changed.clone())));
        }
        Some(hint) if hint.changed.is_empty() => return Ok(Glance::Still),
        Some(hint) => Some(&hint.changed[..]),
    };
    let seen = look(index, facts, front.head.moment, told)?;
    Ok(match (seen, told) {
        (Glance::Changed(_), Some(told)) => Glance::Changed(Only::new(told.to_vec())),
        (seen, _) => seen,
    })
}

/// Whether a path is among those that were told of, or below one, or a directory that holds one.
fn is_told(told: Option<&[PathBuf]>, path: &Path, is_dir: bool) -> bool {
    let Some(told) = told else { return true };
    let path = bytes_of(path);
    told.iter().any(|one| {
        let one = bytes_of(one);
        let below = path.strip_prefix(one).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
        let holder = &one[..one.iter().rposition(|b| *b == b'/').unwrap_or(0)];
        below || one.is_empty() || (is_dir && holder == path)
    })
}

/// Whether git would judge as it did: its settings, its index, what `HEAD` names.
fn git_stands(facts: &Facts, moment: i64) -> bool {
    facts.witnesses.iter().all(|witness| witness.holds(moment))
        && facts.place.head().is_some_and(|head| head == facts.head)
        && Witness::of(facts.place.index(), false)
            .is_some_and(|index| index.stat.still(&facts.index, moment))
}

/// What changed, seen since the glance began.
#[derive(Default)]
struct Changes {
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
    /// What was a directory is none any more, or there are too many changes.
    doubt: bool,
}

/// Looks at every directory and every file, or at those that were told of.
fn look(index: &Opened, facts: &Facts, moment: i64, told: Option<&[PathBuf]>) -> Result<Glance> {
    let opened = open_top(&facts.place.root)?;
    let top = opened.as_fd();
    let changes = Mutex::new(Changes::default());
    let note = |what: &dyn Fn(&mut Changes)| {
        let mut changes = locked(&changes);
        what(&mut changes);
        changes.doubt |= changes.files.len() + changes.dirs.len() > MOST;
    };
    let whole = index.each(|item| match item {
        Item::Record(record) if record.rule.is_some() && !record.tracked => {}
        Item::Record(record) if !is_told(told, record.path, false) => {}
        Item::Dir(dir) if !is_told(told, dir.path, true) => {}
        Item::Record(record) => {
            let now = Stat::at(top, record.path);
            if !now.is_ok_and(|now| now.still(&record.stat, moment)) {
                note(&|changes| changes.files.push(record.path.to_owned()));
            }
        }
        Item::Dir(dir) => match Stat::at(top, dir.path) {
            Ok(now) if now.still(&dir.stat, moment) => {}
            Ok(now) if now.is_dir() == dir.stat.is_dir() => {
                note(&|changes| changes.dirs.push(dir.path.to_owned()));
            }
            _ => note(&|changes| changes.doubt = true),
        },
    });
    let Changes { files, dirs, doubt } =
        changes.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(match whole {
        Some(()) if files.is_empty() && dirs.is_empty() && !doubt => Glance::Still,
        Some(()) if !doubt => Glance::Changed(Only::new(files).with_dirs(dirs)),
        _ => Glance::Doubt,
    })
}
