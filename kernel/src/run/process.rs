//! A process on the box, pumped: bytes out as events, bytes in from the console, and an end that is honest.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::error::{ErrorCode, Outcome};
use tokio::sync::{mpsc, watch};

use crate::error::{KernelError, Result};
use crate::event::{Event, Stream};
use crate::ports::{
    Clock, EventSink, Exit, Piece, ProcessInput, ProcessOutput, Pty, Remote, Stop, Urgency,
};

/// What the person at this end types, and how large their terminal is.
#[derive(Debug)]
pub struct Console {
    /// Standard input, piece by piece; closed at its end.
    pub stdin: mpsc::Receiver<Bytes>,
    /// Columns and rows of the terminal.
    pub size: watch::Receiver<(u32, u32)>,
}

impl Console {
    /// One that says nothing.
    pub fn closed() -> Self {
        Self { stdin: mpsc::channel(1).1, size: watch::channel((80, 24)).1 }
    }
}

/// How a pumped process ended.
#[derive(Debug, PartialEq)]
pub enum End {
    /// By itself.
    Exited(Exit),
    /// Because the user asked to stop.
    Stopped,
    /// Because its time was over.
    TimedOut,
}

/// How to end a process group early: the command that does it gently, and the one that does it at once.
#[derive(Debug, Clone)]
pub struct Killer {
    /// Takes at most two seconds.
    pub gently: String,
    /// Kills.
    pub at_once: String,
}

/// How long a stopped process may take to go, before we stop waiting for it.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(3);

/// Starts a command and pumps it until it ends, is stopped, or runs out of time. When the box does not confirm
/// that a command which had to stop has ended, that is an error with an uncertain outcome.
#[expect(clippy::too_many_arguments, reason = "each is a different door of one process")]
pub async fn pump<R: Remote>(
    remote: &R,
    command: &str,
    pty: Option<&Pty>,
    console: &mut Console,
    killer: &Killer,
    timeout: Option<Duration>,
    clock: &impl Clock,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<End> {
    if stop.urgency() >= Urgency::Gentle {
        return Ok(End::Stopped);
    }
    let timer = async {
        match timeout {
            Some(time) => clock.sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let flow = async {
        let (mut input, mut output) = remote.start(command, pty).await?;
        tokio::select! {
            exit = drain(&mut output, events) => exit.map_err(maybe_started),
            never = feed(&mut input, console) => match never {},
        }
    };
    tokio::pin!(flow, timer);
    let early = tokio::select! {
        biased;
        exit = &mut flow => return exit.map(End::Exited),
        () = stop.reaches(Urgency::Gentle) => End::Stopped,
        () = &mut timer => End::TimedOut,
    };
    let killing = async {
        tokio::select! {
            _ = capture(remote, &killer.gently, Bytes::new()) => {}
            () = stop.reaches(Urgency::Now) => { let _ = capture(remote, &killer.at_once, Bytes::new()).await; }
        }
    };
    let last = async { tokio::join!(killing, &mut flow).1 };
    tokio::select! {
        Ok(_) = last => Ok(early),
        () = clock.sleep(LAST_WORDS) => Err(unconfirmed(&early)),
    }
}

fn unconfirmed(end: &End) -> KernelError {
    let (code, why) = match end {
        End::TimedOut => (ErrorCode::CommandTimeout, "the time was over"),
        End::Stopped | End::Exited(_) => (ErrorCode::Cancelled, "interrupted"),
    };
    KernelError::new(code, format!("{why}, but the box did not confirm that the command ended"))
        .hint("it may still run there while the box exists")
        .outcome(Outcome::Uncertain)
}

fn maybe_started(error: KernelError) -> KernelError {
    match error.outcome {
        None => error.outcome(Outcome::Uncertain),
        Some(_) => error,
    }
}

async fn drain(output: &mut impl ProcessOutput, events: &mut dyn EventSink) -> Result<Exit> {
    let mut offsets = [0u64; 2];
    loop {
        match output.next().await? {
            Piece::Data(stream, data) => {
                let offset = &mut offsets[usize::from(stream == Stream::Stderr)];
                let at = *offset;
                *offset += data.len() as u64;
                events.emit(Event::Output { stream, offset: at, data });
            }
            Piece::Exited(exit) => return Ok(exit),
        }
    }
}

/// Hands the console to the process, as long as it takes it. That it takes no more is not news: how the process
/// or the connection ended is told by its output.
async fn feed(input: &mut impl ProcessInput, console: &mut Console) -> Infallible {
    let mut open = true;
    let mut sized = true;
    loop {
        tokio::select! {
            data = console.stdin.recv(), if open => {
                open = match data {
                    Some(data) => input.write(data).await.is_ok(),
                    None => { let _ = input.finish().await; false }
                };
            }
            changed = console.size.changed(), if sized => {
                let (columns, rows) = *console.size.borrow_and_update();
                sized = changed.is_ok() && input.resize(columns, rows).await.is_ok();
            }
            else => std::future::pending().await,
        }
    }
}

/// What a short command printed.
#[derive(Debug, Default)]
pub struct Captured {
    /// Its status.
    pub code: i32,
    /// Standard output, at most [`CAPTURE_LIMIT`] bytes.
    pub stdout: Vec<u8>,
    /// Standard error, likewise.
    pub stderr: Vec<u8>,
}

/// How much of each stream a captured command may print.
pub const CAPTURE_LIMIT: usize = 64 << 20;

/// Runs a short command with some input and keeps what it prints.
pub async fn capture<R: Remote>(remote: &R, command: &str, stdin: Bytes) -> Result<Captured> {
    let (mut input, mut output) = remote.start(command, None).await?;
    let send = async {
        if !stdin.is_empty() {
            input.write(stdin).await?;
        }
        input.finish().await
    };
    let receive = async {
        let mut got = Captured::default();
        loop {
            match output.next().await? {
                Piece::Data(Stream::Stdout, data) => keep(&mut got.stdout, &data)?,
                Piece::Data(Stream::Stderr, data) => keep(&mut got.stderr, &data)?,
                Piece::Exited(exit) => {
                    got.code = exit.code;
                    return Ok(got);
                }
            }
        }
    };
    tokio::pin!(send, receive);
    let sent = tokio::select! {
        got = &mut receive => return got,
        sent = &mut send => sent,
    };
    // A command that fails may take no input; then its own words explain more.
    let got = receive.await?;
    if got.code == 0 { sent.map(|()| got) } else { Ok(got) }
}

fn keep(buffer: &mut Vec<u8>, data: &[u8]) -> Result<()> {
    if buffer.len() + data.len() > CAPTURE_LIMIT {
        return Err(KernelError::new(
            ErrorCode::SyncWrite,
            "the box answered with more than was asked for",
        ));
    }
    buffer.extend_from_slice(data);
    Ok(())
}
