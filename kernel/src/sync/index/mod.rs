//! The local index: what a tree looked like at the last scan, so that the next one reads only what changed.
//!
//! Three things are remembered, each believed only as long as the file system vouches for it: which files
//! there are ([`learn`] asks git once, [`renew`] follows directory times, ignore files, git's settings and
//! git's own index), what is in them ([`mod@refresh`] reads a file again when its stat differs), and the
//! manifest's digest. [`mod@glance`] finds out what changed, which mostly is nothing, and then all is said. Whatever changed at the moment of a scan or later is looked at again, as a second
//! change may hide within the same tick of the clock. Everything else is asked for as without an index.

pub(super) mod content;
pub(super) mod file;
mod git_index;
mod glance;
mod judge;
mod learn;
pub(super) mod record;
pub(super) mod refresh;
mod renew;
mod sink;
mod source;
mod staged;
mod walk;
mod witness;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_tree::{Delta, Entry, Groups, Hash, content_hash, hex};

use crate::error::Result;
use crate::ports::Stop;
use crate::sync::checkout::{self, Checkout};
use crate::sync::excludes::{Excludes, LeftOut, fingerprint};
use crate::sync::manifest::{self, bytes_of, unreadable};
use crate::sync::{Change, Keep, Lazy, LocalTree, ScanOptions, SyncRules, TreeKind};

use file::Opened;
use glance::Glance;
use record::{Record, Stat, What};
use refresh::{Only, Recipes, Seen, Trust, is_gone, refresh};
use renew::Since;
use staged::Staged;
use walk::Dir;
use witness::{Place, Witness};

pub use witness::git_dir;

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

/// What a scan comes to.
#[derive(Debug, Default)]
struct Sums {
    files: u64,
    bytes: u64,
    /// Tracked files that are gone, besides those that git's index lacks.
    gone: u64,
    left_out: LeftOut,
    notes: Vec<String>,
    /// Whether something has to be looked at although nobody tells that it changed.
    doubtful: bool,
}

/// What is kept between scans, without the directories and files themselves.
#[derive(Debug)]
struct Front {
    head: Head,
    facts: Option<Facts>,
    digest: Hash,
    sums: Sums,
}

/// What is kept between scans.
#[derive(Debug, Default)]
struct Kept {
    head: Head,
    facts: Option<Facts>,
    records: Vec<Record>,
    recipes: Recipes,
    digest: Hash,
    /// What the digest is made of.
    groups: Option<Groups>,
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
pub(super) fn look_afresh(
    dir: &Path,
    rules: &SyncRules,
    options: &ScanOptions<'_>,
) -> Result<LocalTree> {
    let found = checkout::find(checkout::place(dir)?, rules)?;
    let mut scan = Scan::of(found, None);
    scan.refresh(i64::MIN, None, options.stop)?;
    let digest = scan.groups(None).digest();
    Ok(scan.into_tree(digest, None))
}

/// Reads what changed in a tree since the last scan, and remembers what it is now.
pub(super) fn look(
    dir: &Path,
    rules: &SyncRules,
    keep: Keep<'_>,
    options: &ScanOptions<'_>,
) -> Result<LocalTree> {
    let dir = std::fs::canonicalize(dir).map_err(|e| unreadable(dir).because(&e))?;
    let Some(shelf) = Shelf::open(keep.dir, &dir) else { return look_afresh(&dir, rules, options) };
    let index = file::open(&shelf.file).filter(|index| index.front.head.dir == dir);
    let token = index.as_ref().and_then(|index| index.front.head.token.clone());
    let mut head = Head {
        dir,
        moment: shelf.moment,
        surroundings: witness::surroundings(keep.env),
        token: options.token.map(str::to_owned),
        ..Head::default()
    };
    let hint = options.hint.filter(|hint| Some(&hint.token) == token.as_ref());
    let unheard = hint.is_none() && head.token.is_some() && head.token != token;
    let (mut kept, only) = match index {
        Some(index) => match glance::glance(&index, &head, rules, hint)? {
            Glance::Still if !unheard => return unchanged(index, &shelf),
            Glance::Still => (index.read(), Some(Only::default())),
            Glance::Changed(only) => (index.read(), Some(only)),
            Glance::Doubt => {
                let only = hint.filter(|_| !rules.checksum);
                (index.read(), only.map(|hint| Only::new(hint.changed.clone())))
            }
        },
        None => (None, None),
    };
    let mut kept = kept.take().unwrap_or_default();
    let known = Scan::known(&mut kept, &head, rules, only.as_ref())?;
    let warm = known.is_some();
    let mut scan = match known {
        Some(scan) => scan,
        None => Scan::asked(&mut kept, &head.dir, rules, keep)?,
    };
    head.rules = fingerprint(&scan.root, rules)?;
    let moment = if rules.checksum { i64::MIN } else { kept.head.moment };
    scan.refresh(moment, only.as_ref().filter(|_| warm), options.stop)?;
    scan.seen.news |= unheard;
    finish(scan, head, kept, &shelf)
}

/// The tree of an index that still holds.
fn unchanged(index: Opened, shelf: &Shelf) -> Result<LocalTree> {
    let index = Arc::new(index);
    let Front { head, facts, digest, sums } = &index.front;
    let root = facts.as_ref().map_or(&head.dir, |facts| &facts.place.root);
    let deleted = facts.as_ref().map_or(Ok(0), |facts| facts.staged.count(root))?;
    let (parts, cuts) = (index.clone(), index.clone());
    let manifest = move || parts.records().ok_or_else(|| parts.damaged()).and_then(manifest::of);
    Ok(LocalTree {
        root: root.clone(),
        kind: TreeKind::Git,
        manifest: Arc::new(Lazy::new(Box::new(manifest))),
        digest: *digest,
        change: None,
        files: sums.files,
        bytes: sums.bytes,
        recipes: Arc::new(Lazy::new(Box::new(move || cuts.recipes()))),
        index: Some(index.clone()),
        moment: shelf.moment,
        token: head.token.clone(),
        tracked_deletions: sums.gone + deleted,
        left_out: sums.left_out,
        notes: sums.notes.clone(),
    })
}

/// Makes the tree, and writes the index if it has news.
fn finish(mut scan: Scan, head: Head, kept: Kept, shelf: &Shelf) -> Result<LocalTree> {
    let Seen { news, differs, .. } = scan.seen;
    let change = kept.groups.as_ref().map(|_| kept.digest).and_then(|from| scan.change(from));
    let groups = scan.groups(kept.groups);
    let (digest, mut token) = (groups.digest(), kept.head.token);
    if news || differs {
        let facts = scan.facts.take();
        let sums = scan.sums(facts.as_ref(), head.moment);
        let front = Front { head, facts, digest, sums };
        let rest = (&groups, &scan.recipes);
        match sink::write(&shelf.folder, &shelf.file, &front, &scan.records, rest) {
            Ok(()) => token = front.head.token,
            // An index that cannot be written is only missed.
            Err(error) => tracing::debug!(%error, "the index was not written"),
        }
    }
    let tree = scan.into_tree(digest, change);
    Ok(LocalTree { moment: shelf.moment, token, ..tree })
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
    /// What was sent and is gone.
    gone: Vec<PathBuf>,
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
            gone: Vec::new(),
            seen: Seen { news: true, differs: true, changed: Vec::new() },
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
        let seen = Seen {
            news: renewed.news || other_rules,
            differs: renewed.differs || other_rules,
            changed: Vec::new(),
        };
        Ok(Some(Self {
            gone: renewed.gone,
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
    fn refresh(&mut self, moment: i64, only: Option<&Only>, stop: Option<&Stop>) -> Result<()> {
        let trust = Trust { root: &self.root, moment, real: &self.real, only, stop };
        self.seen.add(refresh(&mut self.records, &mut self.recipes, &trust)?);
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

    /// What is sent otherwise than before; `None` when the files were asked for anew.
    fn change(&self, from: Hash) -> Option<Change> {
        if self.asked.is_some() {
            return None;
        }
        let mut delta = Delta { removed: self.gone.clone(), ..Delta::default() };
        for path in &self.seen.changed {
            match self.find(path).and_then(|at| self.records[at].entry()) {
                Some(entry) => delta.wanted.push(entry),
                None => delta.removed.push(path.clone()),
            }
        }
        delta.removed.sort_by(|a, b| bytes_of(a).cmp(bytes_of(b)));
        delta.wanted.sort_by(|a, b| bytes_of(&a.path).cmp(bytes_of(&b.path)));
        Some(Change { from, delta })
    }

    fn find(&self, path: &Path) -> Option<usize> {
        self.records.binary_search_by(|r| bytes_of(&r.path).cmp(bytes_of(path))).ok()
    }

    /// What the digest is made of, from what it was made of before.
    fn groups(&self, before: Option<Groups>) -> Groups {
        let entries = |records: &[Record]| -> Vec<Cow<'_, Entry>> {
            records.iter().filter_map(Record::entry).map(Cow::Owned).collect()
        };
        let Some(before) = before.filter(|_| self.asked.is_none()) else {
            return Groups::of(self.records.iter().filter_map(Record::entry).map(Cow::Owned));
        };
        let place = |path: &[u8]| self.records.partition_point(|r| bytes_of(&r.path) < path);
        let changed = self.gone.iter().chain(&self.seen.changed).map(PathBuf::as_path);
        before.changed(changed, |from, until| {
            let end = until.map_or(self.records.len(), place);
            entries(&self.records[place(from).min(end)..end])
        })
    }

    fn sums(&self, facts: Option<&Facts>, moment: i64) -> Sums {
        let sent = self.records.iter().filter_map(Record::sent);
        let (files, bytes) = sent.fold((0, 0), |(files, bytes), len| (files + 1, bytes + len));
        let mut notes = Vec::new();
        manifest::note_special(&self.records, &mut notes);
        let looked_at = |record: &&Record| record.tracked || record.rule.is_none();
        let mut seen = self.records.iter().filter(looked_at);
        let dirs = facts.map_or(&[][..], |facts| &facts.dirs);
        Sums {
            files,
            bytes,
            gone: self.records.iter().filter(|record| is_gone(record)).count() as u64,
            left_out: learn::count_left_out(&self.records, &self.real),
            notes,
            doubtful: seen.any(|record| record.is_doubtful(moment))
                || dirs.iter().any(|dir| dir.stat.is_racy(moment)),
        }
    }

    fn into_tree(self, digest: Hash, change: Option<Change>) -> LocalTree {
        let left_out = match &self.asked {
            Some(asked) => asked.left_out,
            None => learn::count_left_out(&self.records, &self.real),
        };
        let mut notes = self.asked.map(|asked| asked.notes).unwrap_or_default();
        manifest::note_special(&self.records, &mut notes);
        let (records, recipes) = (self.records, self.recipes);
        let sent = records.iter().filter_map(Record::sent);
        let (files, bytes) = sent.fold((0, 0), |(files, bytes), len| (files + 1, bytes + len));
        LocalTree {
            root: self.root,
            kind: self.kind,
            manifest: Arc::new(Lazy::new(Box::new(move || manifest::of(records)))),
            digest,
            change,
            files,
            bytes,
            recipes: Arc::new(Lazy::new(Box::new(move || recipes))),
            index: None,
            moment: i64::MIN,
            token: None,
            tracked_deletions: self.tracked_deletions,
            left_out,
            notes,
        }
    }
}

fn content_of(record: &Record) -> Option<Hash> {
    match record.what {
        What::File(sha256) if record.stat.size > crabbox_tree::WHOLE => Some(sha256),
        _ => None,
    }
}
