//! Where a run's events go: the terminal, the run's record, capture files, the event stream.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::{Event, Stream};
use crabbox_kernel::lease::Ask;
use crabbox_kernel::plan::Plan;
use crabbox_kernel::ports::{Clock, EventSink};
use crabbox_kernel::render::{human, json};
use crabbox_kernel::run::Outcome;
use crabbox_kernel::run::record::{Recorder, RunEnd};
use crabbox_kernel::time::rfc3339;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::event::RunEvent;
use crabbox_schemas::exit::UNREAD;
use crabbox_schemas::run::{RunRecord, Timing};

use crate::context::Context;
use crate::handle::HandleFile;

/// Copies of the command's output.
#[derive(Debug, Default)]
pub(crate) struct CaptureFiles {
    stdout: Option<File>,
    stderr: Option<File>,
}

impl CaptureFiles {
    /// Creates the files before anything is spent.
    pub(crate) fn open(stdout: Option<&Path>, stderr: Option<&Path>) -> Result<Self> {
        let create = |path: &Path| {
            File::create(path).map_err(|e| {
                KernelError::new(ErrorCode::Usage, format!("cannot write {}", path.display()))
                    .because(&e)
            })
        };
        Ok(Self {
            stdout: stdout.map(create).transpose()?,
            stderr: stderr.map(create).transpose()?,
        })
    }
}

/// Receives events and shows, records and copies them.
pub(crate) struct Screen<'a> {
    ctx: &'a Context,
    recorder: Option<Recorder>,
    captures: CaptureFiles,
    stream: Option<Box<dyn Write>>,
    /// `--json` has standard output for itself: everything the command prints goes to stderr.
    stdout_is_taken: bool,
    /// Nobody wants to see what the command prints.
    silent: bool,
    /// When the sync under way began, and when it was last said that it goes on.
    sync: Option<(u64, u64)>,
    /// Where a program waits for the box's handle.
    handle: Option<HandleFile>,
}

/// How often a long sync says that it goes on, where there is no terminal to show progress on.
const STILL_SYNCING_MS: u64 = 15_000;

impl<'a> Screen<'a> {
    /// For commands without a run.
    pub(crate) fn plain(ctx: &'a Context) -> Self {
        Self {
            ctx,
            recorder: None,
            captures: CaptureFiles::default(),
            stream: None,
            stdout_is_taken: false,
            silent: false,
            sync: None,
            handle: None,
        }
    }

    /// For a run: its record begins now.
    pub(crate) fn for_run(
        ctx: &'a Context,
        plan: &Plan,
        provider: &str,
        captures: CaptureFiles,
        events: Option<&str>,
    ) -> Result<Self> {
        let target = match &plan.ask {
            Ask::New(new) => &new.request.target,
            Ask::Existing { .. } => &ctx.values.target,
        };
        let record = RunRecord {
            schema_version: crabbox_schemas::SCHEMA_VERSION,
            id: plan.run_id.to_string(),
            provider: provider.to_owned(),
            target: target.clone(),
            class: ctx.values.class.clone(),
            command: plan.command.as_ref().map(|c| c.shown.clone()).unwrap_or_default(),
            label: plan.label.clone(),
            repo_root: plan.repo_root.to_string_lossy().into_owned(),
            state: "running".to_owned(),
            started_at: rfc3339(ctx.clock.now_ms()),
            ..RunRecord::default()
        };
        ctx.state.prepare()?;
        let recorder =
            Recorder::begin(&ctx.state, record, ctx.record_limits(), ctx.clock.now_ms())?;
        let stream = events.map(event_stream).transpose()?;
        let mut screen = Self {
            ctx,
            recorder: Some(recorder),
            captures,
            stream,
            stdout_is_taken: ctx.global.json,
            silent: false,
            sync: None,
            handle: None,
        };
        screen.emit(Event::RunRecorded { run_id: plan.run_id.to_string() });
        Ok(screen)
    }

    /// For a run that an earlier command started. With a recorder its journal goes on.
    pub(crate) fn for_earlier(ctx: &'a Context, recorder: Option<Recorder>, silent: bool) -> Self {
        Self { recorder, silent, stdout_is_taken: ctx.global.json, ..Self::plain(ctx) }
    }

    /// The journal of a run that is over, or that is left to itself.
    pub(crate) fn take_recorder(&mut self) -> Option<Recorder> {
        self.ctx.terminal.settle();
        self.recorder.take()
    }

    /// A program waits for the box's handle in a file.
    pub(crate) fn hand_over(&mut self, file: HandleFile) {
        self.handle = Some(file);
    }

    fn note_handle(&mut self, write: impl FnOnce(&mut HandleFile) -> Result<()>) {
        if let Some(Err(error)) = self.handle.as_mut().map(write) {
            self.ctx.terminal.warn(&error.to_string());
        }
    }

    /// The outcome as whoever reads our standard output has it: stopped since nobody does, or failed since it cannot be
    /// written, whatever the command made of it.
    pub(crate) fn judge(&self, mut outcome: Outcome) -> Outcome {
        let terminal = &self.ctx.terminal;
        match &outcome.error {
            Some(error) if error.code == ErrorCode::Cancelled && terminal.is_unread() => {
                outcome.exit_code = UNREAD;
            }
            None if outcome.exit_code == 0 => {
                if let Some(loss) = terminal.loss() {
                    outcome.exit_code = loss.code.exit_status();
                    outcome.timing.by = "crabbox".to_owned();
                    outcome.error = Some(loss);
                }
            }
            _ => {}
        }
        outcome.timing.exit_code = outcome.exit_code;
        outcome
    }

    /// The run is over: record it, summarise it, print the JSON document. That one was stopped to make way for the next
    /// is no failure to tell.
    pub(crate) fn finish_run(&mut self, outcome: &Outcome, superseded: bool) {
        self.ctx.terminal.settle();
        self.note_handle(|file| file.settled(outcome.kept()));
        let now = self.ctx.clock.now_ms();
        let Some(recorder) = self.recorder.take() else { return };
        let end = RunEnd {
            exit_code: outcome.exit_code,
            signal: outcome.signal.clone(),
            error: outcome.error.clone(),
            timing: outcome.timing.clone(),
        };
        let record = if outcome.detached {
            recorder.leave(&outcome.timing, now)
        } else {
            recorder.finish(&end, now)
        };
        let (runs, keep) = (self.ctx.runs(), self.ctx.retention());
        if runs.is_untidy(keep, &record.id) {
            runs.prune(keep, now);
        }
        if self.ctx.global.json {
            self.ctx.terminal.out_json(&json::run_document(&record, outcome.error.as_ref()));
        } else if outcome.detached {
            self.ctx.terminal.out(&record.id);
        } else if outcome.error.is_none() {
            self.summarise(&record, &outcome.timing);
        }
        // When nobody reads the output, nobody has to be told that it stopped.
        let told = |error: &&KernelError| {
            error.code != ErrorCode::Cancelled || !(superseded || self.ctx.terminal.is_unread())
        };
        if let Some(error) = outcome.error.as_ref().filter(told) {
            self.ctx.terminal.fail(error);
        }
    }

    fn monotonic(&self) -> u64 {
        self.ctx.clock.monotonic_ms()
    }

    /// Says once in a while that a sync goes on.
    fn still_syncing(&mut self) {
        let now = self.monotonic();
        let Some((began, _)) = self.sync.filter(|sync| now >= sync.1 + STILL_SYNCING_MS) else {
            return;
        };
        self.sync = Some((began, now));
        if !self.ctx.terminal.shows_progress() {
            self.ctx.terminal.err(&human::still_syncing(now - began));
        }
    }

    fn summarise(&self, record: &RunRecord, timing: &Timing) {
        let terminal = &self.ctx.terminal;
        if record.command.is_empty() {
            terminal.out(&human::synced(&record.workdir));
        } else if record.workdir.is_empty() {
            terminal.err(&human::delegated_summary(timing));
        } else {
            terminal.err(&human::command_complete(timing));
            terminal.err(&human::run_summary(timing));
        }
    }

    fn copy_output(&mut self, stream: Stream, data: &[u8]) {
        let file = match stream {
            Stream::Stdout => self.captures.stdout.as_mut(),
            Stream::Stderr => self.captures.stderr.as_mut(),
        };
        let failed = file.and_then(|file| file.write_all(data).err());
        if let Some(error) = failed {
            self.captures = CaptureFiles::default();
            self.ctx.terminal.warn(&format!("the copy of the output stops here: {error}"));
        }
    }
}

impl EventSink for Screen<'_> {
    fn emit(&mut self, event: Event) {
        let now = self.ctx.clock.now_ms();
        let recorded: Vec<RunEvent> =
            self.recorder.as_mut().map(|r| r.take(&event, now)).unwrap_or_default();
        if let Some(complaint) = self.recorder.as_mut().and_then(Recorder::complaint) {
            self.ctx.terminal.warn(&complaint);
        }
        if let Some(stream) = self.stream.as_mut() {
            for line in recorded {
                let _ = writeln!(stream, "{}", json::event_line(&line));
            }
        }
        match &event {
            Event::Output { stream, data, .. } => {
                self.copy_output(*stream, data);
                self.ctx.terminal.settle();
                if self.silent {
                    return;
                }
                if !self.ctx.terminal.bytes(self.stdout_is_taken || *stream == Stream::Stderr, data)
                {
                    self.ctx.stop_gently();
                }
            }
            Event::Failed { .. } => {}
            Event::Warning { message } => self.ctx.terminal.warn(message),
            Event::Gap { stream, from, to } => {
                self.ctx.terminal.warn(&human::missing(*stream, *from, *to));
            }
            Event::Debug { message } => {
                if self.ctx.terminal.debug {
                    self.ctx.terminal.err(&format!("debug: {message}"));
                }
            }
            Event::Progress { .. } => {
                if let Some(text) = human::progress(&event) {
                    self.ctx.terminal.progress(&text);
                }
                self.still_syncing();
            }
            other => {
                match other {
                    Event::SyncStarted { .. } => {
                        self.sync = Some((self.monotonic(), self.monotonic()))
                    }
                    Event::SyncFinished { .. } => self.sync = None,
                    Event::LeaseCreated { lease, provider, reused } => {
                        self.note_handle(|file| file.leased(lease, provider, *reused));
                    }
                    _ => {}
                }
                for line in human::lines(other) {
                    self.ctx.terminal.err(&line);
                }
            }
        }
    }
}

fn event_stream(wanted: &str) -> Result<Box<dyn Write>> {
    match wanted.split_once(':') {
        None if wanted == "jsonl" => Ok(Box::new(std::io::stderr())),
        Some(("jsonl", path)) if !path.is_empty() => {
            let file = File::create(path).map_err(|e| {
                KernelError::new(ErrorCode::Usage, format!("cannot write {path}")).because(&e)
            })?;
            Ok(Box::new(file))
        }
        _ => Err(KernelError::new(
            ErrorCode::Usage,
            format!("--events wants jsonl or jsonl:FILE, not {wanted:?}"),
        )),
    }
}
