//! The command's way to its daemon: found, or started, or done without, and never waited for longer than it is worth.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_kernel::error::Result;
use crabbox_schemas::daemon::{
    Answer, Changes, ChangesParams, DaemonView, Hello, Scanned, method, note,
};
use crabbox_wire::Frame;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::fault::heard;
use crate::line::{Reader, Writer, blob, path, split, typed};
use crate::place::Place;

/// A daemon that has not said hello by then is done without.
const HELLO: Duration = Duration::from_millis(150);
/// One that was just started may take this long to listen.
const START: Duration = Duration::from_millis(500);
/// One that did not answer is not asked again for so long.
const SHUN: Duration = Duration::from_secs(5);
/// One that was asked for something is looked at again after this time, and then so often.
const PATIENCE: Duration = Duration::from_millis(40);
const PULSE: Duration = Duration::from_millis(150);
/// Between two looks at one that was just started.
const LOOK: Duration = Duration::from_millis(4);

/// Who calls.
pub struct Caller {
    /// Where the daemon listens.
    pub place: Place,
    /// The caller's own program; a daemon of another one is left alone.
    pub build: String,
    /// Starts a daemon, and does not wait for it.
    spawn: Box<dyn Fn() -> io::Result<()>>,
    /// It did not answer, and is not asked again until then.
    shunned: Cell<Option<Instant>>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Why there is no daemon to work with.
#[derive(Debug)]
pub enum Absent {
    /// Nobody listens.
    NotRunning,
    /// Somebody listens and says nothing; with its process id where the system knows it.
    Wedged(Option<i32>),
    /// It is of another build; it was told to finish.
    OtherBuild,
    /// Another user listens there.
    Stranger,
    /// Another program of the user's listens there; with its process id where the system knows it.
    Foreign(Option<i32>),
    /// The socket is of no use.
    Broken(io::Error),
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning => f.write_str("it is not running"),
            Self::Wedged(_) => f.write_str("it does not answer"),
            Self::OtherBuild => f.write_str("it is of another build and was told to finish"),
            Self::Stranger => f.write_str("another user listens on its socket"),
            Self::Foreign(None) => f.write_str("another program listens on its socket"),
            Self::Foreign(Some(pid)) => {
                write!(f, "another program (process {pid}) listens on its socket")
            }
            Self::Broken(error) => write!(f, "its socket is of no use: {error}"),
        }
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    pub(crate) from: Reader,
    pub(crate) to: Writer,
    /// Who is there.
    pub hello: Hello,
}

/// What is known of a watched folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Stands for this moment.
    pub token: Option<String>,
    /// The moment of the last scan, and what changed since then.
    pub since: Option<(String, Vec<PathBuf>)>,
}

impl Caller {
    /// Somebody who would start a daemon with `spawn`.
    pub fn new(place: Place, build: String, spawn: impl Fn() -> io::Result<()> + 'static) -> Self {
        Self { place, build, spawn: Box::new(spawn), shunned: Cell::new(None) }
    }

    /// The daemon that runs, if it is ours and answers.
    pub async fn connect(&self) -> Result<Client, Absent> {
        if self.shunned.get().is_some_and(|until| Instant::now() < until) {
            return Err(Absent::Wedged(None));
        }
        let mut client = match self.any().await {
            Err(silent @ (Absent::Wedged(_) | Absent::Foreign(_))) => return Err(self.shun(silent)),
            other => other?,
        };
        if client.hello.build == self.build {
            return Ok(client);
        }
        let _ = client.to.ask(method::RETIRE, &json!({})).await;
        Err(Absent::OtherBuild)
    }

    /// The daemon that runs, or one that is started now.
    pub async fn connect_or_start(&self) -> Result<Client, Absent> {
        match self.connect().await {
            Err(Absent::NotRunning) => (self.spawn)().map_err(Absent::Broken)?,
            other => return other,
        }
        let end = Instant::now() + START;
        while Instant::now() < end {
            match self.connect().await {
                Err(Absent::NotRunning) => sleep(LOOK).await,
                other => return other,
            }
        }
        Err(Absent::NotRunning)
    }

    fn shun(&self, silent: Absent) -> Absent {
        self.shunned.set(Some(Instant::now() + SHUN));
        silent
    }

    /// Ends when nobody says hello any more, for those who wait for an answer that takes its time. One that was told to
    /// finish listens no more, and is believed.
    pub(crate) async fn wedged(&self) -> Absent {
        sleep(PATIENCE).await;
        loop {
            if let Err(silent @ (Absent::Wedged(_) | Absent::Foreign(_))) = self.any().await {
                return self.shun(silent);
            }
            sleep(PULSE).await;
        }
    }

    /// The daemon that runs, of whatever build.
    pub async fn any(&self) -> Result<Client, Absent> {
        let stream = match UnixStream::connect(&self.place.socket).await {
            Ok(stream) => stream,
            Err(_) if self.place.is_blocked() => {
                return Err(Absent::Broken(io::Error::other("it is not a socket")));
            }
            Err(error) => return Err(absent(error)),
        };
        let peer = stream.peer_cred().map_err(Absent::Broken)?;
        if peer.uid() != rustix::process::geteuid().as_raw() {
            return Err(Absent::Stranger);
        }
        let (mut from, to) = split(stream);
        match timeout(HELLO, said_hello(&mut from)).await {
            Ok(Ok(hello)) => Ok(Client { from, to, hello }),
            Ok(Err(error)) => match absent(error) {
                Absent::Broken(_) if !self.place.is_owned() => Err(Absent::Foreign(peer.pid())),
                absent => Err(absent),
            },
            Err(_) if !self.place.is_owned() => Err(Absent::Foreign(peer.pid())),
            Err(_) => Err(Absent::Wedged(peer.pid())),
        }
    }
}

/// A daemon that ends while it is called is as good as none.
fn absent(error: io::Error) -> Absent {
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Absent::NotRunning,
        io::ErrorKind::WouldBlock => Absent::Wedged(None),
        _ => Absent::Broken(error),
    }
}

async fn said_hello(from: &mut Reader) -> io::Result<Hello> {
    match from.frame().await? {
        Frame::Notification { method, params } if method == note::HELLO => typed(params),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Client {
    /// Asks and waits for the answer; the outer result is the socket's, the inner one the daemon's.
    pub(crate) async fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &impl Serialize,
        mut on_note: impl FnMut(&str, Value),
    ) -> io::Result<Result<T>> {
        self.to.ask(method, params).await?;
        loop {
            match self.from.frame().await? {
                Frame::Notification { method, params } => on_note(&method, params),
                Frame::Response { result: Ok(result), .. } => {
                    return Ok(match typed(result)? {
                        Answer::Done(done) => Ok(done),
                        Answer::Failed { failed } => Err(heard(*failed)),
                    });
                }
                Frame::Response { .. } | Frame::Request { .. } => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }

    /// What changed below a folder since it was scanned last; the paths are relative to it.
    pub async fn changes(&mut self, root: &Path) -> io::Result<Seen> {
        let params = ChangesParams { root: blob(root) };
        let answer = self.call::<Changes>(method::CHANGES, &params, |_, _| {});
        let answer = timeout(HELLO, answer).await??;
        let Changes { token, since, changed } =
            answer.map_err(|error| io::Error::other(error.to_string()))?;
        let changed = changed.into_iter().map(path).collect::<io::Result<Vec<_>>>()?;
        Ok(Seen { token, since: since.map(|since| (since, changed)) })
    }

    /// Says that a folder was scanned, and what the scan is remembered as.
    pub async fn scanned(&mut self, root: &Path, token: &str) -> io::Result<()> {
        let scanned = Scanned { root: blob(root), token: token.to_owned() };
        self.to.note(note::SCANNED, &scanned).await
    }

    /// What it keeps.
    pub async fn status(&mut self) -> io::Result<Result<DaemonView>> {
        self.call(method::STATUS, &json!({}), |_, _| {}).await
    }

    /// Ends it; its connections end with it.
    pub async fn stop(&mut self) -> io::Result<Result<()>> {
        let stopped = self.call::<Value>(method::STOP, &json!({}), |_, _| {}).await?;
        Ok(stopped.map(|_| ()))
    }
}
