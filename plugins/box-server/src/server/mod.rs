//! The box's SSH server: one listener, one host key, one user key.

mod channel;
mod command;
mod connection;
mod forward;
mod inflow;
mod terminal;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKey};
use russh::server::Config;
use russh::{MethodKind, MethodSet};
use rustix::io::fcntl_dupfd_cloexec;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::processes;
use crate::reaper::Reaper;
use crate::session::Limits;

/// How long a client may take to authenticate.
const LOGIN_GRACE: Duration = Duration::from_secs(30);
/// How long everything in the box may take to die.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// Most connections at once.
const MOST_CONNECTIONS: usize = 64;

/// What the keeper tells the server in one line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Setup {
    /// Private host key, OpenSSH form.
    pub host_key: String,
    /// The only key that opens the box, OpenSSH one-line form.
    pub authorized_key: String,
    /// The environment every command starts with.
    pub env: Vec<(String, String)>,
    /// Where commands start.
    pub home: String,
    /// The shell of interactive sessions.
    pub shell: String,
    /// Bounds of every command.
    pub limits: Limits,
    /// User and group that commands run as, when not those of the server.
    #[serde(default)]
    pub owner: Option<(u32, u32)>,
    /// A user name that is a secret: whoever knows it needs no key.
    #[serde(default)]
    pub token: Option<String>,
}

/// A new host key, both halves in OpenSSH form.
#[derive(Debug)]
pub struct HostKey {
    /// For the server alone.
    pub private: String,
    /// For whoever connects.
    pub public: String,
}

impl HostKey {
    /// Makes one.
    pub fn new() -> io::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        let private = key.to_openssh(LineEnding::LF).map_err(io::Error::other)?.to_string();
        let public = key.public_key().to_openssh().map_err(io::Error::other)?;
        Ok(Self { private, public })
    }
}

/// What every connection of the box shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) setup: Setup,
    pub(crate) key: PublicKey,
    pub(crate) reaper: Reaper,
    pub(crate) busy: Busy,
}

/// Counts open sessions and tells the keeper.
#[derive(Debug, Clone)]
pub(crate) struct Busy(mpsc::UnboundedSender<bool>);

impl Busy {
    /// Counts one session until the guard is dropped.
    pub(crate) fn begin(&self) -> BusyGuard {
        let _ = self.0.send(true);
        BusyGuard(self.0.clone())
    }
}

/// One open session.
#[derive(Debug)]
pub(crate) struct BusyGuard(mpsc::UnboundedSender<bool>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let _ = self.0.send(false);
    }
}

/// A server that is ready to take clients.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    shared: Arc<Shared>,
}

impl Server {
    /// A server, and word of every session that begins (`true`) and ends.
    pub fn new(setup: Setup) -> io::Result<(Self, mpsc::UnboundedReceiver<bool>)> {
        let config = Arc::new(config(&setup)?);
        let key = PublicKey::from_openssh(&setup.authorized_key).map_err(io::Error::other)?;
        let (busy, changes) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { setup, key, reaper: Reaper::start()?, busy: Busy(busy) });
        Ok((Self { config, shared }, changes))
    }

    /// Takes clients for ever; a failing accept waits a moment, so that running out of files heals.
    pub async fn accept(&self, listener: &TcpListener) {
        let places = Arc::new(tokio::sync::Semaphore::new(MOST_CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((socket, _)) => {
                    let (config, shared) = (self.config.clone(), self.shared.clone());
                    tokio::task::spawn(async move {
                        connection::serve(config, socket, shared, LOGIN_GRACE).await;
                        drop(place);
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Kills the process groups of everything that was started.
    pub fn kill_groups(&self) {
        self.shared.reaper.kill_groups();
    }
}

/// Serves until the keeper is gone or says stop; then nothing started here is left.
pub fn run() -> io::Result<()> {
    processes::adopt_orphans()?;
    let (listener, keeper) = inherited()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(serve(listener, keeper));
    processes::kill_descendants(KILL_PATIENCE);
    served
}

/// The keeper passes the listener as standard input and its own socket as standard output.
fn inherited() -> io::Result<(std::net::TcpListener, std::os::unix::net::UnixStream)> {
    let listener: OwnedFd = fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let keeper: OwnedFd = fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let (listener, keeper): (std::net::TcpListener, std::os::unix::net::UnixStream) =
        (listener.into(), keeper.into());
    listener.set_nonblocking(true)?;
    keeper.set_nonblocking(true)?;
    Ok((listener, keeper))
}

async fn serve(
    listener: std::net::TcpListener,
    keeper: std::os::unix::net::UnixStream,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let (from_keeper, to_keeper) = UnixStream::from_std(keeper)?.into_split();
    let mut from_keeper = BufReader::new(from_keeper);
    let mut line = String::new();
    from_keeper.read_line(&mut line).await?;
    let setup: Setup = serde_json::from_str(&line)?;
    let (server, changes) = Server::new(setup)?;
    let mut stop = signal(SignalKind::terminate())?;
    let ended = tokio::select! {
        () = server.accept(&listener) => Ok(()),
        gone = keeper_gone(from_keeper) => gone,
        told = report(to_keeper, changes) => told,
        _ = stop.recv() => Ok(()),
    };
    server.kill_groups();
    ended
}

fn config(setup: &Setup) -> io::Result<Config> {
    let key = PrivateKey::from_openssh(&setup.host_key).map_err(io::Error::other)?;
    Ok(Config {
        methods: match setup.token {
            Some(_) => MethodSet::from(&[MethodKind::None, MethodKind::PublicKey][..]),
            None => MethodSet::from(&[MethodKind::PublicKey][..]),
        },
        auth_rejection_time: Duration::from_millis(200),
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: 6,
        keys: vec![key],
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(30)),
        keepalive_max: 4,
        nodelay: true,
        ..Config::default()
    })
}

async fn keeper_gone(mut from_keeper: BufReader<OwnedReadHalf>) -> io::Result<()> {
    let mut rest = [0; 64];
    while from_keeper.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Tells the keeper that the server is ready, and then how many sessions are open.
async fn report(
    mut to_keeper: OwnedWriteHalf,
    mut changes: mpsc::UnboundedReceiver<bool>,
) -> io::Result<()> {
    to_keeper.write_all(b"ready\n").await?;
    let mut open = 0usize;
    while let Some(more) = changes.recv().await {
        open = if more { open + 1 } else { open.saturating_sub(1) };
        to_keeper.write_all(format!("busy {open}\n").as_bytes()).await?;
    }
    Ok(())
}
