//! A process on the box, pumped: bytes out as events, bytes in from the console, and an end that is honest.

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
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Starts a command and pumps it until it ends, is stopped, or runs out of time.
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
    let (mut input, mut output) = remote.start(command, pty).await?;
    let timer = async {
        match timeout {
            Some(time) => clock.sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let flow = async {
        tokio::select! {
            exit = drain(&mut output, events) => exit,
            error = feed(&mut input, console) => Err(error),
        }
    };
    tokio::pin!(flow, timer);
    let early = tokio::select! {
        biased;
        exit = &mut flow => return exit.map(End::Exited).map_err(maybe_started),
        () = stop.reaches(Urgency::Gentle) => End::Stopped,
        () = &mut timer => End::TimedOut,
    };
    let killing = async {
        tokio::select! {
            _ = capture(remote, &killer.gently, Bytes::new()) => {}
            () = stop.reaches(Urgency::Now) => { let _ = capture(remote, &killer.at_once, Bytes::new()).await; }
        }
    };
    tokio::select! {
        _ = async { tokio::join!(killing, &mut flow) } => {}
        () = clock.sleep(LAST_WORDS) => {}
    }
    Ok(early)
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

/// Hands the console to the process. Returns only with an error; the process's end is the other side's news.
async fn feed(input: &mut impl ProcessInput, console: &mut Console) -> KernelError {
    let mut open = true;
    let mut sized = true;
    loop {
        let step = tokio::select! {
            data = console.stdin.recv(), if open => match data {
                Some(data) => input.write(data).await,
                None => { open = false; input.finish().await }
            },
            changed = console.size.changed(), if sized => match changed {
                Ok(()) => { let (columns, rows) = *console.size.borrow_and_update(); input.resize(columns, rows).await }
                Err(_) => { sized = false; Ok(()) }
            },
            else => std::future::pending().await,
        };
        if let Err(error) = step {
            return error;
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
    tokio::select! {
        got = &mut receive => return got,
        sent = &mut send => sent?,
    }
    receive.await
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
