//! One connection: russh's side of it, and the [`Remote`] made of it.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::{Pty, Remote};
use crabbox_schemas::error::{ErrorCode, Outcome};
use russh::client::{self, DisconnectReason, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelStream, Disconnect, Preferred};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::hostkey::Trust;
use crate::process::{SshInput, SshOutput, start};

/// How much one channel may send ahead of us.
const WINDOW: u32 = 8 << 20;
/// How long a polite goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long the parts of a connection may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// For one port to accept and greet, and for the handshake after it.
    pub connect: Duration,
    /// For the server to judge one key.
    pub auth: Duration,
    /// For one run of the ready check, and for a channel to open.
    pub reply: Duration,
    /// Silence after which the server is asked for a sign of life.
    pub keepalive: Duration,
    /// Unanswered questions after which the connection counts as broken.
    pub keepalive_max: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            auth: Duration::from_secs(30),
            reply: Duration::from_secs(30),
            keepalive: Duration::from_secs(15),
            keepalive_max: 2,
        }
    }
}

/// Why the connection ended, once it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fate(Arc<OnceLock<String>>);

impl Fate {
    /// The error for work that needed the connection.
    pub(crate) fn lost(&self, what: &str) -> KernelError {
        let mut error = KernelError::new(ErrorCode::ConnectionLost, what)
            .at("connection")
            .hint("check that the box is still up; the command may have gone on without us");
        error.causes.extend(self.0.get().cloned());
        error
    }
}

/// What russh tells us about one connection.
pub(crate) struct Link {
    pub(crate) trust: Trust,
    pub(crate) fate: Fate,
}

/// Why a connection could not be made or ended.
#[derive(Debug)]
pub(crate) enum LinkError {
    Ssh(russh::Error),
    HostKey(KernelError),
}

impl From<russh::Error> for LinkError {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Ssh(error) => error.fmt(f),
            LinkError::HostKey(error) => error.fmt(f),
        }
    }
}

impl client::Handler for Link {
    type Error = LinkError;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, LinkError> {
        self.trust.check(&key.public_key()).map_err(LinkError::HostKey)?;
        Ok(true)
    }

    async fn auth_banner(
        &mut self,
        banner: &str,
        _: &mut client::Session,
    ) -> Result<(), LinkError> {
        tracing::debug!(banner, "the server greets");
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<LinkError>) -> Result<(), LinkError> {
        let why = match &reason {
            DisconnectReason::ReceivedDisconnect(said) => format!("the box said: {}", said.message),
            DisconnectReason::Error(error) => error.to_string(),
        };
        tracing::debug!(why, "connection ended");
        let _ = self.fate.0.set(why);
        match reason {
            DisconnectReason::ReceivedDisconnect(_) => Ok(()),
            DisconnectReason::Error(error) => Err(error),
        }
    }
}

/// A connection to one hop, before anything is known about the user.
pub(crate) struct Line {
    pub(crate) handle: Handle<Link>,
    pub(crate) fate: Fate,
}

/// Shakes hands over a stream that leads to an SSH server.
pub(crate) async fn shake_hands<S>(
    stream: S,
    trust: Trust,
    timing: &Timing,
) -> Result<Line, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = client::Config {
        window_size: WINDOW,
        maximum_packet_size: 65_535,
        keepalive_interval: Some(timing.keepalive),
        keepalive_max: timing.keepalive_max,
        nodelay: true,
        preferred: Preferred { key: trust.preferred().into(), ..Preferred::DEFAULT },
        client_id: russh::SshId::Standard(
            concat!("SSH-2.0-crabbox_", env!("CARGO_PKG_VERSION")).into(),
        ),
        ..client::Config::default()
    };
    let fate = Fate::default();
    let link = Link { trust, fate: fate.clone() };
    let handle = client::connect_stream(Arc::new(config), stream, link).await?;
    Ok(Line { handle, fate })
}

/// One connection to a box. All its processes and streams share it.
pub struct SshRemote {
    pub(crate) line: Line,
    /// The connections it runs through, nearest first.
    pub(crate) jumps: Vec<Line>,
    pub(crate) peer: String,
    pub(crate) timing: Timing,
}

impl fmt::Debug for SshRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshRemote").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl SshRemote {
    /// Opens a stream from the box to a host and port as seen from there.
    pub async fn open_tcp(&self, host: &str, port: u16) -> Result<ChannelStream<Msg>> {
        let channel = self.line.open_tcp(host, port, self.timing.reply).await?;
        Ok(channel.into_stream())
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.line.handle.is_closed()
    }
}

impl Line {
    pub(crate) async fn open_tcp(
        &self,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> Result<Channel<Msg>> {
        let asked = self.handle.channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0);
        match timeout(limit, asked).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => {
                Err(self.refused(&format!("cannot reach {host}:{port} through the box"), &error))
            }
            Err(late) => {
                Err(self.refused(&format!("cannot reach {host}:{port} through the box"), &late))
            }
        }
    }

    /// A channel that did not open: nothing was started.
    pub(crate) fn refused(
        &self,
        what: &str,
        why: &(dyn std::error::Error + 'static),
    ) -> KernelError {
        let error = match self.handle.is_closed() {
            true => self.fate.lost("the connection to the box broke"),
            false => {
                KernelError::new(ErrorCode::ConnectionLost, what).at("connection").because(why)
            }
        };
        error.outcome(Outcome::NotStarted)
    }

    async fn hang_up(self) {
        let _ = self.handle.disconnect(Disconnect::ByApplication, "done", "").await;
        let _ = self.handle.await;
    }
}

impl Remote for SshRemote {
    type Input = SshInput;
    type Output = SshOutput;

    async fn start(&self, command: &str, pty: Option<&Pty>) -> Result<(SshInput, SshOutput)> {
        start(&self.line, command, pty, self.timing.reply).await
    }

    fn peer(&self) -> &str {
        &self.peer
    }

    async fn close(self) {
        let all = async {
            self.line.hang_up().await;
            for jump in self.jumps.into_iter().rev() {
                jump.hang_up().await;
            }
        };
        let _ = timeout(GOODBYE, all).await;
    }
}
