//! A glance: whether all is as the index says, found without making anything of it.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Mutex;

use super::file::{Item, Opened};
use super::record::Stat;
use super::refresh::{Only, locked, open_top};
use super::witness::Witness;
use super::{Facts, Head};
use crate::error::Result;
use crate::sync::excludes::fingerprint;
use crate::sync::{Hint, SyncRules};

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
    Ok(match hint {
        Some(hint) if hint.changed.is_empty() && !front.sums.doubtful => Glance::Still,
        Some(hint) => Glance::Changed(Only::new(hint.changed.clone())),
        None => look(index, facts, front.head.moment)?,
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

/// Looks at every directory and every file.
fn look(index: &Opened, facts: &Facts, moment: i64) -> Result<Glance> {
    let top = open_top(&facts.place.root)?;
    let changes = Mutex::new(Changes::default());
    let note = |what: &dyn Fn(&mut Changes)| {
        let mut changes = locked(&changes);
        what(&mut changes);
        changes.doubt |= changes.files.len() + changes.dirs.len() > MOST;
    };
    let whole = index.each(|item| match item {
        Item::Record(record) if record.rule.is_some() && !record.tracked => {}
        Item::Record(record) => {
            let now = Stat::at(top.as_fd(), record.path);
            if !now.is_ok_and(|now| now.still(&record.stat, moment)) {
                note(&|changes| changes.files.push(record.path.to_owned()));
            }
        }
        Item::Dir(dir) => match Stat::at(top.as_fd(), dir.path) {
            Ok(now) if now.still(&dir.stat, moment) => {}
            Ok(now) if now.is_dir() == dir.stat.is_dir() => {
                note(&|changes| changes.dirs.push(dir.path.to_owned()));
            }
            _ => note(&|changes| changes.doubt = true),
        },
    });
    let Changes { files, dirs, doubt } = changes.into_inner().unwrap_or_else(|e| e.into_inner());
    Ok(match whole {
        Some(()) if files.is_empty() && dirs.is_empty() && !doubt => Glance::Still,
        Some(()) if !doubt => Glance::Changed(Only::new(files).with_dirs(dirs)),
        _ => Glance::Doubt,
    })
}
