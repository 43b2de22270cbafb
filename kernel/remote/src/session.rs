//! One connection of our own: russh's side of it, and the processes on it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::{Pty, Starter};
use crabbox_schemas::error::{ErrorCode, Outcome};
use russh::client::{self, DisconnectReason, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelStream, Disconnect, Preferred, SshId, cipher};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::hostkey::Trust;
use crate::process::{SshInput, SshOutput, start};
use crate::spare::Spare;
use crate::wire::{Below, GREETING, Leash, Wire};

/// How much one channel may send ahead of us: a channel carries at most half of it in one round trip.
const WINDOW: u32 = 16 << 20;
/// The largest packet we take.
const PACKET: u32 = 65_535;
/// Packets of one channel that may wait for their reader before the connection does.
const WAITING: usize = 32;
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

impl Timing {
    /// Silence after which a connection counts as broken.
    pub(crate) fn silence(&self) -> Duration {
        self.keepalive * u32::try_from(self.keepalive_max + 1).unwrap_or(u32::MAX)
    }
}

/// Whether the connection has ended, and why.
#[derive(Debug, Clone)]
pub(crate) struct Fate(watch::Receiver<Option<String>>);

impl Fate {
    pub(crate) fn new(told: watch::Receiver<Option<String>>) -> Self {
        Self(told)
    }

    /// Whether the connection has ended.
    pub(crate) fn is_sealed(&self) -> bool {
        self.0.has_changed().is_err()
    }

    /// The error for work that needed the connection.
    pub(crate) fn lost(&self, what: &str) -> KernelError {
        let mut error = KernelError::new(ErrorCode::ConnectionLost, what)
            .at("connection")
            .hint("check that the box is still up; the command may have gone on without us");
        error.causes.extend(self.0.borrow().clone());
        error
    }

    /// Waits for the end of the connection.
    pub(crate) async fn sealed(&self) {
        let mut fate = self.0.clone();
        while fate.changed().await.is_ok() {}
    }
}

/// What russh tells us about one connection; it drops this when the connection has ended.
pub(crate) struct Link {
    trust: Trust,
    fate: watch::Sender<Option<String>>,
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
        self.fate.send_replace(Some(why));
        match reason {
            DisconnectReason::ReceivedDisconnect(_) => Ok(()),
            DisconnectReason::Error(error) => Err(error),
        }
    }
}

/// A connection to one hop.
pub(crate) struct Line {
    pub(crate) handle: Handle<Link>,
    pub(crate) fate: Fate,
}

/// Shakes hands over a stream that leads to an SSH server and has taken `greeted` bytes of our greeting.
/// Unless the leash is let loose, the connection ends with it.
pub(crate) async fn shake_hands<S: Below>(
    stream: S,
    greeted: usize,
    trust: Trust,
    timing: &Timing,
) -> Result<(Line, Leash), LinkError> {
    let config = client::Config {
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        channel_buffer_size: WAITING,
        keepalive_interval: Some(timing.keepalive),
        keepalive_max: timing.keepalive_max,
        preferred: Preferred {
            key: trust.preferred().into(),
            cipher: ciphers().into(),
            ..Preferred::DEFAULT
        },
        client_id: SshId::Standard(GREETING.into()),
        ..client::Config::default()
    };
    let (wire, leash) = Wire::new(stream, greeted, timing.silence());
    let (tell, fate) = watch::channel(None);
    let link = Link { trust, fate: tell };
    let handle = client::connect_stream(Arc::new(config), wire, link).await?;
    Ok((Line { handle, fate: Fate(fate) }, leash))
}

/// Ciphers in the order of their speed on this machine.
fn ciphers() -> Vec<cipher::Name> {
    let mut order = vec![cipher::AES_128_GCM, cipher::AES_256_GCM];
    order.insert(if quick_aes() { order.len() } else { 0 }, cipher::CHACHA20_POLY1305);
    order.extend([cipher::AES_256_CTR, cipher::AES_192_CTR, cipher::AES_128_CTR]);
    order
}

/// Whether the processor knows AES and the multiplication its authentication needs.
fn quick_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// One connection of our own to a box. All its processes and streams share it.
pub(crate) struct Own {
    doors: Arc<Doors>,
    /// The connections it runs through, nearest first.
    jumps: Vec<Line>,
    peer: String,
}

/// What opens channels on a connection.
struct Doors {
    line: Arc<Line>,
    timing: Timing,
    spare: Spare,
    /// Where output that nobody reads may be set aside.
    dir: PathBuf,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Own {
    /// The box at the end of `line`, which runs through `jumps`.
    pub(crate) fn new(
        line: Line,
        jumps: Vec<Line>,
        peer: String,
        timing: Timing,
        dir: PathBuf,
    ) -> Self {
        let (line, spare) = (Arc::new(line), Spare::default());
        spare.lay_by(&line);
        Self { doors: Arc::new(Doors { line, timing, spare, dir }), jumps, peer }
    }

    /// Opens a stream from the box to a host and port as seen from there.
    pub(crate) async fn open_tcp(&self, host: &str, port: u16) -> Result<ChannelStream<Msg>> {
        let channel = self.doors.line.open_tcp(host, port, self.doors.timing.reply).await?;
        Ok(channel.into_stream())
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.doors.line.handle.is_closed()
    }

    /// Waits for the end of the connection, however it comes.
    pub(crate) async fn closed(&self) {
        self.doors.line.fate.sealed().await;
    }
}

impl Doors {
    async fn start(&self, command: &str, pty: Option<&Pty>) -> Result<(SshInput, SshOutput)> {
        let deadline = Instant::now() + self.timing.reply;
        let channel = self.channel(deadline).await?;
        start(&self.line, channel, command, pty, deadline, self.dir.clone()).await
    }

    /// A channel for a process; the next one is on its way then.
    async fn channel(&self, deadline: Instant) -> Result<Channel<Msg>> {
        let opened = timeout_at(deadline, self.spare.channel(&self.line)).await;
        self.spare.lay_by(&self.line);
        match opened {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(self.line.refused("the box opens no further channel", &error)),
            Err(late) => Err(self.line.refused("the box opens no channel", &late)),
        }
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

    async fn hang_up(&self) {
        let _ = self.handle.disconnect(Disconnect::ByApplication, "done", "").await;
        self.fate.sealed().await;
    }
}

impl Own {
    pub(crate) async fn start(
        &self,
        command: &str,
        pty: Option<&Pty>,
    ) -> Result<(SshInput, SshOutput)> {
        self.doors.start(command, pty).await
    }

    pub(crate) fn starter(&self) -> Starter<SshInput, SshOutput> {
        let doors = self.doors.clone();
        Box::new(move |command| {
            let doors = doors.clone();
            Box::pin(async move { doors.start(&command, None).await })
        })
    }

    /// The host and port that answered.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    pub(crate) async fn close(self) {
        let all = async {
            self.doors.line.hang_up().await;
            for jump in self.jumps.into_iter().rev() {
                jump.hang_up().await;
            }
        };
        let _ = timeout(GOODBYE, all).await;
    }
}
