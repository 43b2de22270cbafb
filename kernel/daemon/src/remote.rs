//! A connection somebody else keeps, seen through the socket, and the choice between it and one of our own.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Stream;
use crabbox_kernel::ports::{Exit, Piece, ProcessInput, ProcessOutput, Pty, Remote, Starter};
use crabbox_schemas::daemon::{
    Exited, HelperKept, HelperParams, Lost, Resize, Signal, StartParams, channel, method, note,
};
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::helper::Terminal;
use crabbox_wire::{Frame, MAX_BODY, Packet};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::client::{Caller, Client};
use crate::fault::{cut, gone, heard};
use crate::line::{Reader, Writer, typed};

/// How long the daemon may take to start a process or a helper: longer than the box may.
const ANSWER: Duration = Duration::from_secs(400);
/// Between two signs of life of the daemon while it is in use.
const PULSE: Duration = Duration::from_secs(1);
/// How long it may take for one.
const PONG: Duration = Duration::from_secs(2);
/// How soon it is noticed here that it died.
const SHOCK: Duration = Duration::from_millis(100);

/// A connection the daemon keeps.
pub struct KeptRemote {
    way: Rc<Kept>,
    peer: String,
    hold: Hold,
}

/// What asks the daemon for things on one of its connections.
struct Kept {
    caller: Rc<Caller>,
    connection: u64,
    alive: watch::Receiver<()>,
}

impl std::fmt::Debug for KeptRemote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptRemote").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Keeps the daemon from letting the connection go, and notices when the daemon itself hangs.
struct Hold {
    alive: watch::Receiver<()>,
    watching: AbortHandle,
}

impl Hold {
    fn new(mut client: Client) -> Self {
        let (life, alive) = watch::channel(());
        let watching = tokio::spawn(async move {
            let _life = life;
            loop {
                tokio::select! {
                    () = sleep(PULSE) => {}
                    _ = client.from.next() => return,
                }
                let nothing = json!({});
                let asked = client.call::<Value>(method::PING, &nothing, |_, _| {});
                if !matches!(timeout(PONG, asked).await, Ok(Ok(Ok(_)))) {
                    return;
                }
            }
        });
        Self { alive, watching: watching.abort_handle() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl KeptRemote {
    /// The connection of this number, for as long as the client that dialled it holds.
    pub(crate) fn new(caller: Rc<Caller>, connection: u64, peer: String, client: Client) -> Self {
        let hold = Hold::new(client);
        let alive = hold.alive.clone();
        Self { way: Rc::new(Kept { caller, connection, alive }), peer, hold }
    }
}

impl Kept {
    /// Asks on a socket connection of its own, which then carries what was asked for.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        asked: &str,
        params: &impl serde::Serialize,
    ) -> Result<(T, Client)> {
        let not_started = |error: &io::Error| gone(error).outcome(Outcome::NotStarted);
        let connected = self.caller.connect().await;
        let mut client =
            connected.map_err(|absent| not_started(&io::Error::other(absent.to_string())))?;
        let mut alive = self.alive.clone();
        let answered = tokio::select! {
            biased;
            answered = timeout(ANSWER, client.call(asked, params, |_, _| {})) => answered,
            _ = alive.changed() => Ok(Err(io::ErrorKind::TimedOut.into())),
            wedged = self.caller.wedged() => Ok(Err(io::Error::other(wedged.to_string()))),
        };
        match answered {
            Ok(Ok(answer)) => Ok((answer?, client)),
            Ok(Err(error)) => Err(gone(&error)),
            Err(late) => Err(gone(&late.into())),
        }
    }

    async fn start(&self, command: &str, pty: Option<&Pty>) -> Result<(KeptInput, KeptOutput)> {
        let pty = pty.map(|pty| Terminal {
            term: pty.term.clone(),
            columns: pty.columns,
            rows: pty.rows,
        });
        let params = StartParams { connection: self.connection, command: command.to_owned(), pty };
        let (_, client) = self.ask::<Value>(method::START, &params).await?;
        Ok(self.halves(client, None))
    }

    async fn kept_helper(&self, work_root: &str) -> Result<Option<(KeptInput, KeptOutput)>> {
        let (connection, work_root) = (self.connection, work_root.to_owned());
        let params = HelperParams { connection, work_root };
        let (answer, mut client) = self.ask::<HelperKept>(method::HELPER, &params).await?;
        if !answer.kept {
            return Ok(None);
        }
        let (ahead, from) = client.from.into_raw();
        client.from = from;
        Ok(Some(self.halves(client, Some(ahead))))
    }

    fn halves(&self, client: Client, raw: Option<Bytes>) -> (KeptInput, KeptOutput) {
        let input = KeptInput { to: Some(client.to), raw: raw.is_some(), offset: 0 };
        let alive = self.alive.clone();
        (input, KeptOutput { from: client.from, raw, alive, ended: false })
    }
}

/// Input half of a process or helper behind the daemon.
#[derive(Debug)]
pub struct KeptInput {
    to: Option<Writer>,
    /// The bytes are packets already.
    raw: bool,
    offset: u64,
}

/// Output half of a process or helper behind the daemon. Dropping it gives the process up.
#[derive(Debug)]
pub struct KeptOutput {
    from: Reader,
    /// The bytes are packets already; these were read ahead.
    raw: Option<Bytes>,
    alive: watch::Receiver<()>,
    ended: bool,
}

impl KeptInput {
    /// What cannot be sent any more is moot: the output tells what happened.
    async fn packet(&mut self, packet: Packet) {
        if let Some(to) = &mut self.to {
            let _ = to.send(&packet).await;
        }
    }

    async fn wish(&mut self, method: &str, params: &impl serde::Serialize) {
        if let Some(to) = self.to.as_mut().filter(|_| !self.raw) {
            let _ = to.note(method, params).await;
        }
    }

    async fn stdin(&mut self, data: Bytes, last: bool) {
        let at = self.offset;
        self.offset += data.len() as u64;
        self.packet(Packet::data(0, channel::STDIN, at, last, data)).await;
    }
}

impl Drop for KeptInput {
    /// The other half may still listen: without this its connection would be half closed.
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            to.forget();
        }
    }
}

impl ProcessInput for KeptInput {
    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        if self.raw {
            if let Some(to) = &mut self.to {
                let _ = to.raw(data).await;
            }
            return Ok(());
        }
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_BODY));
            self.stdin(piece, false).await;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        if self.raw {
            drop(self.to.take());
        } else {
            self.stdin(Bytes::new(), true).await;
        }
        Ok(())
    }

    async fn signal(&mut self, name: &str) -> Result<()> {
        self.wish(note::SIGNAL, &Signal { name: name.to_owned() }).await;
        Ok(())
    }

    async fn resize(&mut self, columns: u32, rows: u32) -> Result<()> {
        self.wish(note::RESIZE, &Resize { columns, rows }).await;
        Ok(())
    }
}

impl Drop for KeptOutput {
    fn drop(&mut self) {
        self.from.shut();
    }
}

impl ProcessOutput for KeptOutput {
    async fn next(&mut self) -> Result<Piece> {
        if self.ended {
            let what = "output was read after the exit status";
            return Err(KernelError::new(ErrorCode::Internal, what));
        }
        let mut alive = self.alive.clone();
        let read = async {
            match &mut self.raw {
                Some(ahead) if !ahead.is_empty() => Ok(Said::Bytes(std::mem::take(ahead))),
                Some(_) => self.from.bytes().await.map(Said::Bytes),
                None => self.from.next().await.map(Said::Packet),
            }
        };
        let said = tokio::select! {
            biased;
            said = read => said,
            _ = alive.changed() => Err(io::ErrorKind::TimedOut.into()),
        };
        let said = match said {
            Err(error) if self.raw.is_some() && error.kind() == io::ErrorKind::UnexpectedEof => {
                // With the daemon this and the way to it end together.
                let died = timeout(SHOCK, self.alive.changed()).await.is_ok();
                return Err(if died { gone(&error) } else { cut() });
            }
            said => said.map_err(|error| gone(&error))?,
        };
        match said {
            Said::Bytes(data) => Ok(Piece::Data(Stream::Stdout, data)),
            Said::Packet(packet) => self.piece(packet),
        }
    }
}

enum Said {
    Bytes(Bytes),
    Packet(Packet),
}

impl KeptOutput {
    fn piece(&mut self, packet: Packet) -> Result<Piece> {
        let nonsense = || gone(&io::ErrorKind::InvalidData.into());
        match packet.channel {
            channel::STDOUT => return Ok(Piece::Data(Stream::Stdout, packet.body)),
            channel::STDERR => return Ok(Piece::Data(Stream::Stderr, packet.body)),
            _ => {}
        }
        let Ok(Frame::Notification { method, params }) = packet.frame() else {
            return Err(nonsense());
        };
        match method.as_str() {
            note::EXITED => {
                let Exited { code, signal } = typed(params).map_err(|error| gone(&error))?;
                self.ended = true;
                Ok(Piece::Exited(Exit { code, signal }))
            }
            note::LOST => {
                let Lost { failed } = typed(params).map_err(|error| gone(&error))?;
                Err(heard(failed))
            }
            _ => Err(nonsense()),
        }
    }
}

/// One of the daemon's connections, or one of our own.
#[derive(Debug)]
pub enum WarmRemote<R> {
    /// Our own.
    Direct(R),
    /// The daemon's.
    Kept(KeptRemote),
}

/// Input half of a process on either.
#[derive(Debug)]
pub enum WarmInput<I> {
    /// On our own connection.
    Direct(I),
    /// Behind the daemon.
    Kept(KeptInput),
}

/// Output half of a process on either.
#[derive(Debug)]
pub enum WarmOutput<O> {
    /// On our own connection.
    Direct(O),
    /// Behind the daemon.
    Kept(KeptOutput),
}

impl<R: Remote> Remote for WarmRemote<R> {
    type Input = WarmInput<R::Input>;
    type Output = WarmOutput<R::Output>;

    async fn start(&self, command: &str, pty: Option<&Pty>) -> Result<(Self::Input, Self::Output)> {
        Ok(match self {
            Self::Direct(remote) => direct(remote.start(command, pty).await?),
            Self::Kept(remote) => kept(remote.way.start(command, pty).await?),
        })
    }

    async fn kept_helper(&self, work_root: &str) -> Result<Option<(Self::Input, Self::Output)>> {
        Ok(match self {
            Self::Direct(remote) => remote.kept_helper(work_root).await?.map(direct),
            Self::Kept(remote) => remote.way.kept_helper(work_root).await?.map(kept),
        })
    }

    fn starter(&self) -> Option<Starter<Self::Input, Self::Output>> {
        match self {
            Self::Direct(remote) => {
                let starter = remote.starter()?;
                Some(Box::new(move |command| {
                    let starting = starter(command);
                    Box::pin(async move { starting.await.map(direct) })
                }))
            }
            Self::Kept(remote) => {
                let way = Rc::clone(&remote.way);
                Some(Box::new(move |command| {
                    let way = Rc::clone(&way);
                    Box::pin(async move { way.start(&command, None).await.map(kept) })
                }))
            }
        }
    }

    fn peer(&self) -> &str {
        match self {
            Self::Direct(remote) => remote.peer(),
            Self::Kept(remote) => &remote.peer,
        }
    }

    fn transport(&self) -> &'static str {
        match self {
            Self::Direct(remote) => remote.transport(),
            Self::Kept(_) => "ssh",
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Direct(remote) => remote.is_closed(),
            Self::Kept(remote) => remote.hold.alive.has_changed().is_err(),
        }
    }

    async fn close(self) {
        if let Self::Direct(remote) = self {
            remote.close().await;
        }
    }
}

fn direct<I, O>((input, output): (I, O)) -> (WarmInput<I>, WarmOutput<O>) {
    (WarmInput::Direct(input), WarmOutput::Direct(output))
}

fn kept<I, O>((input, output): (KeptInput, KeptOutput)) -> (WarmInput<I>, WarmOutput<O>) {
    (WarmInput::Kept(input), WarmOutput::Kept(output))
}

impl<I: ProcessInput> ProcessInput for WarmInput<I> {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        match self {
            Self::Direct(input) => input.write(data).await,
            Self::Kept(input) => input.write(data).await,
        }
    }

    async fn finish(&mut self) -> Result<()> {
        match self {
            Self::Direct(input) => input.finish().await,
            Self::Kept(input) => input.finish().await,
        }
    }

    async fn signal(&mut self, name: &str) -> Result<()> {
        match self {
            Self::Direct(input) => input.signal(name).await,
            Self::Kept(input) => input.signal(name).await,
        }
    }

    async fn resize(&mut self, columns: u32, rows: u32) -> Result<()> {
        match self {
            Self::Direct(input) => input.resize(columns, rows).await,
            Self::Kept(input) => input.resize(columns, rows).await,
        }
    }
}

impl<O: ProcessOutput> ProcessOutput for WarmOutput<O> {
    async fn next(&mut self) -> Result<Piece> {
        match self {
            Self::Direct(output) => output.next().await,
            Self::Kept(output) => output.next().await,
        }
    }
}
