//! Makes the box hold exactly the manifest: look, note, remove, send, look again, note that it is done.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::run::SyncPhase;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::ports::{Clock, EventSink, Remote, Stop, Urgency};
use crate::shell::quote;
use crate::sync::manifest::{Entry, Manifest, bytes_of, shown};
use crate::sync::survey::{Probe, Seen, Survey, above, prepare, survey};
use crate::sync::talk::{Feed, Places, Taker, calls, exchange, run_small, store};
use crate::sync::{LocalTree, SyncRules, archive, manifest};

/// Where to and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushSpec {
    /// Absolute path of the tree on the box; our notes stand beside it, in `../.crabbox/sync/`.
    pub workdir: String,
    /// What the user wants.
    pub rules: SyncRules,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pushed {
    /// The box already held everything.
    pub skipped: bool,
    /// Entries sent.
    pub sent_files: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Entries deleted on the box.
    pub deleted: u64,
    /// Paths an earlier command had changed on the box, now repaired.
    pub drifted: u64,
    /// The steps.
    pub phases: Vec<SyncPhase>,
}

/// Between two notices of progress.
const NOTICE_MS: u64 = 200;
/// How many paths one program on the box removes.
const REMOVED_AT_ONCE: usize = 1000;
/// How many paths an error names.
const NAMED: usize = 5;

/// Makes the work directory on the box equal the tree's manifest, and proves it. Files there that were never
/// sent stay, unless one stands where the tree needs something else. A sync that is cut off is finished by
/// the next one.
pub async fn push<R: Remote>(
    remote: &R,
    tree: &LocalTree,
    spec: &PushSpec,
    events: &mut dyn EventSink,
    stop: &Stop,
    clock: &impl Clock,
) -> Result<Pushed> {
    push_after(remote, tree, spec, &Manifest::default(), events, stop, clock).await
}

/// The same on a box where a helper may have worked before: `noted` is what it was last seen to hold. Its own
/// notes are taken away, so that it believes ours when it comes back.
pub async fn push_after<R: Remote>(
    remote: &R,
    tree: &LocalTree,
    spec: &PushSpec,
    noted: &Manifest,
    events: &mut dyn EventSink,
    stop: &Stop,
    clock: &impl Clock,
) -> Result<Pushed> {
    let push = Push {
        remote,
        tree,
        noted,
        rules: &spec.rules,
        places: Places::new(&spec.workdir)?,
        clock,
        events,
        done: Pushed::default(),
        from: clock.monotonic_ms(),
    };
    tokio::select! {
        biased;
        () = stop.reaches(Urgency::Gentle) => {
            Err(KernelError::new(ErrorCode::Cancelled, "interrupted during the sync; the next one finishes it"))
        }
        () = clock.sleep(spec.rules.timeout) => {
            let limit = crate::time::format_duration(spec.rules.timeout);
            Err(KernelError::new(ErrorCode::SyncWrite, format!("the sync was not finished after {limit}"))
                .hint("raise sync.timeout, or see with `crabbox sync-plan` what is large; the next sync goes on from here"))
        }
        done = push.run() => done,
    }
}

struct Push<'a, R, C> {
    remote: &'a R,
    tree: &'a LocalTree,
    noted: &'a Manifest,
    rules: &'a SyncRules,
    places: Places,
    clock: &'a C,
    events: &'a mut dyn EventSink,
    done: Pushed,
    from: u64,
}

/// What must happen on the box.
#[derive(Debug, Default)]
struct Change {
    /// To be removed first: links and files where directories are needed, and what is replaced or gone.
    remove: BTreeSet<PathBuf>,
    /// Directories that stand where a file belongs: removed with all they hold.
    remove_dirs: BTreeSet<PathBuf>,
    /// Directories to be removed if they are empty now.
    prune: BTreeSet<PathBuf>,
    /// To be sent.
    send: Vec<Entry>,
    /// How many entries vanish.
    deleted: u64,
}

impl<R: Remote, C: Clock> Push<'_, R, C> {
    async fn run(mut self) -> Result<Pushed> {
        let wanted = self.tree.manifest()?;
        let probe = prepare(self.remote, &self.places).await?;
        self.step("mkdir");
        let known = probe.finished.clone().unwrap_or_default();
        let mut managed = known.with(probe.unfinished.as_ref().unwrap_or(&Manifest::default()));
        if probe.helper {
            managed = self.noted.with(&managed);
        }
        let all = managed.with(wanted);
        let paths = all.entries().iter().map(|e| e.path.as_path()).collect();
        let seen = survey(self.remote, &self.places, &probe, &paths, wanted).await?;
        self.step("preflight");
        let change = self.compare(&managed, wanted, &seen);
        let last = if self.rules.delete { wanted.clone() } else { all.clone() };
        if change.send.is_empty() && change.remove.is_empty() && change.remove_dirs.is_empty() {
            return self.nothing_to_do(&probe, &last).await;
        }
        if probe.unfinished.is_none() {
            let intact = |e: &&Entry| known.get(&e.path) == Some(e);
            self.done.drifted = change.send.iter().filter(intact).count() as u64;
        }
        if probe.unfinished.as_ref() != Some(&all) {
            store(self.remote, &self.places, "unfinished", all.to_text(), None).await?;
        }
        self.take_over(&probe).await?;
        self.step("manifest_write");
        let amended = self.make_equal(&probe, wanted, change).await?;
        let last = last.with(&amended);
        store(self.remote, &self.places, "manifest", last.to_text(), Some("unfinished")).await?;
        self.step("finalize");
        Ok(self.done)
    }

    /// Takes a helper's notes away, once ours say as much.
    async fn take_over(&self, probe: &Probe) -> Result<()> {
        if !probe.helper {
            return Ok(());
        }
        let notes = quote(&self.places.helper);
        let said = run_small(self.remote, format!("rm -f {notes}/state {notes}/done")).await?;
        said.check("take a helper's notes away")
    }

    async fn nothing_to_do(mut self, probe: &Probe, last: &Manifest) -> Result<Pushed> {
        if probe.unfinished.is_some() || probe.finished.as_ref() != Some(last) {
            store(self.remote, &self.places, "manifest", last.to_text(), Some("unfinished"))
                .await?;
        }
        self.take_over(probe).await?;
        self.step("finalize");
        self.done.skipped = true;
        Ok(self.done)
    }

    /// Removes, sends and looks again; once more for what is still different. Returns the entries that
    /// changed here meanwhile, as they were sent.
    async fn make_equal(
        &mut self,
        probe: &Probe,
        wanted: &Manifest,
        change: Change,
    ) -> Result<Manifest> {
        self.done.deleted = change.deleted;
        self.done.sent_files = change.send.len() as u64;
        self.done.sent_bytes = change.send.iter().map(Entry::size).sum();
        let mut change = change;
        let mut amended = Manifest::default();
        for last_try in [false, true] {
            self.clear(&change).await?;
            self.step("prune");
            let sent = std::mem::take(&mut change.send);
            amended = amended.with(&self.send(&sent).await?);
            self.step("send");
            let now = wanted.with(&amended);
            let paths: BTreeSet<&Path> = sent.iter().map(|e| e.path.as_path()).collect();
            let checked =
                manifest::whole(paths.iter().filter_map(|p| now.get(p)).cloned().collect())?;
            let seen = survey(self.remote, &self.places, probe, &paths, &checked).await?;
            self.step("sanity");
            change = differences(&checked, &seen, false);
            if change.send.is_empty() {
                return Ok(amended);
            }
            if last_try {
                return Err(unequal(&change.send));
            }
        }
        Ok(amended)
    }

    /// Everything that must happen, deletions included.
    fn compare(&self, managed: &Manifest, wanted: &Manifest, seen: &Survey) -> Change {
        let mut change = differences(wanted, seen, self.rules.full_resync);
        if !self.rules.delete {
            return change;
        }
        let needed: HashSet<&Path> = wanted.entries().iter().flat_map(|e| above(&e.path)).collect();
        let mut folded = HashSet::new();
        for entry in managed.entries().iter().filter(|e| wanted.get(&e.path).is_none()) {
            for dir in above(&entry.path).filter(|d| !needed.contains(d)) {
                if above(dir).all(|d| seen.dirs.get(d) == Some(&Seen::Dir))
                    && seen.dirs.get(dir) == Some(&Seen::Dir)
                {
                    change.prune.insert(dir.to_owned());
                }
            }
            if !matches!(seen.at(&entry.path), Seen::Missing | Seen::Dir) {
                change.remove.insert(entry.path.clone());
                change.deleted += 1;
                folded.insert(fold(&entry.path));
            }
        }
        // Where the box's file system ignores case, removing `README` has removed `readme`.
        let chosen: HashSet<PathBuf> = change.send.iter().map(|e| e.path.clone()).collect();
        let twins = wanted
            .entries()
            .iter()
            .filter(|e| folded.contains(&fold(&e.path)) && !chosen.contains(&e.path));
        change.send.extend(twins.cloned());
        change
    }

    async fn clear(&self, change: &Change) -> Result<()> {
        if change.remove.is_empty() && change.remove_dirs.is_empty() && change.prune.is_empty() {
            return Ok(());
        }
        let mut deepest_first: Vec<&Path> = change.prune.iter().map(PathBuf::as_path).collect();
        deepest_first.sort_by(|a, b| bytes_of(b).cmp(bytes_of(a)));
        self.remove("f", change.remove.iter().map(PathBuf::as_path).collect()).await?;
        self.remove("t", change.remove_dirs.iter().map(PathBuf::as_path).collect()).await?;
        self.remove("e", deepest_first).await
    }

    /// Removes files (`f`), trees (`t`) or empty directories (`e`), a part at a time. The program is not stored:
    /// a box that is full has no place for it.
    async fn remove(&self, word: &str, paths: Vec<&Path>) -> Result<()> {
        let head = format!(
            "f() {{ rm -f \"$@\" || exit 1; }}\nt() {{ rm -rf \"$@\" || exit 1; }}\ne() {{ for p do rmdir \"$p\" 2>/dev/null; done; }}\ncd {} || exit 1\n",
            quote(&self.places.workdir)
        );
        for part in paths.chunks(REMOVED_AT_ONCE) {
            let mut script = head.clone().into_bytes();
            calls(&mut script, word, part.iter().copied());
            script.extend_from_slice(b"exit 0\n");
            run_small(self.remote, script).await?.check("remove old files")?;
        }
        Ok(())
    }

    async fn send(&mut self, entries: &[Entry]) -> Result<Manifest> {
        if entries.is_empty() {
            return Ok(Manifest::default());
        }
        let (pieces, result) = archive::stream(&self.tree.root, entries.to_vec());
        let total: u64 = entries.iter().map(Entry::size).sum();
        let (events, clock) = (&mut *self.events, self.clock);
        let (mut done, mut told) = (0, clock.monotonic_ms());
        let mut fed = |n: usize| {
            done += n as u64;
            if clock.monotonic_ms() >= told + NOTICE_MS {
                told = clock.monotonic_ms();
                events.emit(Event::Progress {
                    phase: "sync".to_owned(),
                    done: Some(done.min(total)),
                    total: Some(total),
                    unit: "bytes",
                    message: None,
                });
            }
        };
        let command = format!(
            "exec sh -c 'umask 022; COPYFILE_DISABLE=1; export COPYFILE_DISABLE; cd \"$0\" && exec tar -xmof -' {}",
            quote(&self.places.workdir)
        );
        let said = exchange(
            self.remote,
            &command,
            Feed::Stream(pieces),
            Taker::Keep(Vec::new()),
            &mut fed,
        )
        .await?;
        let lost = |_| KernelError::new(ErrorCode::Internal, "the writer of the archive died");
        match result.await.map_err(lost)? {
            Err(error) if error.code == ErrorCode::SyncRead => Err(error),
            made => {
                if said.is_full() {
                    // What was sent now takes the place that the next sync needs to make it good.
                    let _ =
                        self.remove("f", entries.iter().map(|e| e.path.as_path()).collect()).await;
                }
                said.check("unpack the files")?;
                manifest::whole(made?)
            }
        }
    }

    fn step(&mut self, name: &str) {
        let now = self.clock.monotonic_ms();
        let ms = now.saturating_sub(self.from);
        self.from = now;
        match self.done.phases.iter_mut().find(|p| p.name == name) {
            Some(phase) => phase.ms = Some(phase.ms.unwrap_or(0) + ms),
            None => {
                self.done.phases.push(SyncPhase {
                    name: name.to_owned(),
                    ms: Some(ms),
                    skipped: false,
                    reason: None,
                });
            }
        }
    }
}

/// What has to be replaced so that the box holds these entries; `all` replaces what is right, too.
fn differences(wanted: &Manifest, seen: &Survey, all: bool) -> Change {
    let mut change = Change::default();
    for entry in wanted.entries() {
        let at = seen.at(&entry.path);
        if at.is(&entry.kind) && !all {
            continue;
        }
        match at {
            Seen::Missing => {}
            Seen::Dir => {
                change.remove_dirs.insert(entry.path.clone());
            }
            Seen::File { .. } | Seen::Link(_) | Seen::Other => {
                change.remove.insert(entry.path.clone());
            }
        }
        let mut dirs: Vec<&Path> = above(&entry.path).collect();
        dirs.reverse();
        let solid = |d: &&Path| matches!(seen.dirs.get(*d), Some(Seen::Dir));
        if let Some(block) = dirs.into_iter().find(|d| !solid(d))
            && seen.dirs.get(block) != Some(&Seen::Missing)
        {
            change.remove.insert(block.to_owned());
        }
        change.send.push(entry.clone());
    }
    change
}

fn fold(path: &Path) -> String {
    path.to_string_lossy().to_lowercase()
}

fn unequal(entries: &[Entry]) -> KernelError {
    let names: Vec<String> = entries.iter().take(NAMED).map(|e| shown(&e.path)).collect();
    let more = match entries.len().saturating_sub(NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    KernelError::new(ErrorCode::SyncVerify, format!("the box does not hold what it was sent: {}{more}", names.join(", ")))
        .hint("something on the box may be writing to its tree, or its file system does not keep such names apart")
}
