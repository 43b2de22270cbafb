//! This end's standard input and terminal: bytes typed, window size, raw mode.

use std::io::Read;
use std::os::fd::AsFd;

use bytes::Bytes;
use crabbox_kernel::plan::Supply;
use crabbox_kernel::ports::Pty;
use crabbox_kernel::run::process::Console;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat, tell};
use rustix::io::ioctl_fionread;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    isatty(std::io::stdin())
}

/// What standard input has for a command, looked at without reading it or waiting.
pub(crate) fn supply() -> Supply {
    let input = std::io::stdin();
    let Ok(facts) = fstat(&input) else { return Supply::Nothing };
    match FileType::from_raw_mode(facts.st_mode) {
        FileType::RegularFile => {
            let at = tell(&input).unwrap_or(0);
            let left = u64::try_from(facts.st_size).is_ok_and(|size| size > at);
            if left { Supply::Bytes } else { Supply::Nothing }
        }
        FileType::Fifo | FileType::Socket => {
            let mut polled = [PollFd::new(&input, PollFlags::IN)];
            let _ = poll(&mut polled, Some(&Timespec::default()));
            let is_over = polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
            match ioctl_fionread(&input) {
                Ok(1..) => Supply::Bytes,
                _ if is_over || polled[0].revents().contains(PollFlags::IN) => Supply::Nothing,
                _ => Supply::Silent,
            }
        }
        _ => Supply::Nothing,
    }
}

/// Forwards standard input from now on. Reading happens on a thread of its own, since a read cannot be
/// interrupted; it ends with the process.
pub(crate) fn open() -> Console {
    let (to_command, stdin) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        let mut input = std::io::stdin().lock();
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(n)
                    if to_command.blocking_send(Bytes::copy_from_slice(&buffer[..n])).is_err() =>
                {
                    return;
                }
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    Console { stdin, size: watch_size() }
}

fn watch_size() -> watch::Receiver<(u32, u32)> {
    let (sender, receiver) = watch::channel(size());
    if let Ok(mut changed) = signal(SignalKind::window_change()) {
        tokio::spawn(async move {
            while changed.recv().await.is_some() && sender.send(size()).is_ok() {}
        });
    }
    receiver
}

/// Columns and rows of the terminal, or 80 × 24.
fn size() -> (u32, u32) {
    let ask = |fd: std::os::fd::BorrowedFd<'_>| {
        tcgetwinsize(fd)
            .ok()
            .filter(|s| s.ws_col > 0)
            .map(|s| (u32::from(s.ws_col), u32::from(s.ws_row)))
    };
    ask(std::io::stdin().as_fd()).or_else(|| ask(std::io::stderr().as_fd())).unwrap_or((80, 24))
}

/// A terminal like ours for the command.
pub(crate) fn pty(term: Option<&str>) -> Pty {
    let (columns, rows) = size();
    Pty {
        term: term.filter(|t| !t.is_empty()).unwrap_or("xterm-256color").to_owned(),
        columns,
        rows,
    }
}

/// Raw mode while it lives, so that every key reaches the box.
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// Switches the terminal to raw mode, when there is one.
    pub(crate) fn enter() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
