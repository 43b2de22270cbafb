//! The only place that prints: data to stdout, talk to stderr, progress only on a terminal.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::render::{human, table};
use crabbox_kernel::state::write_atomic;
use crabbox_schemas::error::ErrorCode;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::termios::tcgetwinsize;
use serde::Serialize;

/// This process's standard streams and how to use them.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// Say nothing but warnings and errors.
    quiet: bool,
    /// Say everything.
    pub(crate) debug: bool,
    /// Colour on stderr.
    colour: bool,
    /// A line at the bottom of the terminal, when stderr is one.
    progress: Option<ProgressBar>,
    /// That line is shown now.
    busy: AtomicBool,
    /// Why standard output could not be written.
    lossy: OnceLock<String>,
    /// Nobody reads standard output any more.
    unread: AtomicBool,
}

impl Terminal {
    /// Looks at the streams and at what the user asked for.
    pub(crate) fn new(quiet: bool, debug: bool, no_colour: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let progress = (terminal && !quiet).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar
        });
        Self {
            quiet,
            debug,
            colour: terminal && !no_colour,
            progress,
            busy: AtomicBool::new(false),
            lossy: OnceLock::new(),
            unread: AtomicBool::new(false),
        }
    }

    /// A line of data.
    pub(crate) fn out(&self, line: &str) {
        let mut printed = Ok(());
        self.aside(|| printed = writeln!(std::io::stdout().lock(), "{line}"));
        if let Err(error) = printed {
            self.lose(&error);
        }
    }

    /// A table of data: as wide as it needs to be, or as the terminal is.
    pub(crate) fn table(&self, head: &[&str], rows: &[Vec<String>]) {
        let columns = tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
        let width = columns.filter(|columns| *columns > 0).unwrap_or(usize::MAX);
        for line in table::fitted(head, rows, width) {
            self.out(&line);
        }
    }

    /// A JSON document.
    pub(crate) fn out_json(&self, document: &impl Serialize) {
        self.out(&serde_json::to_string_pretty(document).unwrap_or_default());
    }

    /// A line of talk.
    pub(crate) fn err(&self, line: &str) {
        if !self.quiet {
            self.say(line);
        }
    }

    /// A JSON line on stderr, whatever `--quiet` says: the user asked for it.
    pub(crate) fn err_json(&self, document: &impl Serialize) {
        self.say(&serde_json::to_string(document).unwrap_or_default());
    }

    /// A line that must be seen.
    pub(crate) fn warn(&self, message: &str) {
        self.say(&human::warning(message, self.colour));
    }

    /// A failure, with causes and hint.
    pub(crate) fn fail(&self, error: &KernelError) {
        self.say(&human::failure(error, self.colour));
    }

    fn say(&self, line: &str) {
        self.aside(|| {
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        });
    }

    /// Bytes of the command, untouched. False when nobody reads standard output any more.
    pub(crate) fn bytes(&self, to_stderr: bool, data: &[u8]) -> bool {
        let mut printed = Ok(());
        self.aside(|| {
            printed = if to_stderr {
                std::io::stderr().lock().write_all(data)
            } else {
                let mut out = std::io::stdout().lock();
                out.write_all(data).and_then(|()| out.flush())
            };
        });
        let Err(error) = printed else { return true };
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            self.unread.fetch_or(!to_stderr, Ordering::Relaxed);
            return to_stderr;
        }
        if !to_stderr && self.lose(&error) {
            self.warn(&format!("output is lost here ({error}); `crabbox logs` has it"));
        }
        true
    }

    /// Notes that standard output could not be written; true when that is news. That nobody reads it is no failure.
    fn lose(&self, error: &std::io::Error) -> bool {
        error.kind() != std::io::ErrorKind::BrokenPipe && self.lossy.set(error.to_string()).is_ok()
    }

    /// The error for output that could not be written, if there is such.
    pub(crate) fn loss(&self) -> Option<KernelError> {
        let why = self.lossy.get()?;
        let error = KernelError::new(ErrorCode::State, "cannot write standard output");
        Some(KernelError { causes: vec![why.clone()], ..error })
    }

    /// Whether the reader of standard output went away.
    pub(crate) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// What goes on, at the bottom of the terminal.
    pub(crate) fn progress(&self, message: &str) {
        if let Some(bar) = &self.progress {
            bar.set_message(message.to_owned());
            if !self.busy.swap(true, Ordering::Relaxed) {
                bar.reset();
                bar.enable_steady_tick(Duration::from_millis(120));
            }
        }
    }

    /// Whether there is a terminal to show progress on.
    pub(crate) fn shows_progress(&self) -> bool {
        self.progress.is_some()
    }

    /// Removes the progress line.
    pub(crate) fn settle(&self) {
        if let Some(bar) =
            self.progress.as_ref().filter(|_| self.busy.swap(false, Ordering::Relaxed))
        {
            bar.disable_steady_tick();
            bar.finish_and_clear();
        }
    }

    fn aside(&self, print: impl FnOnce()) {
        match &self.progress {
            Some(bar) if self.busy.load(Ordering::Relaxed) => bar.suspend(print),
            _ => print(),
        }
    }
}

/// Refuses a file that cannot be written, before anything is spent.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let refuse = |error: &std::io::Error| {
        KernelError::new(ErrorCode::Usage, format!("cannot write {}", path.display()))
            .because(error)
    };
    if path.is_dir() {
        return Err(refuse(&std::io::ErrorKind::IsADirectory.into()));
    }
    std::fs::create_dir_all(dir)
        .and_then(|()| tempfile::Builder::new().prefix(".tmp-").tempfile_in(dir).map(|_| ()))
        .map_err(|e| refuse(&e))
}

/// Writes a JSON document to a file the user named.
pub(crate) fn write_json_file(path: &Path, document: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(document).map_err(|e| {
        KernelError::new(ErrorCode::Internal, "cannot encode a document").because(&e)
    })?;
    text.push(b'\n');
    write_atomic(path, &text)
}
