//! One run inside a worker: from its pipes into the spool, and its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use crabbox_schemas::helper::{RunExit, Usage};
use rustix::process::Pid;
use wait4::{ResourceUsage, Wait4};

use crate::link::Start;
use crate::spool::{Writer, replace};
use crate::worker::command::{self, Command};
use crate::worker::input::Input;
use crate::worker::peer::Progress;
use crate::{clock, runs};

/// How long processes that outlive the command may hold its pipes.
const GRACE: Duration = Duration::from_millis(100);
/// How long to wait when the disk takes nothing.
const DISK: Duration = Duration::from_millis(500);
/// How long the output of a command that is over waits for a full disk, before it is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// An output stream.
#[derive(Debug)]
struct Stream {
    from: Option<OwnedFd>,
    spool: Writer,
    /// After the end: bytes that were in the pipe then, and come before it.
    residue: u64,
    /// Bytes the disk did not take; nothing is read before they are written.
    unsaved: Vec<u8>,
    /// Nothing is kept any more: a gap says so.
    is_lost: bool,
}

/// A command and its streams.
#[derive(Debug)]
pub(super) struct Run {
    dir: String,
    pid: Pid,
    streams: [Stream; 2],
    pub(super) input: Input,
    terminal: Option<OwnedFd>,
    ended: Option<OwnedFd>,
    child: Child,
    status: Option<ExitStatus>,
    usage: Usage,
    deadline: Option<Instant>,
    timed_out: bool,
    grace: Option<Instant>,
    /// When to try again what the disk did not take.
    disk_full: Option<Instant>,
    /// Since when it takes nothing.
    full_since: Option<Instant>,
    said_stuck: bool,
    buffer: Vec<u8>,
}

/// What a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Stream(usize),
    Input,
    Ended,
}

impl Run {
    /// Starts it.
    pub(super) fn start(start: &Start, at_ms: u64) -> io::Result<Self> {
        let Command { pid, child, stdout, stderr, stdin, terminal, ended } =
            command::start(start, at_ms)?;
        let stream = |from, name| Stream {
            from,
            spool: Writer::new(Path::new(&start.dir), name, start.spool_bytes),
            residue: 0,
            unsaved: Vec::new(),
            is_lost: false,
        };
        Ok(Self {
            dir: start.dir.clone(),
            pid,
            streams: [stream(Some(stdout), "out"), stream(stderr, "err")],
            input: Input::new(stdin, terminal.is_some()),
            terminal,
            ended: Some(ended),
            child,
            status: None,
            usage: Usage::default(),
            deadline: start.timeout_ms.and_then(after),
            timed_out: false,
            grace: None,
            disk_full: None,
            full_since: None,
            said_stuck: false,
            buffer: vec![0; CHUNK],
        })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn progress(&self) -> Progress {
        [self.streams[0].spool.end(), self.streams[1].spool.end(), self.input.taken()]
    }

    pub(super) fn resize(&self, columns: u32, rows: u32) {
        if let Some(terminal) = &self.terminal {
            let _ = command::resize(terminal, columns, rows);
        }
    }

    /// What to wait for; a stream whose spool has no room is not read.
    pub(super) fn doors(&mut self, needs: [u64; 2]) -> Vec<(Door, BorrowedFd<'_>)> {
        let disk = self.disk_full.is_none();
        let over = self.status.is_some();
        let mut doors = Vec::with_capacity(4);
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let room = stream.spool.room(needs[index], over && stream.residue > 0);
            if let Some(from) = stream.from.as_ref().filter(|_| room > 0 && disk) {
                doors.push((Door::Stream(index), from.as_fd()));
            }
        }
        doors.extend(self.input.wants().map(|fd| (Door::Input, fd)));
        doors.extend(self.ended.as_ref().map(|fd| (Door::Ended, fd.as_fd())));
        doors
    }

    /// When to look again although nothing happened.
    pub(super) fn alarm(&self) -> Option<Instant> {
        let deadline = self.deadline.filter(|_| self.status.is_none());
        [deadline, self.disk_full.or(self.grace)].into_iter().flatten().min()
    }

    /// Whether the time is over, said once.
    pub(super) fn is_out_of_time(&mut self) -> bool {
        let now = Instant::now();
        let over = self.status.is_none() && self.deadline.is_some_and(|at| at <= now);
        if over {
            self.deadline = None;
            self.timed_out = true;
        }
        over
    }

    /// Whether the command waits for a full disk, said once each time.
    pub(super) fn is_newly_stuck(&mut self) -> bool {
        let stuck = self.full_since.is_some_and(|since| since.elapsed() > DISK);
        let newly = stuck && !self.said_stuck;
        self.said_stuck = stuck;
        newly
    }

    /// Tries again to write what a full disk did not take. What a command that is over has left may get lost.
    pub(super) fn save(&mut self, needs: [u64; 2]) {
        if self.disk_full.is_none_or(|until| until > Instant::now()) {
            return;
        }
        self.give_way(needs);
        let patience = self.full_since.is_some_and(|since| since.elapsed() > PATIENCE);
        if patience && self.status.is_some() {
            self.streams.iter_mut().for_each(|stream| stream.is_lost = true);
        }
        let failed = self.streams.iter_mut().any(|stream| {
            let unsaved = std::mem::take(&mut stream.unsaved);
            if !unsaved.is_empty() && !stream.save(&unsaved) {
                stream.unsaved = unsaved;
            }
            !stream.unsaved.is_empty()
        });
        self.disk_full = failed.then(|| Instant::now() + DISK);
        self.full_since = self.full_since.filter(|_| failed);
    }

    /// Makes room on a full disk: what everybody has read need not be kept.
    pub(super) fn give_way(&mut self, needs: [u64; 2]) {
        for (stream, needed) in self.streams.iter_mut().zip(needs) {
            stream.spool.give_way(needed);
        }
        runs::spend_reserve(Path::new(&self.dir), runs::SPARE_FOR_END);
    }

    /// A door opened. Fails when nobody will ever know how the command ended.
    pub(super) fn enter(&mut self, door: Door, needs: [u64; 2]) -> io::Result<()> {
        match door {
            Door::Stream(index) => self.read(index, needs[index]),
            Door::Input => self.input.write(),
            Door::Ended => self.collect()?,
        }
        Ok(())
    }

    /// One helping of a stream goes to the spool. When the disk is full the command waits for it.
    fn read(&mut self, index: usize, needed: u64) {
        let over = self.status.is_some();
        let stream = &mut self.streams[index];
        let Some(from) = &stream.from else { return };
        let room = stream.spool.room(needed, over && stream.residue > 0).min(CHUNK);
        if room == 0 {
            return;
        }
        match rustix::io::read(from, &mut self.buffer[..room]) {
            Ok(0) => stream.close(),
            Ok(n) => {
                stream.residue = stream.residue.saturating_sub(n as u64);
                if !stream.save(&self.buffer[..n]) {
                    stream.unsaved = self.buffer[..n].to_vec();
                    self.disk_full = Some(Instant::now());
                    self.full_since.get_or_insert_with(Instant::now);
                }
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // A terminal that nobody holds any more says EIO.
            Err(_) => stream.close(),
        }
    }

    /// The process ended: notes what it used, what is still in its pipes, and how long to wait for more.
    fn collect(&mut self) -> io::Result<()> {
        self.ended = None;
        let collected = self.child.try_wait4()?.ok_or(io::ErrorKind::WouldBlock)?;
        self.status = Some(collected.status);
        self.usage = usage(&collected.rusage);
        self.grace = Some(Instant::now() + GRACE);
        self.input.close();
        for stream in &mut self.streams {
            let rest = stream.from.as_ref().map(rustix::io::ioctl_fionread);
            stream.residue = rest.and_then(Result::ok).unwrap_or_default();
        }
        Ok(())
    }

    /// How it ended, once everything it wrote was read.
    pub(super) fn exit(&self) -> Option<RunExit> {
        let grace = self.grace?;
        let waiting = Instant::now() < grace;
        let open = |s: &Stream| s.from.is_some() && (waiting || s.residue > 0);
        if self.ended.is_some() || self.disk_full.is_some() || self.streams.iter().any(open) {
            return None;
        }
        let signal = self.status.and_then(|s| s.signal());
        let code = self.status.and_then(|s| s.code()).unwrap_or(1);
        Some(RunExit {
            code: signal.map_or(code, |number| 128 + number),
            signal: signal.map(name_of),
            timed_out: self.timed_out,
            stdout: self.streams[0].spool.end(),
            stderr: self.streams[1].spool.end(),
            ended_ms: clock::now_ms(),
            usage: self.usage.clone(),
        })
    }

    /// Writes down how it ended. On a full disk output makes way for it, what nobody waits for first; where nothing
    /// helps, the run is lost, since its lock must not wait for ever.
    pub(super) fn record(&mut self, exit: &RunExit, needs: [u64; 2]) -> io::Result<()> {
        let dir = Path::new(&self.dir);
        let mut written = self.write_end(exit);
        if written.is_err() && runs::spend_reserve(dir, 0) {
            written = self.write_end(exit);
        }
        if written.is_ok() {
            runs::spend_reserve(dir, 0);
        } else {
            let waited = self.full_since.get_or_insert_with(Instant::now).elapsed();
            if waited > PATIENCE * 3 {
                return Ok(());
            }
            self.give_way(needs);
            if waited > PATIENCE {
                self.streams.iter_mut().for_each(|stream| stream.spool.abandon());
            }
        }
        written
    }

    fn write_end(&self, exit: &RunExit) -> io::Result<()> {
        let dir = Path::new(&self.dir);
        let _ = std::fs::remove_file(dir.join("sock"));
        match replace(&dir.join("exit.json"), &serde_json::to_vec(exit)?) {
            // The folder was removed: nobody will ever ask.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

impl Stream {
    /// Whether the bytes are kept, or nobody could ever find them since the run's folder was removed.
    fn save(&mut self, bytes: &[u8]) -> bool {
        if !self.is_lost {
            match self.spool.write(bytes) {
                Ok(()) => return true,
                Err(e) if e.kind() != io::ErrorKind::NotFound => return false,
                Err(_) => {}
            }
        }
        self.spool.pass_over(bytes.len());
        true
    }

    fn close(&mut self) {
        self.from = None;
        self.residue = 0;
    }
}

/// A moment so far away that it cannot be told never comes.
fn after(ms: u64) -> Option<Instant> {
    Instant::now().checked_add(Duration::from_millis(ms))
}

/// What an ended process and those it waited for used.
fn usage(rusage: &ResourceUsage) -> Usage {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Usage { user_ms: ms(rusage.utime), system_ms: ms(rusage.stime), max_rss_bytes: rusage.maxrss }
}

/// A signal's name without `SIG`.
fn name_of(number: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
    NAMES.get(index).map_or_else(|| number.to_string(), |name| (*name).to_owned())
}
