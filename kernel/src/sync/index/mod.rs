//! The local index: what a tree looked like at the last scan, so that the next one reads only what changed.
//!
//! Three things are remembered, each believed only as long as the file system vouches for it: which files
//! there are ([`learn`] asks git once, [`renew`] follows directory times, ignore files, git's settings and
//! git's own index), what is in them ([`mod@refresh`] reads a file again when its stat differs), and the
//! manifest's digest. Whatever changed at the moment of a scan or later is looked at again, as a second
//! change may hide within the same tick of the clock. Everything else is asked for as without an index.

pub(super) mod content;
mod file;
mod git_index;
mod judge;
mod learn;
pub(super) mod record;
pub(super) mod refresh;
mod renew;
mod staged;
mod walk;
mod witness;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_tree::{Hash, content_hash, hex};

use crate::error::Result;
use crate::sync::checkout::{self, Checkout};
use crate::sync::excludes::{Excludes, fingerprint};
use crate::sync::manifest::{self, bytes_of, unreadable};
use crate::sync::{Keep, Lazy, LocalTree, ScanOptions, SyncRules, TreeKind};

use record::{Record, Stat, What};
use refresh::{Only, Recipes, Seen, Trust, is_gone, refresh};
use renew::Since;
use staged::Staged;
use walk::Dir;
use witness::{Place, Witness};

/// Whose index it is and what it was made with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    /// The directory that was scanned.
    dir: PathBuf,
    /// What changed then or later is not believed. Nanoseconds.
    moment: i64,
    /// What git saw of the environment.
    surroundings: Hash,
    /// What the rules were.
    rules: Hash,
    /// What a watcher calls the moment.
    token: Option<String>,
}

/// What lets the files of a work tree be listed without asking git.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    place: Place,
    witnesses: Vec<Witness>,
    /// The user's own ignore file.
    excludes: Option<PathBuf>,
    /// Git's index file.
    index: Stat,
    /// What `HEAD` named.
    head: Vec<u8>,
    staged: Staged,
    dirs: Vec<Dir>,
}

/// What is kept between scans.
#[derive(Debug, Default)]
struct Kept {
    head: Head,
    facts: Option<Facts>,
    records: Vec<Record>,
    recipes: Recipes,
    digest: Hash,
}

/// The place of one tree's index, and the moment the scan begins.
struct Shelf {
    folder: PathBuf,
    file: PathBuf,
    moment: i64,
}

impl Shelf {
    /// Without a place to keep it there is no index, and everything is read.
    fn open(folder: &Path, dir: &Path) -> Option<Self> {
        crate::state::make_dir(folder).ok()?;
        // The time as the file system tells it, to compare it with times of files.
        let facts = tempfile::tempfile_in(folder).and_then(|file| file.metadata()).ok()?;
        let name = &hex(&content_hash(bytes_of(dir)))[..32];
        let moment = Stat::of(&facts).ctime;
        Some(Self { folder: folder.to_owned(), file: folder.join(name), moment })
    }
}

/// Reads a tree and remembers nothing.
pub(super) fn look_afresh(dir: &Path, rules: &SyncRules) -> Result<LocalTree> {
    let found = checkout::find(checkout::place(dir)?, rules)?;
    let mut scan = Scan::of(found, None);
    scan.refresh(i64::MIN, None)?;
    let mut tree = scan.into_tree()?;
    tree.digest = tree.manifest.digest();
    Ok(tree)
}

/// Reads what changed in a tree since the last scan, and remembers what it is now.
pub(super) fn look(
    dir: &Path,
    rules: &SyncRules,
    keep: Keep<'_>,
    options: &ScanOptions<'_>,
) -> Result<LocalTree> {
    let dir = std::fs::canonicalize(dir).map_err(|e| unreadable(dir).because(&e))?;
    let Some(shelf) = Shelf::open(keep.dir, &dir) else { return look_afresh(&dir, rules) };
    let mut kept = file::read(&shelf.file).filter(|kept| kept.head.dir == dir).unwrap_or_default();
    let hint = options.hint.filter(|hint| Some(&hint.token) == kept.head.token.as_ref());
    let only = hint.filter(|_| !rules.checksum).map(|hint| Only::new(hint.changed.clone()));
    let mut head = Head {
        dir,
        moment: shelf.moment,
        surroundings: witness::surroundings(keep.env),
        token: options.token.map(str::to_owned),
        ..Head::default()
    };
    let known = Scan::known(&mut kept, &head, rules, only.as_ref())?;
    let warm = known.is_some();
    let mut scan = match known {
        Some(scan) => scan,
        None => Scan::asked(&mut kept, &head.dir, rules, keep)?,
    };
    head.rules = fingerprint(&scan.root, rules)?;
    let moment = if rules.checksum { i64::MIN } else { kept.head.moment };
    scan.refresh(moment, only.as_ref().filter(|_| warm))?;
    if hint.is_none() && options.token.is_some() && head.token != kept.head.token {
        scan.seen.news = true;
    }
    finish(scan, head, &kept, &shelf)
}

/// Makes the tree, and writes the index if it has news.
fn finish(scan: Scan, head: Head, kept: &Kept, shelf: &Shelf) -> Result<LocalTree> {
    let (news, differs) = (scan.seen.news, scan.seen.differs);
    // An index that cannot be written is only missed.
    let draft = (news || differs).then(|| scan.draft(&head, shelf)).and_then(std::io::Result::ok);
    let mut tree = scan.into_tree()?;
    tree.moment = shelf.moment;
    tree.digest = if differs { tree.manifest.digest() } else { kept.digest };
    tree.token.clone_from(&kept.head.token);
    if let Some(draft) = draft {
        match draft.finish(&tree.digest, &shelf.file) {
            Ok(()) => tree.token = head.token,
            Err(error) => tracing::debug!(%error, "the index was not written"),
        }
    }
    Ok(tree)
}

/// A scan under way: which files there are, then what is in them.
struct Scan {
    root: PathBuf,
    kind: TreeKind,
    records: Vec<Record>,
    recipes: Recipes,
    facts: Option<Facts>,
    /// What git said, when it was asked.
    asked: Option<Checkout>,
    real: Vec<bool>,
    seen: Seen,
    tracked_deletions: u64,
}

impl Scan {
    /// The files that git or a walk just named, with what was learned about them.
    fn of(mut found: Checkout, learned: Option<(Facts, Vec<Record>)>) -> Self {
        let paths = std::mem::take(&mut found.paths);
        let (facts, records) = match learned {
            Some((facts, records)) => (Some(facts), records),
            None => (None, paths.into_iter().map(|path| Record::new(path, false)).collect()),
        };
        let mut scan = Self {
            root: found.root.clone(),
            kind: found.kind,
            records,
            recipes: Recipes::new(),
            real: facts.as_ref().map(|facts| walk::real(&facts.dirs)).unwrap_or_default(),
            facts,
            asked: Some(found),
            seen: Seen { news: true, differs: true },
            tracked_deletions: 0,
        };
        learn::sort(&mut scan.records);
        scan
    }

    /// The files as the index knows them; `None` when somebody has to be asked.
    fn known(
        kept: &mut Kept,
        head: &Head,
        rules: &SyncRules,
        only: Option<&Only>,
    ) -> Result<Option<Self>> {
        let Some(mut facts) = kept.facts.take() else { return Ok(None) };
        if kept.head.surroundings != head.surroundings || !rules.include.is_empty() {
            return Ok(None);
        }
        let root = facts.place.root.clone();
        let other_rules = kept.head.rules != fingerprint(&root, rules)?;
        let since = Since { moment: kept.head.moment, only: only.filter(|_| !other_rules) };
        if other_rules {
            learn::judge_again(&mut kept.records, &Excludes::read(&root, rules)?);
        }
        let excludes = || Excludes::read(&root, rules);
        let Some(renewed) = renew::renew(&mut facts, &mut kept.records, &since, excludes)? else {
            return Ok(None);
        };
        let seen =
            Seen { news: renewed.news || other_rules, differs: renewed.differs || other_rules };
        Ok(Some(Self {
            real: walk::real(&facts.dirs),
            root,
            kind: TreeKind::Git,
            records: std::mem::take(&mut kept.records),
            recipes: std::mem::take(&mut kept.recipes),
            facts: Some(facts),
            asked: None,
            seen,
            tracked_deletions: 0,
        }))
    }

    /// The files as git or a walk names them now, and what can be learned for the next time.
    fn asked(kept: &mut Kept, dir: &Path, rules: &SyncRules, keep: Keep<'_>) -> Result<Self> {
        let place = checkout::place(dir)?;
        let (root, is_git) = (place.root.clone(), place.kind == TreeKind::Git);
        // Git's lists and our own look at the same directories, side by side.
        let (found, gathered) = std::thread::scope(|scope| {
            let look = || is_git.then(|| learn::gather(&root, dir, keep.env)).flatten();
            let look = scope.spawn(look);
            (checkout::find(place, rules), look.join().ok().flatten())
        });
        let found = found?;
        let learned = learn::learn(&found, gathered, rules)?;
        let mut scan = Self::of(found, learned);
        let old = std::mem::take(&mut kept.records).into_iter();
        let mut old: HashMap<_, _> = old.map(|record| (record.path.clone(), record)).collect();
        for record in &mut scan.records {
            if let Some(old) = old.remove(&record.path) {
                record.learn_from(old);
            }
        }
        scan.recipes = std::mem::take(&mut kept.recipes);
        Ok(scan)
    }

    /// Brings contents up to date.
    fn refresh(&mut self, moment: i64, only: Option<&Only>) -> Result<()> {
        let trust = Trust { root: &self.root, moment, real: &self.real, only };
        let seen = refresh(&mut self.records, &mut self.recipes, &trust)?;
        self.seen.news |= seen.news;
        self.seen.differs |= seen.differs;
        if self.seen.differs {
            let used: HashSet<Hash> = self.records.iter().filter_map(content_of).collect();
            self.recipes.retain(|content, _| used.contains(content));
        }
        self.tracked_deletions = self.deletions()?;
        if let Some(asked) = &self.asked
            && asked.tracked_deletions != self.tracked_deletions
        {
            self.tracked_deletions = asked.tracked_deletions;
            self.facts = None;
        }
        Ok(())
    }

    /// Tracked files that are gone here.
    fn deletions(&self) -> Result<u64> {
        let gone = self.records.iter().filter(|record| is_gone(record)).count() as u64;
        match (&self.facts, &self.asked) {
            (Some(facts), _) => Ok(gone + facts.staged.count(&self.root)?),
            (None, Some(asked)) => Ok(asked.tracked_deletions),
            (None, None) => Ok(gone),
        }
    }

    fn draft(&self, head: &Head, shelf: &Shelf) -> std::io::Result<file::Draft> {
        let mut draft = file::Draft::begin(&shelf.folder)?;
        draft.write(head, self.facts.as_ref(), &self.records, &self.recipes)?;
        Ok(draft)
    }

    fn into_tree(self) -> Result<LocalTree> {
        let left_out = match &self.asked {
            Some(asked) => asked.left_out,
            None => learn::count_left_out(&self.records, &self.real),
        };
        let mut notes = self.asked.map(|asked| asked.notes).unwrap_or_default();
        manifest::note_special(&self.records, &mut notes);
        let records = self.records;
        let (manifest, files, bytes) = if self.seen.differs {
            let manifest = manifest::of(records)?;
            let (files, bytes) = (manifest.entries().len() as u64, manifest.bytes());
            (Lazy::new(Box::new(move || manifest)), files, bytes)
        } else {
            let sent = records.iter().filter_map(Record::sent);
            let (files, bytes) = sent.fold((0, 0), |(files, bytes), len| (files + 1, bytes + len));
            let make = || manifest::of(records).expect("an index names paths inside its tree only");
            (Lazy::new(Box::new(make)), files, bytes)
        };
        Ok(LocalTree {
            root: self.root,
            kind: self.kind,
            manifest: Arc::new(manifest),
            digest: Hash::default(),
            files,
            bytes,
            recipes: self.recipes,
            moment: i64::MIN,
            token: None,
            tracked_deletions: self.tracked_deletions,
            left_out,
            notes,
        })
    }
}

fn content_of(record: &Record) -> Option<Hash> {
    match record.what {
        What::File(sha256) if record.stat.size > crabbox_tree::WHOLE => Some(sha256),
        _ => None,
    }
}
