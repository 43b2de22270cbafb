//! The journal of one run: `runs/<run id>/` with its record, its events and its output, written while it happens.

mod follow;
mod store;
mod told;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crabbox_schemas::error::{ErrorCode, Outcome as Doubt};
use crabbox_schemas::event::RunEvent;
use crabbox_schemas::ids::RunId;
use crabbox_schemas::run::{RunRecord, Timing};
use serde_json::json;

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
#[derive(Debug, Clone, Copy)]
pub struct Ending<'a> {
    /// The status crabbox exits with.
    pub exit_code: i32,
    /// Signal that ended the command, without `SIG`.
    pub signal: Option<&'a str>,
    /// Why crabbox failed, when it did.
    pub error: Option<&'a KernelError>,
    /// Where the time went.
    pub timing: &'a Timing,
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

    /// What an event of this type adds to the knowledge.
    fn after(self, kind: &str) -> Self {
        match kind {
            "stdout" | "stderr" | "command.finished" => Started::Yes,
            "command.started" if self == Started::No => Started::Maybe,
            _ => self,
        }
    }
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
    broken: bool,
    _lock: File,
}

/// One output file and how much of its stream it holds.
#[derive(Debug)]
struct Spool {
    stream: Stream,
    file: File,
    room: u64,
    next: u64,
    truncated: bool,
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
                stream,
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
            broken: false,
            _lock: lock,
            dir,
        };
        recorder.save()?;
        Ok(recorder)
    }

    /// The record as it stands.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// Writes down what happened. A journal that cannot be written says so once and never stops a run.
    pub fn take(&mut self, event: &Event, now_ms: u64) -> Option<String> {
        if self.broken {
            return None;
        }
        let written = match event {
            Event::Output { stream, offset, data } => self.output(*stream, *offset, data, now_ms),
            other => self.fact(other, now_ms),
        };
        self.complain(written)
    }

    /// Writes the final record and ends the journal; returns a warning if it could not be written.
    pub fn finish(mut self, ending: &Ending<'_>, now_ms: u64) -> Option<String> {
        let error = ending.error;
        let doubt = error.and_then(|e| e.outcome);
        if doubt == Some(Doubt::NotStarted) {
            self.started = Started::No;
        }
        let lost = doubt == Some(Doubt::Uncertain) && self.started != Started::No;
        let ended = if lost {
            "lost"
        } else if ending.exit_code == 0 && error.is_none() {
            "succeeded"
        } else {
            "failed"
        };
        let by = if error.is_some() { "crabbox" } else { "remote" };
        let timing = ending.timing;
        self.record = RunRecord {
            state: ended.to_owned(),
            exit_code: Some(ending.exit_code),
            by: Some(if timing.by.is_empty() { by } else { &timing.by }.to_owned()),
            signal: ending.signal.map(str::to_owned),
            error_kind: error.map(|e| e.code.word().to_owned()),
            started: Some(self.started.word().to_owned()),
            sync_ms: timing.sync_ms.max(self.record.sync_ms),
            command_ms: timing.command_ms.max(self.record.command_ms),
            duration_ms: timing.total_ms.max(now_ms.saturating_sub(self.begun_ms)),
            ended_at: Some(rfc3339(now_ms)),
            ..std::mem::take(&mut self.record)
        };
        let saved = self.save();
        self.complain(saved)
    }

    fn complain(&mut self, written: Result<()>) -> Option<String> {
        let error = written.err()?;
        let first = !std::mem::replace(&mut self.broken, true);
        first.then(|| format!("the journal of this run is incomplete: {error}"))
    }

    fn fact(&mut self, event: &Event, now_ms: u64) -> Result<()> {
        if let Event::BootstrapWaiting { stage, message } = event {
            let seen = format!("{stage}: {message}");
            if self.last_wait.replace(seen.clone()) == Some(seen) {
                return Ok(());
            }
        }
        self.learn(event);
        let Some(told) = run_event(event) else { return Ok(()) };
        let moved = !told.phase.is_empty() && told.phase != self.record.phase;
        if moved {
            self.record.phase.clone_from(&told.phase);
        }
        self.append(told, now_ms)?;
        if moved { self.save() } else { Ok(()) }
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

    fn append(&mut self, mut event: RunEvent, now_ms: u64) -> Result<()> {
        let record = &mut self.record;
        record.event_count += 1;
        event.run_id.clone_from(&record.id);
        event.seq = record.event_count;
        if event.phase.is_empty() {
            event.phase.clone_from(&record.phase);
        }
        let known = |text: &String| (!text.is_empty()).then(|| text.clone());
        event.lease_id = known(&record.lease_id);
        event.slug = known(&record.slug);
        event.provider = known(&record.provider);
        event.created_at = rfc3339(now_ms);
        self.started = self.started.after(&event.kind);
        let mut line = serde_json::to_vec(&event).map_err(|e| {
            KernelError::new(ErrorCode::Internal, "cannot encode an event").because(&e)
        })?;
        line.push(b'\n');
        let path = self.dir.join("events.jsonl");
        self.events.write_all(&line).map_err(|e| failed("cannot write", &path, &e))
    }

    fn output(&mut self, stream: Stream, offset: u64, data: &[u8], now_ms: u64) -> Result<()> {
        self.started = Started::Yes;
        let spool = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let missing = offset.saturating_sub(spool.next);
        let seen = usize::try_from(spool.next.saturating_sub(offset)).unwrap_or(usize::MAX);
        let fresh = data.get(seen..).unwrap_or_default();
        let at = spool.next + missing;
        let (kept, newly_full) = spool
            .keep(missing, fresh)
            .map_err(|e| failed("cannot write", &self.dir.join(stream.word()), &e))?;
        self.record.log_bytes += kept;
        if missing > 0 {
            let data = json!({"reason": "lost", "offset": at - missing, "bytes": missing});
            self.gap(
                stream,
                data,
                format!("{missing} bytes of {} are missing", stream.word()),
                now_ms,
            )?;
        }
        if newly_full {
            let data = json!({"reason": "limit", "offset": at + kept});
            let message = format!("{} is longer than the journal keeps", stream.word());
            self.gap(stream, data, message, now_ms)?;
        }
        self.preview(stream, at, fresh, now_ms)
    }

    /// Says honestly that the kept log is not the whole stream.
    fn gap(
        &mut self,
        stream: Stream,
        data: serde_json::Value,
        message: String,
        now_ms: u64,
    ) -> Result<()> {
        self.record.log_truncated = true;
        self.append(truncated(stream, data, message), now_ms)?;
        self.save()
    }

    fn preview(&mut self, stream: Stream, mut at: u64, mut data: &[u8], now_ms: u64) -> Result<()> {
        while !data.is_empty() && self.preview_left > 0 {
            let (piece, rest) = data.split_at(piece_len(data, self.preview_left));
            let event = RunEvent {
                kind: stream.word().to_owned(),
                stream: Some(stream.word().to_owned()),
                offset: Some(at),
                message: Some(String::from_utf8_lossy(piece).into_owned()),
                ..RunEvent::default()
            };
            self.append(event, now_ms)?;
            at += piece.len() as u64;
            data = rest;
            self.preview_left = self.preview_left.saturating_sub(piece.len().max(PREVIEW_LEAST));
            if self.preview_left == 0 {
                let message = "no more previews; the log has the rest".to_owned();
                let data = json!({"reason": "preview", "offset": at});
                self.append(truncated(stream, data, message), now_ms)?;
            }
        }
        Ok(())
    }

    /// Replaces `run.json` in one step. Not synced: a crash of the machine may lose it, a crash of crabbox not.
    fn save(&self) -> Result<()> {
        let path = self.dir.join("run.json");
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(&self.dir)?;
            serde_json::to_writer_pretty(&mut file, &self.record)?;
            file.write_all(b"\n")?;
            file.persist(&path).map_err(|e| e.error)?;
            Ok(())
        };
        write().map_err(|e| failed("cannot write", &path, &e))
    }
}

impl Spool {
    /// Keeps what fits; how much that was, and whether this was the first piece that did not fit.
    fn keep(&mut self, missing: u64, fresh: &[u8]) -> std::io::Result<(u64, bool)> {
        let fits = usize::try_from(self.room).unwrap_or(usize::MAX).min(fresh.len());
        self.file.write_all(&fresh[..fits])?;
        self.next += missing + fresh.len() as u64;
        self.room -= fits as u64;
        let full = fits < fresh.len();
        let newly_full = full && !self.truncated;
        self.truncated |= full;
        Ok((fits as u64, newly_full))
    }
}

fn truncated(stream: Stream, data: serde_json::Value, message: String) -> RunEvent {
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
