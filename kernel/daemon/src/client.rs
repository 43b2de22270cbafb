//! The command's way to its daemon: found, or started, or done without, and never waited for longer than it is worth.

use std::fmt;
use std::io;
use std::time::Duration;

use crabbox_kernel::error::Result;
use crabbox_schemas::daemon::{Answer, DaemonView, Hello, method, note};
use crabbox_wire::Frame;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::fault::heard;
use crate::line::{Reader, Writer, split, typed};
use crate::place::Place;

/// A daemon that has not said hello by then is done without.
const HELLO: Duration = Duration::from_millis(150);
/// One that was just started may take this long to listen.
const START: Duration = Duration::from_millis(500);
/// Between two looks at one that was just started.
const LOOK: Duration = Duration::from_millis(4);

/// Who calls.
pub struct Caller {
    /// Where the daemon listens.
    pub place: Place,
    /// The caller's own program; a daemon of another one is left alone.
    pub build: String,
    /// Starts a daemon, and does not wait for it.
    pub spawn: Box<dyn Fn() -> io::Result<()>>,
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
    /// The socket is of no use.
    Broken(io::Error),
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning => f.write_str("it is not running"),
            Self::Wedged(_) => f.write_str("it does not answer"),
            Self::OtherBuild => f.write_str("it is of another build and was told to finish"),
            Self::Stranger => f.write_str("another user listens there"),
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

impl Caller {
    /// The daemon that runs, if it is ours and answers.
    pub async fn connect(&self) -> Result<Client, Absent> {
        let mut client = self.any().await?;
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

    /// The daemon that runs, of whatever build.
    pub async fn any(&self) -> Result<Client, Absent> {
        let stream = match UnixStream::connect(&self.place.socket).await {
            Ok(stream) => stream,
            Err(error) => return Err(absent(error)),
        };
        let peer = stream.peer_cred().map_err(Absent::Broken)?;
        if peer.uid() != rustix::process::geteuid().as_raw() {
            return Err(Absent::Stranger);
        }
        let (mut from, to) = split(stream);
        match timeout(HELLO, said_hello(&mut from)).await {
            Ok(Ok(hello)) => Ok(Client { from, to, hello }),
            Ok(Err(error)) => Err(absent(error)),
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
