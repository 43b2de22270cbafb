//! The journal of one run: `runs/<run id>/` with its record, its events and its output, written while it happens.

mod follow;
mod store;
mod told;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::event::RunEvent;
use crabbox_schemas::ids::RunId;
use crabbox_schemas::run::{RunRecord, Timing};
use serde_json::{Value, json};

pub use self::follow::{Follow, Followed};
pub use self::store::{Filter, Retention, RunStore};
pub use self::told::run_event;
use crate::error::{KernelError, Result};
use crate::event::{Event, Stream};
use crate::state::{State, failed, make_dir};
use crate::time::rfc3339;

const PREVIEW_PIECE: usize = 4 * 1024;
const PREVIEW_TOTAL: usize = 64 * 1024;
/// What the smallest preview counts as, so that single bytes cannot flood the events.
const PREVIEW_LEAST: usize = 64;

/// How much of a run's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of each stream; what comes later is dropped and the record says so.
    pub max_bytes: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEnd {
    /// The status crabbox exits with.
    pub exit_code: i32,
    /// Signal that ended the command, without `SIG`.
    pub signal: Option<String>,
    /// Why crabbox failed, when it did.
    pub error: Option<KernelError>,
    /// Where the time went.
    pub timing: Timing,
}

impl RunEnd {
    /// The end of a run that crabbox knows no more of.
    pub fn failed(error: Option<KernelError>) -> Self {
        let exit_code = error.as_ref().map_or(1, |error| error.code.exit_status());
        Self { exit_code, signal: None, error, timing: Timing::default() }
    }
}

/// Whether the command was started, as far as the events tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    No,
    Maybe,
    Yes,
}

impl Started {
    fn word(self) -> &'static str {
        match self {
            Started::No => "no",
            Started::Maybe => "maybe",
            Started::Yes => "yes",
        }
    }

    /// What an event adds to the knowledge.
    fn after(self, event: &RunEvent) -> Self {
        match &*event.kind {
            "stdout" | "stderr" | "command.finished" => Started::Yes,
            "command.started" if acknowledged(event) => Started::Yes,
            "command.sent" | "command.started" if self == Started::No => Started::Maybe,
            _ => self,
        }
    }
}

/// Whether the box said that it has the command, which goes on there by itself.
fn acknowledged(event: &RunEvent) -> bool {
    event.data.as_ref().is_some_and(|data| data["acknowledged"] == true)
}

/// Writes the journal of one live run; the run counts as live while this value exists.
#[derive(Debug)]
pub struct Recorder {
    dir: PathBuf,
    record: RunRecord,
    begun_ms: u64,
    events: File,
    stdout: Spool,
    stderr: Spool,
    preview_left: usize,
    started: Started,
    last_wait: Option<String>,
    told: Vec<RunEvent>,
    complaint: Option<String>,
    broken: bool,
    _lock: Life,
}

/// The lock that says the run is live. Let go by word, not only by closing: a child process that is just
/// being started may still hold a copy of the file.
#[derive(Debug)]
struct Life(File);

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// One output file and how much of its stream it holds.
#[derive(Debug)]
struct Spool {
    file: File,
    room: u64,
    next: u64,
    truncated: bool,
}

impl Spool {
    /// Goes on with a file: its length and what its events say is missing tell where the stream stands.
    fn reopen(dir: &Path, stream: Stream, events: &[RunEvent], limits: Limits) -> Result<Self> {
        let path = dir.join(stream.word());
        let file = append(&path)?;
        let kept = file.metadata().map_err(|e| failed("cannot read", &path, &e))?.len();
        let mine = |event: &&RunEvent| {
            event.kind == "output.truncated" && event.stream.as_deref() == Some(stream.word())
        };
        let lost = |event: &RunEvent| {
            event.data.as_ref().filter(|d| d["reason"] == "lost").and_then(|d| d["bytes"].as_u64())
        };
        let missing: u64 = events.iter().filter(mine).filter_map(lost).sum();
        let room = limits.max_bytes.saturating_sub(kept);
        Ok(Self { file, room, next: kept + missing, truncated: room == 0 })
    }
}

impl Recorder {
    /// Makes the run's folder, locks it and writes the first record. The run must not exist yet.
    pub fn begin(state: &State, record: RunRecord, limits: Limits, now_ms: u64) -> Result<Self> {
        let id = RunId::parse(&record.id).ok_or_else(|| {
            KernelError::new(ErrorCode::Internal, format!("not a run id: {:?}", record.id))
        })?;
        let dir = state.run(&id);
        make_dir(&dir)?;
        let lock = create(&dir.join("lock"))?;
        lock.try_lock().map_err(|_| {
            KernelError::new(ErrorCode::Busy, format!("another crabbox records {id}"))
        })?;
        let spool = |stream: Stream| {
            create(&dir.join(stream.word())).map(|file| Spool {
                file,
                room: limits.max_bytes,
                next: 0,
                truncated: false,
            })
        };
        let recorder = Self {
            events: create(&dir.join("events.jsonl"))?,
            stdout: spool(Stream::Stdout)?,
            stderr: spool(Stream::Stderr)?,
            record: RunRecord {
                schema_version: crabbox_schemas::SCHEMA_VERSION,
                state: "running".to_owned(),
                phase: "leasing".to_owned(),
                started_at: rfc3339(now_ms),
                ..record
            },
            begun_ms: now_ms,
            preview_left: PREVIEW_TOTAL,
            started: Started::No,
            last_wait: None,
            told: Vec::new(),
            complaint: None,
            broken: false,
            _lock: Life(lock),
            dir,
        };
        recorder.save()?;
        Ok(recorder)
    }

    /// Goes on with the journal of a run whose own crabbox is gone, and where its two streams go on. `None` when
    /// somebody else records it now.
    pub fn resume(
        state: &State,
        record: RunRecord,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Option<(Self, [u64; 2])>> {
        let id = RunId::parse(&record.id).ok_or_else(|| {
            KernelError::new(ErrorCode::Internal, format!("not a run id: {:?}", record.id))
        })?;
        let dir = state.run(&id);
        let lock = append(&dir.join("lock"))?;
        if lock.try_lock().is_err() {
            return Ok(None);
        }
        let events = RunStore::new(state).events(&id, 0, usize::MAX)?;
        let spool = |stream| Spool::reopen(&dir, stream, &events, limits);
        let (stdout, stderr) = (spool(Stream::Stdout)?, spool(Stream::Stderr)?);
        let from = [stdout.next, stderr.next];
        let begun_ms = crate::time::parse_instant(&record.started_at).unwrap_or(now_ms);
        let recorder = Self {
            events: append(&dir.join("events.jsonl"))?,
            stdout,
            stderr,
            record: RunRecord {
                state: "running".to_owned(),
                event_count: events.last().map_or(0, |event| event.seq),
                ended_at: None,
                ..record
            },
            begun_ms,
            preview_left: 0,
            started: events.iter().fold(Started::No, |known, event| known.after(event)),
            last_wait: None,
            told: Vec::new(),
            complaint: None,
            broken: false,
            _lock: Life(lock),
            dir,
        };
        Ok(Some((recorder, from)))
    }

    /// The run goes on without us: the record says so, and what else is known of it.
    pub fn leave(mut self, timing: &Timing, now_ms: u64) -> RunRecord {
        self.record.detached = true;
        self.record.sync_ms = timing.sync_ms.max(self.record.sync_ms);
        self.record.started = Some(self.started.word().to_owned());
        let saved = self.save();
        self.check(saved, now_ms);
        self.record
    }

    /// The record as it stands.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// Writes down what happened, and returns what was told: the lines of an event stream.
    ///
    /// A journal that cannot be written says so once, as a warning among these, and never stops a run.
    pub fn take(&mut self, event: &Event, now_ms: u64) -> Vec<RunEvent> {
        match event {
            Event::Output { stream, offset, data } => self.output(*stream, *offset, data, now_ms),
            Event::Gap { stream, to, .. } => self.output(*stream, *to, &[], now_ms),
            other => self.fact(other, now_ms),
        }
        std::mem::take(&mut self.told)
    }

    /// Why the journal is incomplete; told once.
    pub fn complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// Writes the final record, lets go of the run and returns the record.
    pub fn finish(mut self, end: &RunEnd, now_ms: u64) -> RunRecord {
        let error = end.error.as_ref();
        let doubt = error.and_then(|e| e.outcome);
        if doubt == Some(Outcome::NotStarted) {
            self.started = Started::No;
        }
        let lost = doubt == Some(Outcome::Uncertain) && self.started != Started::No;
        let state = match (lost, error, end.exit_code) {
            (true, ..) => "lost",
            (false, None, 0) => "succeeded",
            _ => "failed",
        };
        let by = if error.is_some() { "crabbox" } else { "remote" };
        let timing = &end.timing;
        self.record = RunRecord {
            state: state.to_owned(),
            exit_code: Some(end.exit_code),
            by: Some(if timing.by.is_empty() { by } else { &timing.by }.to_owned()),
            signal: end.signal.clone(),
            error_kind: error.map(|e| e.code.word().to_owned()),
            started: Some(self.started.word().to_owned()),
            sync_ms: timing.sync_ms.max(self.record.sync_ms),
            command_ms: timing.command_ms.max(self.record.command_ms),
            duration_ms: timing.total_ms.max(now_ms.saturating_sub(self.begun_ms)),
            ended_at: Some(rfc3339(now_ms)),
            ..std::mem::take(&mut self.record)
        };
        let saved = self.save();
        self.check(saved, now_ms);
        self.record
    }

    /// Notes the first failure of the journal, and says so in the event stream.
    fn check(&mut self, written: Result<()>, now_ms: u64) {
        let Err(error) = written else { return };
        if !std::mem::replace(&mut self.broken, true) {
            let message = format!("the journal of this run is incomplete: {error}");
            tracing::warn!("{message}");
            self.complaint = Some(message.clone());
            self.fact(&Event::Warning { message }, now_ms);
        }
    }

    fn fact(&mut self, event: &Event, now_ms: u64) {
        if let Event::BootstrapWaiting { stage, message } = event {
            let seen = format!("{stage}: {message}");
            if self.last_wait.replace(seen.clone()) == Some(seen) {
                return;
            }
        }
        self.learn(event);
        let Some(told) = run_event(event) else { return };
        let moved = !told.phase.is_empty() && told.phase != self.record.phase;
        if moved {
            self.record.phase.clone_from(&told.phase);
        }
        self.append(told, now_ms);
        if moved {
            let saved = self.save();
            self.check(saved, now_ms);
        }
    }

    /// Copies into the record what the event knows of the lease and of times.
    fn learn(&mut self, event: &Event) {
        let record = &mut self.record;
        match event {
            Event::LeasingStarted { desired, provider, class, .. } => {
                record.lease_id = desired.lease_id.to_string();
                record.slug.clone_from(&desired.slug);
                record.provider.clone_from(provider);
                record.class.clone_from(class);
            }
            Event::LeaseCreated { lease, provider, .. } => {
                record.lease_id = lease.lease_id.to_string();
                record.slug.clone_from(&lease.slug);
                record.provider.clone_from(provider);
                record.server_type.clone_from(&lease.server_type);
            }
            Event::SyncStarted { workdir, .. } | Event::CommandStarted { workdir, .. } => {
                record.workdir.clone_from(workdir);
            }
            Event::SyncFinished { ms, .. } => record.sync_ms = *ms,
            Event::CommandFinished { ms, .. } => record.command_ms = *ms,
            Event::ResultsCollected { results } => record.results = Some(results.clone()),
            _ => {}
        }
    }

    fn append(&mut self, mut event: RunEvent, now_ms: u64) {
        let record = &mut self.record;
        record.event_count += 1;
        event.run_id.clone_from(&record.id);
        event.seq = record.event_count;
        event.schema_version = crabbox_schemas::SCHEMA_VERSION;
        if event.phase.is_empty() {
            event.phase.clone_from(&record.phase);
        }
        let known = |text: &String| (!text.is_empty()).then(|| text.clone());
        event.lease_id = known(&record.lease_id);
        event.slug = known(&record.slug);
        event.provider = known(&record.provider);
        event.created_at = rfc3339(now_ms);
        self.started = self.started.after(&event);
        let written = self.write_line(&event);
        self.told.push(event);
        self.check(written, now_ms);
    }

    /// One write for the whole line, so that a reader never sees half of it.
    fn write_line(&mut self, event: &RunEvent) -> Result<()> {
        if self.broken {
            return Ok(());
        }
        let path = self.dir.join("events.jsonl");
        let mut line = serde_json::to_vec(event).map_err(|e| {
            KernelError::new(ErrorCode::Internal, "cannot encode an event").because(&e)
        })?;
        line.push(b'\n');
        self.events.write_all(&line).map_err(|e| failed("cannot write", &path, &e))
    }

    fn output(&mut self, stream: Stream, offset: u64, data: &[u8], now_ms: u64) {
        self.started = Started::Yes;
        let spool = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let missing = offset.saturating_sub(spool.next);
        let seen = usize::try_from(spool.next.saturating_sub(offset)).unwrap_or(usize::MAX);
        let fresh = data.get(seen..).unwrap_or_default();
        let at = spool.next + missing;
        spool.next = at + fresh.len() as u64;
        if missing > 0 {
            let data = json!({"reason": "lost", "offset": at - missing, "bytes": missing});
            let message = format!("{missing} bytes of {} are missing", stream.word());
            self.gap(stream, data, message, now_ms);
        }
        self.keep(stream, at, fresh, now_ms);
        self.preview(stream, at, fresh, now_ms);
    }

    /// Keeps what fits; says so at the first byte that does not.
    fn keep(&mut self, stream: Stream, at: u64, fresh: &[u8], now_ms: u64) {
        let spool = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let fits = usize::try_from(spool.room).unwrap_or(usize::MAX).min(fresh.len());
        if let Err(e) = spool.file.write_all(&fresh[..fits]) {
            let path = self.dir.join(stream.word());
            spool.room = 0;
            self.record.log_truncated = true;
            return self.check(Err(failed("cannot write", &path, &e)), now_ms);
        }
        let first =
            fits < fresh.len() && !std::mem::replace(&mut spool.truncated, fits < fresh.len());
        spool.room -= fits as u64;
        self.record.log_bytes += fits as u64;
        if first {
            let data = json!({"reason": "limit", "offset": at + fits as u64});
            let message = format!("{} is longer than the journal keeps", stream.word());
            self.gap(stream, data, message, now_ms);
        }
    }

    /// Says honestly that the kept log is not the whole stream.
    fn gap(&mut self, stream: Stream, data: Value, message: String, now_ms: u64) {
        self.record.log_truncated = true;
        self.append(truncated(stream, data, message), now_ms);
        let saved = self.save();
        self.check(saved, now_ms);
    }

    fn preview(&mut self, stream: Stream, mut at: u64, mut data: &[u8], now_ms: u64) {
        while !data.is_empty() && self.preview_left > 0 {
            let (piece, rest) = data.split_at(piece_len(data, self.preview_left));
            let event = RunEvent {
                kind: stream.word().to_owned(),
                stream: Some(stream.word().to_owned()),
                offset: Some(at),
                message: Some(String::from_utf8_lossy(piece).into_owned()),
                ..RunEvent::default()
            };
            self.append(event, now_ms);
            at += piece.len() as u64;
            data = rest;
            self.preview_left = self.preview_left.saturating_sub(piece.len().max(PREVIEW_LEAST));
            if self.preview_left == 0 {
                let message = "no more previews; the log has the rest".to_owned();
                let data = json!({"reason": "preview", "offset": at});
                self.append(truncated(stream, data, message), now_ms);
            }
        }
    }

    /// Replaces `run.json` in one step. Not synced: a crash of the machine may lose it, a crash of crabbox not.
    fn save(&self) -> Result<()> {
        let path = self.dir.join("run.json");
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(&self.dir)?;
            let mut text = serde_json::to_vec_pretty(&self.record)?;
            text.push(b'\n');
            file.write_all(&text)?;
            file.persist(&path).map_err(|e| e.error)?;
            Ok(())
        };
        write().map_err(|e| failed("cannot write", &path, &e))
    }
}

fn truncated(stream: Stream, data: Value, message: String) -> RunEvent {
    RunEvent {
        kind: "output.truncated".to_owned(),
        stream: Some(stream.word().to_owned()),
        message: Some(message),
        data: Some(data),
        ..RunEvent::default()
    }
}

/// How much of `data` the next preview shows: never half a character where that can be helped.
fn piece_len(data: &[u8], left: usize) -> usize {
    let most = PREVIEW_PIECE.min(left.max(4));
    if data.len() <= most {
        return data.len();
    }
    let inside = |at: &usize| data[*at] & 0xC0 == 0x80;
    (most - 3..=most).rev().find(|at| !inside(at)).unwrap_or(most)
}

fn append(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.map_err(|e| failed("cannot open", path, &e))
}

fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create_new(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| failed("cannot create", path, &e))
}

#[cfg(test)]
mod tests;
