//! A process on a box: one channel, pumped into a spool so that a slow reader disturbs no other channel.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Stream;
use crabbox_kernel::ports::{Exit, Piece, ProcessInput, ProcessOutput, Pty};
use crabbox_schemas::error::{ErrorCode, Outcome};
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::mux::MuxInput;
use crate::session::{Fate, Line};
use crate::spool::{Inlet, Outlet, spool};

/// How long a process that ended with its connection may take to be known as ended.
const LAST_WORD: Duration = Duration::from_secs(1);
/// SSH's code for standard error.
const STDERR: u32 = 1;

/// Signals by SSH name with the numbers shells use.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("SYS", 31),
];

/// Input half of a process over SSH.
#[derive(Debug)]
pub enum SshInput {
    /// On a connection of our own.
    Own(OwnInput),
    /// On one that OpenSSH shares.
    Mux(MuxInput),
}

/// Input half of a process on a connection of our own.
#[derive(Debug)]
pub struct OwnInput {
    channel: Arc<ChannelWriteHalf<Msg>>,
    ended: watch::Receiver<Ended>,
    fate: Fate,
}

/// Output half of a process over SSH. Dropping it gives the process up.
#[derive(Debug)]
pub struct SshOutput {
    pieces: Outlet,
    fate: Fate,
    exited: bool,
}

/// How far the far side has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    No,
    /// The process takes no input any more.
    Process,
    /// The channel is gone without a word about the process.
    Lost,
}

/// Starts a command, or the login shell when the command is empty, on a channel just opened.
pub(crate) async fn start(
    line: &Line,
    mut channel: Channel<Msg>,
    command: &str,
    pty: Option<&Pty>,
    deadline: Instant,
    dir: PathBuf,
) -> Result<(SshInput, SshOutput)> {
    if let Some(pty) = pty {
        let (columns, rows) = (pty.columns, pty.rows);
        let asked = channel.request_pty(true, &pty.term, columns, rows, 0, 0, &[]).await;
        asked.map_err(|e| line.refused("the box gives no terminal", &e))?;
        granted(&mut channel, line, deadline, "the box gives no terminal")
            .await
            .map_err(|error| error.outcome(Outcome::NotStarted))?;
    }
    let asked = match command {
        "" => channel.request_shell(true).await,
        _ => channel.exec(true, command).await,
    };
    asked.map_err(|e| line.refused("the command could not be sent", &e))?;
    granted(&mut channel, line, deadline, "the box refuses to start the command").await?;
    Ok(split(channel, line.fate.clone(), dir))
}

/// Waits for the answer to the last request.
async fn granted(
    channel: &mut Channel<Msg>,
    line: &Line,
    deadline: Instant,
    no: &str,
) -> Result<()> {
    loop {
        match timeout_at(deadline, channel.wait()).await {
            Ok(Some(ChannelMsg::Success)) => return Ok(()),
            Ok(Some(ChannelMsg::Failure)) => {
                return Err(KernelError::new(ErrorCode::Unsupported, no)
                    .at("connection")
                    .outcome(Outcome::NotStarted)
                    .hint("the SSH server or the key's restrictions forbid it"));
            }
            Ok(Some(ChannelMsg::Close) | None) => {
                return Err(line
                    .fate
                    .lost("the connection broke before the command was confirmed"))
                .map_err(|error| error.outcome(Outcome::Uncertain));
            }
            Ok(Some(_)) => {}
            Err(late) => {
                let error = line.fate.lost("the box did not confirm the command in time");
                return Err(error.because(&late).outcome(Outcome::Uncertain));
            }
        }
    }
}

fn split(channel: Channel<Msg>, fate: Fate, dir: PathBuf) -> (SshInput, SshOutput) {
    let (read, write) = channel.split();
    let write = Arc::new(write);
    let (ended_to, ended) = watch::channel(Ended::No);
    let (pieces_to, pieces) = spool(dir);
    let pump = Pump { write: write.clone(), ended: ended_to, pieces: pieces_to };
    tokio::spawn(pump.run(read));
    let input = SshInput::Own(OwnInput { channel: write, ended, fate: fate.clone() });
    (input, SshOutput::new(pieces, fate))
}

/// Carries what the channel says to the reader.
struct Pump {
    write: Arc<ChannelWriteHalf<Msg>>,
    ended: watch::Sender<Ended>,
    pieces: Inlet,
}

impl Pump {
    async fn run(self, mut read: ChannelReadHalf) {
        let mut exit = None;
        loop {
            let said = tokio::select! {
                said = read.wait() => said,
                () = self.pieces.given_up() => {
                    let _ = self.write.close().await;
                    break;
                }
            };
            match said {
                Some(ChannelMsg::Data { data }) => self.pieces.put(Stream::Stdout, data).await,
                Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                    self.pieces.put(Stream::Stderr, data).await;
                }
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    exit = Some(status(exit_status));
                    self.ended.send_replace(Ended::Process);
                }
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                    exit = Some(signalled(&signal_name));
                    self.ended.send_replace(Ended::Process);
                }
                Some(ChannelMsg::Close) | None => break,
                Some(_) => {}
            }
        }
        self.ended.send_replace(if exit.is_some() { Ended::Process } else { Ended::Lost });
        self.pieces.end(exit);
    }
}

pub(crate) fn status(code: u32) -> Exit {
    Exit { code: i32::try_from(code).unwrap_or(255), signal: None }
}

fn signalled(signal: &Sig) -> Exit {
    let name = match signal {
        Sig::Custom(name) => name.clone(),
        known => format!("{known:?}"),
    };
    let number = SIGNALS.iter().find(|row| row.0 == name).map_or(127, |row| row.1);
    Exit { code: 128 + number, signal: Some(name) }
}

impl SshOutput {
    pub(crate) fn new(pieces: Outlet, fate: Fate) -> Self {
        Self { pieces, fate, exited: false }
    }
}

impl ProcessOutput for SshOutput {
    async fn next(&mut self) -> Result<Piece> {
        let aside = |e| {
            let what = "the output that was set aside cannot be read";
            KernelError::new(ErrorCode::State, what).because(&e).outcome(Outcome::Uncertain)
        };
        match self.pieces.next().await.map_err(aside)? {
            Some(piece) => {
                self.exited |= matches!(piece, Piece::Exited(_));
                Ok(piece)
            }
            None if self.exited => {
                Err(KernelError::new(ErrorCode::Internal, "output was read after the exit status"))
            }
            None => Err(self
                .fate
                .lost("the connection broke before the command's exit status arrived")
                .outcome(Outcome::Uncertain)),
        }
    }
}

/// A request to a process that has ended is moot; to a lost one it is an error.
pub(crate) async fn unless_ended(
    ended: &watch::Receiver<Ended>,
    fate: &Fate,
    ask: impl Future<Output = Result<(), ()>>,
) -> Result<()> {
    let mut watched = ended.clone();
    let mut over = async || watched.wait_for(|ended| *ended > Ended::No).await.is_ok();
    let sent = tokio::select! {
        biased;
        _ = over() => Ok(()),
        sent = ask => sent,
        () = fate.sealed() => Err(()),
    };
    if sent.is_err() {
        // What arrived before the connection ended may still say that the process did.
        let _ = timeout(LAST_WORD, over()).await;
    }
    let now = *ended.borrow();
    match (sent, now) {
        (_, Ended::Process) | (Ok(()), Ended::No) => Ok(()),
        (_, Ended::Lost) | (Err(()), Ended::No) => {
            Err(fate.lost("the connection to the command broke").outcome(Outcome::Uncertain))
        }
    }
}

impl OwnInput {
    async fn ask(&self, asked: impl Future<Output = Result<(), russh::Error>>) -> Result<()> {
        unless_ended(&self.ended, &self.fate, async { asked.await.map_err(drop) }).await
    }
}

impl ProcessInput for OwnInput {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.ask(self.channel.data_bytes(data)).await
    }

    async fn finish(&mut self) -> Result<()> {
        self.ask(self.channel.eof()).await
    }

    async fn signal(&mut self, name: &str) -> Result<()> {
        let signal = Sig::Custom(name.trim_start_matches("SIG").to_owned());
        self.ask(self.channel.signal(signal)).await
    }

    async fn resize(&mut self, columns: u32, rows: u32) -> Result<()> {
        self.ask(self.channel.window_change(columns, rows, 0, 0)).await
    }
}

impl ProcessInput for SshInput {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        match self {
            Self::Own(input) => input.write(data).await,
            Self::Mux(input) => input.write(data).await,
        }
    }

    async fn finish(&mut self) -> Result<()> {
        match self {
            Self::Own(input) => input.finish().await,
            Self::Mux(input) => input.finish().await,
        }
    }

    async fn signal(&mut self, name: &str) -> Result<()> {
        match self {
            Self::Own(input) => input.signal(name).await,
            Self::Mux(input) => input.signal(name).await,
        }
    }

    async fn resize(&mut self, columns: u32, rows: u32) -> Result<()> {
        match self {
            Self::Own(input) => input.resize(columns, rows).await,
            Self::Mux(input) => input.resize(columns, rows).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_becomes_its_name_and_128_plus_its_number() {
        assert_eq!(signalled(&Sig::TERM), Exit { code: 143, signal: Some("TERM".into()) });
        assert_eq!(
            signalled(&Sig::Custom("USR2".into())),
            Exit { code: 140, signal: Some("USR2".into()) }
        );
    }
}
