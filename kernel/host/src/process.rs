//! A granted tool that is talked with while it runs.

use std::sync::Arc;
use std::time::Duration;

use crabbox_net::{RedactStream, Vault};
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{ExecRead, ExecWriteParams};
use crabbox_wire::payload;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::{Mutex, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::exec::KillOnDrop;
use crate::fault::refuse;
use crate::spawn::{Group, Running};

/// Bytes taken from a pipe at a time, and pieces that wait to be read before the tool has to.
const PIECE: usize = 16 * 1024;
const WAITING: usize = 8;
/// How long output may still come after the tool ended: something else may hold the pipe.
const DRAIN: Duration = Duration::from_millis(200);
/// How long a tool may leave its input unread.
const FEED: Duration = Duration::from_secs(60);

/// A running tool. Dropping it kills its process group.
pub(crate) struct Process {
    stdin: Arc<Mutex<Option<ChildStdin>>>,
    output: Mutex<Output>,
    group: Arc<Group>,
    vault: Arc<Vault>,
    tasks: Vec<AbortHandle>,
    _guard: KillOnDrop,
}

struct Output {
    pieces: mpsc::Receiver<(Channel, Vec<u8>)>,
    redact: [RedactStream; 2],
}

#[derive(Clone, Copy)]
enum Channel {
    Stdout,
    Stderr,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Process {
    /// Takes over a tool that was just started, and gives it its first input; it is killed after the time limit.
    pub(crate) fn new(running: Running, input: String, limit: Duration, vault: Arc<Vault>) -> Self {
        let Running { stdin, stdout, stderr, group } = running;
        let stdin = Arc::new(Mutex::new(Some(stdin)));
        // Nobody else has the lock yet, so what is written later comes after this.
        let mut first = Arc::clone(&stdin).try_lock_owned();
        let (pump_out, pieces) = mpsc::channel(WAITING);
        let pump_err = pump_out.clone();
        let late = Arc::clone(&group);
        let tasks = [
            tokio::spawn(pump(stdout, Channel::Stdout, pump_out)),
            tokio::spawn(pump(stderr, Channel::Stderr, pump_err)),
            tokio::spawn(async move {
                sleep(limit).await;
                late.signal(Signal::KILL);
            }),
            tokio::spawn(async move {
                if let Ok(Some(pipe)) = first.as_deref_mut() {
                    // A tool need not read all of its input.
                    let _ = pipe.write_all(input.as_bytes()).await;
                }
            }),
        ];
        Self {
            stdin,
            output: Mutex::new(Output { pieces, redact: Default::default() }),
            _guard: KillOnDrop(Arc::clone(&group)),
            group,
            vault,
            tasks: tasks.iter().map(tokio::task::JoinHandle::abort_handle).collect(),
        }
    }

    /// What the tool said, or how it ended once all was read; nothing when neither comes in time.
    pub(crate) async fn read(&self, wait: Duration) -> ExecRead {
        let until = Instant::now() + wait;
        let mut output = self.output.lock().await;
        loop {
            let dried = async {
                self.group.ended().await;
                sleep(DRAIN).await;
            };
            let piece = tokio::select! {
                biased;
                piece = output.pieces.recv() => piece,
                () = dried => None,
                () = sleep_until(until) => return ExecRead::default(),
            };
            let redactor = self.vault.redactor();
            let (channel, bytes) = match piece {
                Some((channel, bytes)) => {
                    (channel, output.redact[channel as usize].feed(&redactor, &bytes))
                }
                None => {
                    let held = [Channel::Stdout, Channel::Stderr]
                        .map(|channel| (channel, output.redact[channel as usize].end(&redactor)));
                    match held.into_iter().find(|(_, bytes)| !bytes.is_empty()) {
                        Some(held) => held,
                        None => return self.ended(until).await,
                    }
                }
            };
            if !bytes.is_empty() {
                let (text, b64) = payload::pack(&bytes);
                return ExecRead {
                    ch: Some(channel.word().to_owned()),
                    text,
                    b64,
                    ..ExecRead::default()
                };
            }
        }
    }

    /// Writes to the tool's standard input.
    pub(crate) async fn write(&self, params: ExecWriteParams) -> Result<(), RpcError> {
        let bytes = match (params.text, params.b64, params.end) {
            (None, None, true) => Vec::new(),
            (text, b64, _) => payload::unpack(text, b64)
                .map_err(|what| refuse(ErrorKind::InvalidRequest, what))?,
        };
        self.feed(&bytes).await?;
        if params.end {
            self.stdin.lock().await.take();
        }
        Ok(())
    }

    /// Writes these bytes, all of them.
    async fn feed(&self, bytes: &[u8]) -> Result<(), RpcError> {
        let writing = async {
            let mut stdin = self.stdin.lock().await;
            let Some(pipe) = stdin.as_mut() else {
                return Err(refuse(ErrorKind::InvalidRequest, "the tool's input is at its end"));
            };
            let gone = |_| refuse(ErrorKind::Precondition, "the tool reads no more input");
            pipe.write_all(bytes).await.map_err(gone)
        };
        let slow = |_| refuse(ErrorKind::Timeout, "the tool does not read its input");
        timeout(FEED, writing).await.map_err(slow)?
    }

    /// Asks the tool to end with this signal, and ends it after the grace.
    pub(crate) fn kill(&self, signal: Signal, grace: Duration) {
        if grace.is_zero() {
            return self.group.signal(Signal::KILL);
        }
        self.group.signal(signal);
        let group = Arc::clone(&self.group);
        tokio::spawn(async move {
            if timeout(grace, group.ended()).await.is_err() {
                group.signal(Signal::KILL);
            }
        });
    }

    async fn ended(&self, until: Instant) -> ExecRead {
        let exit = tokio::time::timeout_at(until, self.group.ended()).await;
        let Ok(exit) = exit else { return ExecRead::default() };
        ExecRead { exit_code: Some(exit.code), signal: exit.signal, ..ExecRead::default() }
    }
}

impl Channel {
    fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

async fn pump(
    mut pipe: impl AsyncRead + Unpin,
    channel: Channel,
    pieces: mpsc::Sender<(Channel, Vec<u8>)>,
) {
    let mut buffer = vec![0; PIECE];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        if pieces.send((channel, buffer[..n].to_vec())).await.is_err() {
            return;
        }
    }
}
