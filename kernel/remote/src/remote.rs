//! A connection to a box, whoever opened it: we, or the user's OpenSSH.

use std::fmt;
use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::{Pty, Remote, Starter, Stop};
use crabbox_schemas::error::{ErrorCode, Outcome};
use russh::ChannelStream;
use russh::client::Msg;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::dial::Again;
use crate::mux::{Master, Refusal};
use crate::process::{SshInput, SshOutput};
use crate::session::Own;

/// One connection to a box. All its processes and streams share it.
#[derive(Debug)]
pub struct SshRemote(Way);

#[derive(Debug)]
enum Way {
    Own(Own),
    Shared(Box<Shared>),
}

/// A connection that OpenSSH shares, and one of our own as soon as the master refuses something.
struct Shared {
    master: Master,
    peer: String,
    again: Again,
    own: OnceCell<Own>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl SshRemote {
    pub(crate) fn own(own: Own) -> Self {
        Self(Way::Own(own))
    }

    pub(crate) fn shared(master: Master, peer: String, again: Again) -> Self {
        Self(Way::Shared(Box::new(Shared { master, peer, again, own: OnceCell::new() })))
    }

    /// Opens a stream from the box to a host and port as seen from there.
    pub async fn open_tcp(&self, host: &str, port: u16) -> Result<ChannelStream<Msg>> {
        match &self.0 {
            Way::Own(own) => own.open_tcp(host, port).await,
            Way::Shared(shared) => Box::pin(shared.own()).await?.open_tcp(host, port).await,
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        match &self.0 {
            Way::Own(own) => own.is_closed(),
            Way::Shared(shared) => match shared.own.get() {
                Some(own) => own.is_closed(),
                None => shared.master.fate.is_sealed(),
            },
        }
    }

    /// Waits for the end of the connection, however it comes.
    pub async fn closed(&self) {
        match &self.0 {
            Way::Own(own) => own.closed().await,
            Way::Shared(shared) => shared.master.fate.sealed().await,
        }
    }
}

impl Shared {
    /// Starts a command. What the master refuses was not started, and is done on a connection of our own; so is what
    /// needs a terminal.
    async fn start(&self, command: &str, pty: Option<&Pty>) -> Result<(SshInput, SshOutput)> {
        if self.own.initialized() || pty.is_some() {
            return self.own().await?.start(command, pty).await;
        }
        let fate = &self.master.fate;
        if fate.is_sealed() {
            return Err(fate.lost("the connection to the box broke").outcome(Outcome::NotStarted));
        }
        let dir = self.again.address.known_hosts.parent().unwrap_or(Path::new(""));
        let deadline = Instant::now() + self.again.caller.timing.connect;
        match self.master.start(command, dir.to_owned(), deadline).await {
            Ok((input, output)) => Ok((SshInput::Mux(input), output)),
            Err(Refusal::Refused(why)) => {
                tracing::debug!(why, "OpenSSH does not share its connection; connecting without");
                self.own().await?.start(command, pty).await
            }
            Err(Refusal::Uncertain(why)) => {
                self.again.caller.shunned.add(&self.master.path);
                let what = format!("the connection that OpenSSH shares is of no use: {why}");
                let error = KernelError::new(ErrorCode::ConnectionLost, what).at("connection");
                Err(error.outcome(Outcome::Uncertain))
            }
        }
    }

    async fn own(&self) -> Result<&Own> {
        let Again { caller, address } = &self.again;
        let stop = Stop::never();
        let call = || async { caller.call(address, &mut Vec::new(), &stop).await };
        self.own.get_or_try_init(call).await
    }
}

impl Remote for SshRemote {
    type Input = SshInput;
    type Output = SshOutput;

    async fn start(&self, command: &str, pty: Option<&Pty>) -> Result<(SshInput, SshOutput)> {
        match &self.0 {
            Way::Own(own) => own.start(command, pty).await,
            Way::Shared(shared) => Box::pin(shared.start(command, pty)).await,
        }
    }

    fn starter(&self) -> Option<Starter<SshInput, SshOutput>> {
        match &self.0 {
            Way::Own(own) => Some(own.starter()),
            Way::Shared(_) => None,
        }
    }

    fn peer(&self) -> &str {
        match &self.0 {
            Way::Own(own) => own.peer(),
            Way::Shared(shared) => &shared.peer,
        }
    }

    fn transport(&self) -> &'static str {
        match &self.0 {
            Way::Own(_) => "ssh",
            Way::Shared(_) => "openssh",
        }
    }

    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }

    async fn close(self) {
        match self.0 {
            Way::Own(own) => own.close().await,
            Way::Shared(shared) => {
                if let Some(own) = shared.own.into_inner() {
                    own.close().await;
                }
            }
        }
    }
}
