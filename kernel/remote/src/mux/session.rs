//! A process behind a master: its three files are pipes whose other ends the master has.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Stream;
use crabbox_kernel::ports::{Exit, ProcessInput};
use crabbox_schemas::error::ErrorCode;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::wire::{self, Said};
use super::{Master, Pulse, reach};
use crate::process::{Ended, SshOutput, status, unless_ended};
use crate::session::Fate;
use crate::spool::{Inlet, spool};

/// Bytes read at once, and what a pipe holds where that can be chosen.
const PIECE: usize = 128 << 10;
#[cfg(target_os = "linux")]
const PIPE: usize = 1 << 20;

/// Why there is no process.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The master does not do it; nothing was started.
    Refused(String),
    /// It went silent after it was asked.
    Uncertain(String),
}

impl Refusal {
    fn uncertain(error: impl std::fmt::Display) -> Self {
        Self::Uncertain(error.to_string())
    }

    fn refused(error: impl std::fmt::Display) -> Self {
        Self::Refused(error.to_string())
    }
}

/// A process that was started: the control connection, and our ends of its files.
pub(super) struct Opened {
    control: UnixStream,
    stdin: pipe::Sender,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

/// Has the master start a command, or the login shell when the command is empty.
pub(super) async fn open(path: &Path, command: &str) -> Result<Opened, Refusal> {
    let mut control = reach(path).await.map_err(Refusal::Refused)?;
    let asked = wire::new_session(command)
        .ok_or_else(|| Refusal::refused("the command is too long for a shared connection"))?;
    let (stdin, stdin_there) = pipe::pipe().map_err(Refusal::refused)?;
    let (stdout_there, stdout) = pipe::pipe().map_err(Refusal::refused)?;
    let (stderr_there, stderr) = pipe::pipe().map_err(Refusal::refused)?;
    #[cfg(target_os = "linux")]
    for pipe in [stdin.as_fd(), stdout.as_fd()] {
        let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
    }
    let theirs = [
        stdin_there.into_nonblocking_fd(),
        stdout_there.into_nonblocking_fd(),
        stderr_there.into_nonblocking_fd(),
    ];
    control.write_all(&asked).await.map_err(Refusal::refused)?;
    for file in theirs {
        let file: OwnedFd = file.map_err(Refusal::refused)?;
        pass(&control, file.as_fd()).await.map_err(Refusal::refused)?;
    }
    loop {
        match wire::read(&mut control).await {
            Ok(Said::Opened) => return Ok(Opened { control, stdin, stdout, stderr }),
            Ok(Said::Refused(why)) => return Err(Refusal::Refused(why)),
            Ok(_) => {}
            Err(error) => return Err(Refusal::uncertain(error)),
        }
    }
}

/// Passes one file beside one byte: the master takes them one at a time.
async fn pass(control: &UnixStream, file: BorrowedFd<'_>) -> io::Result<()> {
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        beside.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(&file)));
        Ok(sendmsg(control, &[IoSlice::new(&[0])], &mut beside, SendFlags::empty())?)
    };
    control.async_io(Interest::WRITABLE, send).await.map(drop)
}

impl Master {
    /// Starts a command.
    pub(crate) async fn start(
        &self,
        command: &str,
        dir: PathBuf,
        deadline: Instant,
    ) -> Result<(MuxInput, SshOutput), Refusal> {
        let opened = timeout_at(deadline, open(&self.path, command)).await;
        let Opened { control, stdin, stdout, stderr } =
            opened.map_err(|_| Refusal::uncertain("the box opened no channel in time"))??;
        let (ended_to, ended) = watch::channel(Ended::No);
        let (inlet, pieces) = spool(dir);
        let (fate, pulse) = (self.fate.clone(), self.pulse.clone());
        pulse.beats();
        let pump = Pump { ended: ended_to, pieces: inlet, pulse, fate: fate.clone() };
        tokio::spawn(pump.run(control, stdout, stderr));
        let input = MuxInput { pipe: Some(stdin), ended, fate: fate.clone() };
        Ok((input, SshOutput::new(pieces, fate)))
    }
}

impl Pulse {
    fn beats(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Carries what comes out of the pipes to the reader.
struct Pump {
    ended: watch::Sender<Ended>,
    pieces: Inlet,
    pulse: Arc<Pulse>,
    fate: Fate,
}

impl Pump {
    async fn run(self, mut control: UnixStream, stdout: pipe::Receiver, stderr: pipe::Receiver) {
        let all = async {
            let out = self.pour(stdout, Stream::Stdout);
            let err = self.pour(stderr, Stream::Stderr);
            tokio::join!(self.exit(&mut control), out, err).0
        };
        let exit = tokio::select! {
            exit = all => exit,
            // The master ends a process whose files and control connection are closed.
            () = self.pieces.given_up() => None,
            () = self.fate.sealed() => None,
        };
        self.ended.send_replace(if exit.is_some() { Ended::Process } else { Ended::Lost });
        self.pieces.end(exit);
    }

    async fn exit(&self, control: &mut UnixStream) -> Option<Exit> {
        loop {
            match wire::read(control).await {
                Ok(Said::Exit(code)) => {
                    self.ended.send_replace(Ended::Process);
                    return Some(status(code));
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    async fn pour(&self, mut from: pipe::Receiver, stream: Stream) {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            match from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    self.pulse.beats();
                    self.pieces.put(stream, buffer.split().freeze()).await;
                }
            }
        }
    }
}

/// Input half of a process behind a master.
#[derive(Debug)]
pub struct MuxInput {
    pipe: Option<pipe::Sender>,
    ended: watch::Receiver<Ended>,
    fate: Fate,
}

impl ProcessInput for MuxInput {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let send = async { pipe.write_all(&data).await.map_err(drop) };
        unless_ended(&self.ended, &self.fate, send).await
    }

    async fn finish(&mut self) -> Result<()> {
        self.pipe = None;
        Ok(())
    }

    async fn signal(&mut self, name: &str) -> Result<()> {
        let what = format!("a connection that OpenSSH shares carries no signal {name}");
        Err(KernelError::new(ErrorCode::Unsupported, what).at("connection"))
    }

    /// There are no terminals behind a master.
    async fn resize(&mut self, _: u32, _: u32) -> Result<()> {
        Ok(())
    }
}
