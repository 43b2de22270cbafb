//! Reads the journals of runs: which there are, what they tell, and which may go.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::event::RunEvent;
use crabbox_schemas::ids::{LeaseId, RunId};
use crabbox_schemas::run::RunRecord;

use super::{Started, acknowledged};
use crate::error::{KernelError, Result};
use crate::event::Stream;
use crate::lease::claim::Claims;
use crate::state::{State, failed};
use crate::time::parse_instant;

/// How long a folder without a record may be one that is just being made.
const BIRTH: Duration = Duration::from_secs(600);

/// Which runs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only runs on this lease: its id or its short name.
    pub lease: Option<String>,
    /// Only runs in this state.
    pub state: Option<String>,
    /// At most this many, newest first.
    pub limit: Option<usize>,
}

/// Which finished runs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// At most this many.
    pub max_runs: usize,
    /// None older than this.
    pub max_age: Duration,
}

/// The journals of all runs.
#[derive(Debug, Clone)]
pub struct RunStore {
    dir: PathBuf,
    claims: Claims,
}

impl RunStore {
    /// The runs of this user.
    pub fn new(state: &State) -> Self {
        Self { dir: state.runs(), claims: Claims::new(state.claims()) }
    }

    /// Runs that pass the filter, newest first.
    pub fn list(&self, filter: &Filter) -> Vec<RunRecord> {
        let wanted = |run: &RunRecord| {
            let lease = filter.lease.as_ref();
            lease.is_none_or(|l| *l == run.lease_id || *l == run.slug)
                && filter.state.as_ref().is_none_or(|s| *s == run.state)
        };
        let limit = filter.limit.unwrap_or(usize::MAX);
        self.newest_first().into_iter().filter(wanted).take(limit).collect()
    }

    /// The run with this id, with this unique beginning of an id, or `latest`.
    pub fn find(&self, name: &str) -> Result<RunRecord> {
        let missing = || {
            KernelError::new(ErrorCode::NotFound, format!("no run {name:?}"))
                .hint("`crabbox history` lists the runs of this machine")
        };
        if name == "latest" {
            return self.newest_first().into_iter().next().ok_or_else(missing);
        }
        if let Some(id) = RunId::parse(name) {
            return self.read(&id).ok_or_else(missing);
        }
        let mut fitting: Vec<RunId> =
            self.ids().into_iter().filter(|id| begins(id, name)).collect();
        match fitting.len() {
            1 => fitting.pop().and_then(|id| self.read(&id)).ok_or_else(missing),
            0 => Err(missing()),
            _ => {
                let all: Vec<_> = fitting.iter().map(RunId::as_str).collect();
                let message = format!("{name:?} fits more than one run: {}", all.join(", "));
                Err(KernelError::new(ErrorCode::Ambiguous, message).hint("give more of the id"))
            }
        }
    }

    /// Whether the run's own crabbox still lives.
    pub fn is_live(&self, id: &RunId) -> bool {
        let Ok(lock) = File::open(self.folder(id).join("lock")) else { return false };
        matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Events after `after`, at most `limit`, in order.
    pub fn events(&self, id: &RunId, after: u64, limit: usize) -> Result<Vec<RunEvent>> {
        let path = self.folder(id).join("events.jsonl");
        let file = File::open(&path).map_err(|e| failed("cannot read", &path, &e))?;
        let events = lines(file).filter(|event| event.seq > after).take(limit);
        Ok(events.collect())
    }

    /// What was kept of one stream, open for reading from its beginning.
    pub fn output(&self, id: &RunId, stream: Stream) -> Result<File> {
        File::open(self.folder(id).join(stream.word())).map_err(|e| self.unreadable(id, stream, &e))
    }

    pub(super) fn unreadable(&self, id: &RunId, stream: Stream, e: &std::io::Error) -> KernelError {
        failed("cannot read", &self.folder(id).join(stream.word()), e)
    }

    /// Deletes what is kept of a run that turned out never to have been; a live one stays.
    pub fn forget(&self, id: &RunId) {
        if !self.is_live(id) {
            let _ = fs::remove_dir_all(self.folder(id));
        }
    }

    /// Whether it is time to prune: every journal has to be read for that, which is too much after every run.
    pub fn is_untidy(&self, keep: Retention, latest: &str) -> bool {
        self.ids().len() > keep.max_runs + keep.max_runs / 10 || latest.ends_with('0')
    }

    /// Deletes finished runs beyond the limits, never a live one; the ids that went.
    pub fn prune(&self, keep: Retention, now_ms: u64) -> Vec<RunId> {
        let age = |run: &RunRecord| {
            let begun = parse_instant(&run.started_at).unwrap_or(0);
            Duration::from_millis(now_ms.saturating_sub(begun))
        };
        let (going, finished): (Vec<_>, Vec<_>) =
            self.newest_first().into_iter().partition(|run| run.state == "running");
        let old = finished
            .into_iter()
            .enumerate()
            .filter(|(rank, run)| *rank >= keep.max_runs || age(run) > keep.max_age)
            .chain(going.into_iter().enumerate().filter(|(_, run)| age(run) > keep.max_age))
            .filter_map(|(_, run)| RunId::parse(&run.id));
        let now = UNIX_EPOCH + Duration::from_millis(now_ms);
        let stillborn = self.ids().into_iter().filter(|id| self.is_stillborn(id, now));
        let gone = |id: &RunId| !self.is_live(id) && fs::remove_dir_all(self.folder(id)).is_ok();
        old.chain(stillborn).filter(gone).collect()
    }

    /// The record of one run, as true as it can be told now.
    ///
    /// A writer lets go of the lock after its last word: so a record that still says `running` when it is
    /// read again without the lock will never say anything else.
    pub(super) fn read(&self, id: &RunId) -> Option<RunRecord> {
        let run = self.written(id)?;
        if run.state != "running" || self.is_live(id) {
            return Some(run);
        }
        let mut run = self.written(id)?;
        if run.state == "running" && !run.detached {
            self.bury(id, &mut run);
        }
        Some(run)
    }

    fn written(&self, id: &RunId) -> Option<RunRecord> {
        let text = fs::read(self.folder(id).join("run.json")).ok()?;
        let mut run: RunRecord = serde_json::from_slice(&text).ok()?;
        id.as_str().clone_into(&mut run.id);
        Some(run)
    }

    /// Tells what is known of a run whose crabbox died. One that the box has taken over goes on there while that box is
    /// on record; what became of any other nobody can know.
    fn bury(&self, id: &RunId, run: &mut RunRecord) {
        let (mut started, mut taken_over) = (Started::No, false);
        if let Ok(file) = File::open(self.folder(id).join("events.jsonl")) {
            for event in lines(file) {
                started = started.after(&event);
                taken_over |= event.kind == "command.started" && acknowledged(&event);
                run.event_count = event.seq;
                run.ended_at = Some(event.created_at);
                if !event.phase.is_empty() {
                    run.phase = event.phase;
                }
            }
        }
        let size = |stream: Stream| {
            fs::metadata(self.folder(id).join(stream.word())).map_or(0, |meta| meta.len())
        };
        run.log_bytes = size(Stream::Stdout) + size(Stream::Stderr);
        run.started = Some(started.word().to_owned());
        if taken_over && self.has_box(run) {
            run.ended_at = None;
        } else {
            run.state = "lost".to_owned();
        }
    }

    fn has_box(&self, run: &RunRecord) -> bool {
        let lease = LeaseId::parse(&run.lease_id);
        lease.is_some_and(|lease| matches!(self.claims.get(&lease), Ok(Some(_)) | Err(_)))
    }

    fn is_stillborn(&self, id: &RunId, now: SystemTime) -> bool {
        let dir = self.folder(id);
        let old = |made: SystemTime| now.duration_since(made).is_ok_and(|age| age > BIRTH);
        !dir.join("run.json").exists() && modified(&dir).is_some_and(old)
    }

    fn newest_first(&self) -> Vec<RunRecord> {
        let mut runs: Vec<_> = self
            .ids()
            .iter()
            .filter_map(|id| Some((self.read(id)?, modified(&self.folder(id).join("lock")))))
            .collect();
        runs.sort_by(|(a, a_made), (b, b_made)| {
            (&b.started_at, b_made, &b.id).cmp(&(&a.started_at, a_made, &a.id))
        });
        runs.into_iter().map(|(run, _)| run).collect()
    }

    fn ids(&self) -> Vec<RunId> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        entries.flatten().filter_map(|e| RunId::parse(e.file_name().to_str()?)).collect()
    }

    fn folder(&self, id: &RunId) -> PathBuf {
        self.dir.join(id.as_str())
    }
}

fn begins(id: &RunId, name: &str) -> bool {
    let bare = id.as_str().trim_start_matches("run_");
    !name.is_empty() && (bare.starts_with(name) || id.as_str().starts_with(name) && name.len() > 4)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

/// Whole, readable lines; a torn one is what a crash or a full disk leaves.
fn lines(file: File) -> impl Iterator<Item = RunEvent> {
    BufReader::new(file)
        .split(b'\n')
        .map_while(std::io::Result::ok)
        .filter_map(|line| serde_json::from_slice(&line).ok())
}
