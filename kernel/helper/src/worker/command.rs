//! Starting the command: its pipes or terminal, and one who waits for its end.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Sender, channel};

use crabbox_schemas::helper::Terminal;
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::blob::os_string;
use crate::link::Start;
use crate::program;

/// How much a pipe should hold, so that neither end waits for the other all the time.
const PIPE: usize = 1 << 20;

/// A running command, seen from outside.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) pid: Pid,
    pub(super) child: Child,
    pub(super) stdout: OwnedFd,
    /// A terminal has only one stream.
    pub(super) stderr: Option<OwnedFd>,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) terminal: Option<OwnedFd>,
    /// Readable once the command's process ended.
    pub(super) ended: OwnedFd,
}

/// Our ends of a command's three streams.
struct Ends {
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

/// Starts it.
pub(super) fn start(start: &Start, at_ms: u64) -> io::Result<Command> {
    let mut command = program::another("exec");
    command
        .arg(format!("{}/pid", start.dir))
        .arg(at_ms.to_string())
        .arg(format!("{:o}", start.umask))
        .arg(&start.limits)
        .arg(if start.pty.is_some() { "tty" } else { "-" })
        .arg(&start.workdir)
        .args(words(start)?)
        .env_clear()
        .envs(environment(start)?);
    let (theirs, ours) = match &start.pty {
        Some(terminal) => terminal_ends(terminal)?,
        None => pipe_ends(start.stdin)?,
    };
    let [stdin, stdout, stderr] = theirs;
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    let (ended, tell) = waiter()?;
    // Nothing after this may fail: the command runs.
    let child = command.spawn()?;
    drop(command);
    let pid = Pid::from_child(&child);
    let _ = tell.send(pid);
    Ok(Command {
        pid,
        child,
        stdout: ours.stdout,
        stderr: ours.stderr,
        stdin: ours.stdin,
        terminal: ours.terminal,
        ended,
    })
}

fn words(start: &Start) -> io::Result<Vec<OsString>> {
    start.words.iter().map(|word| os_string(word).map_err(io::Error::other)).collect()
}

fn environment(start: &Start) -> io::Result<Vec<(OsString, OsString)>> {
    let pair = |(name, value): &(_, _)| Ok((os_string(name)?, os_string(value)?));
    start.env.iter().map(|p| pair(p).map_err(|e: crate::Fault| io::Error::other(e))).collect()
}

/// A thread that waits for the process it will be told, without collecting it: what it used is told when it is
/// collected.
fn waiter() -> io::Result<(OwnedFd, Sender<Pid>)> {
    let (ended, done) = pipe_with(PipeFlags::CLOEXEC)?;
    let (tell, told) = channel();
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        if let Ok(pid) = told.recv() {
            while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
        }
        drop(done);
    })?;
    Ok((ended, tell))
}

fn pipe_ends(stdin: bool) -> io::Result<([Stdio; 3], Ends)> {
    let (stdout, their_stdout) = wide_pipe()?;
    let (stderr, their_stderr) = wide_pipe()?;
    unblock(&stdout)?;
    unblock(&stderr)?;
    let (their_stdin, stdin) = match stdin {
        true => {
            let (theirs, ours) = wide_pipe()?;
            unblock(&ours)?;
            (theirs.into(), Some(ours))
        }
        false => (Stdio::null(), None),
    };
    let ends = Ends { stdout, stderr: Some(stderr), stdin, terminal: None };
    Ok(([their_stdin, their_stdout.into(), their_stderr.into()], ends))
}

/// A pipe that holds much, where the system lets us: reading end, writing end.
fn wide_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let _ = fcntl_setpipe_size(&write, PIPE);
    Ok((read, write))
}

fn terminal_ends(terminal: &Terminal) -> io::Result<([Stdio; 3], Ends)> {
    let master =
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = File::from(rustix::fs::open(&name, flags, rustix::fs::Mode::empty())?);
    resize(&master, terminal.columns, terminal.rows)?;
    unblock(&master)?;
    let theirs = [slave.try_clone()?.into(), slave.try_clone()?.into(), slave.into()];
    let ends = Ends {
        stdout: master.try_clone()?,
        stderr: None,
        stdin: Some(master.try_clone()?),
        terminal: Some(master),
    };
    Ok((theirs, ends))
}

/// Tells a terminal its size.
pub(super) fn resize(terminal: &OwnedFd, columns: u32, rows: u32) -> io::Result<()> {
    let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let size = Winsize { ws_col: short(columns), ws_row: short(rows), ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Only our end of a pipe: the flag belongs to the open file, and theirs is another one.
fn unblock(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}
