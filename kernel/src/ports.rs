//! The four doors to the world: [`Provider`], [`Remote`], [`Clock`] and [`EventSink`].

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::{ErrorCode, Resource};
use crabbox_schemas::lease::{Bootstrap, BoxRequest, Desired, Lease, ReleaseOutcome, SshEndpoint};
use crabbox_schemas::plugin::{Check, EvidenceResult, ProviderKind, Purpose, RunStartResult};
use std::collections::BTreeMap;
use tokio::sync::watch;

use crate::error::{KernelError, Result};
use crate::event::{Event, Stream};
use crate::lease::trail::Trail;

/// Receives what happens; must not fail and should not block for long.
pub trait EventSink {
    /// Takes one event.
    fn emit(&mut self, event: Event);
}

impl EventSink for Vec<Event> {
    fn emit(&mut self, event: Event) {
        self.push(event);
    }
}

/// How urgently work should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Urgency {
    /// Go on.
    #[default]
    None,
    /// Stop and clean up; first Ctrl-C, SIGTERM.
    Gentle,
    /// Stop at once; second Ctrl-C.
    Now,
}

/// The user's wish to stop, seen by every stage. Clones watch the same wish.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Urgency>);

impl Stop {
    /// A wish and the handle that raises it.
    pub fn new() -> (watch::Sender<Urgency>, Self) {
        let (sender, receiver) = watch::channel(Urgency::None);
        (sender, Self(receiver))
    }

    /// A wish nobody can raise: for work that must be finished, such as a release.
    pub fn never() -> Self {
        Self::new().1
    }

    /// A wish that is as urgent as this from the start, and never more.
    pub fn raised(level: Urgency) -> Self {
        let (sender, stop) = Self::new();
        sender.send_replace(level);
        stop
    }

    /// How urgent it is now.
    pub fn urgency(&self) -> Urgency {
        *self.0.borrow()
    }

    /// Waits until it is at least this urgent; for ever if nobody can raise it any more.
    pub async fn reaches(&self, level: Urgency) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|now| *now >= level).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Time, so that tests can hold it in hand.
pub trait Clock {
    /// Wall clock: milliseconds since 1970-01-01 UTC. May jump.
    fn now_ms(&self) -> u64;
    /// Milliseconds of a clock that never goes back, for durations.
    fn monotonic_ms(&self) -> u64;
    /// Waits.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;
}

/// What the kernel knows of an open provider without asking it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The provider's name.
    pub provider: String,
    /// Its behaviour.
    pub kind: ProviderKind,
    /// Its optional powers.
    pub features: Vec<String>,
    /// Digest of its settings: a lease is as it was described only while these are the same.
    pub settings: String,
}

/// What an acquire needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The identity to use.
    pub desired: Desired,
    /// What kind of box.
    pub request: BoxRequest,
    /// Public half of the lease's key.
    pub ssh_public_key: String,
    /// Labels for the provider's resource.
    pub labels: BTreeMap<String, String>,
    /// How the machine becomes a box, for providers that only make machines.
    pub bootstrap: Option<Bootstrap>,
    /// Idempotency key: equal on every retry of one attempt.
    pub idem: String,
}

/// What a resolve needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Lease id, slug, machine name or provider id.
    pub id: String,
    /// What is known of it.
    pub known: Option<Lease>,
    /// Resources its trail recorded.
    pub resources: Vec<Resource>,
    /// Why it is looked up.
    pub purpose: Purpose,
}

/// A delegated run.
#[derive(Debug, Clone, PartialEq)]
pub struct DelegatedRun {
    /// The run's id.
    pub run_id: String,
    /// The box, from acquire.
    pub lease: Lease,
    /// The command, passed exactly.
    pub command: Vec<String>,
    /// Values for its environment.
    pub env: BTreeMap<String, String>,
    /// The tree, when it shall be on the box.
    pub workspace: Option<Workspace>,
    /// Seconds after which the command must be stopped.
    pub timeout_secs: Option<u64>,
}

/// The tree for a delegated run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Tar file with the tree, readable by the plugin.
    pub archive: PathBuf,
    /// Names its content; absent when the archive must be taken in any case.
    pub digest: Option<String>,
    /// Files on the box that are not in it stay.
    pub keeps: bool,
    /// How long it may take to bring it there; the command's own time begins afterwards.
    pub limit: Duration,
}

/// One open provider: a live plugin session.
///
/// Every call is bounded by a deadline of its own. When `stop` is raised the call is cancelled and its
/// answer is still awaited, so that the caller learns what may be left behind.
pub trait Provider {
    /// What is known without asking.
    fn about(&self) -> &About;
    /// The plugin behind it, with the digest of its program.
    fn pin(&self) -> Result<PluginPin>;
    /// Makes a box (for delegated providers: warms one). Resources go to `trail` before it goes on.
    fn acquire(
        &self,
        wanted: &Wanted,
        trail: &mut Trail,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> impl Future<Output = Result<Lease>>;
    /// Looks a box up; `None` only when the provider proved that it does not exist.
    fn resolve(&self, query: &Query) -> impl Future<Output = Result<Option<Lease>>>;
    /// Every box with crabbox's label, and whether the answer is complete.
    fn list(&self) -> impl Future<Output = Result<(Vec<Lease>, bool)>>;
    /// Gives a box back; repeatable. Nothing happens unless label and lease match.
    fn release(&self, lease: &Lease) -> impl Future<Output = Result<ReleaseOutcome>>;
    /// Says that the box is still in use.
    fn touch(&self, lease: &Lease, state: &str) -> impl Future<Output = Result<Lease>>;
    /// Looks at credentials and prerequisites; creates nothing.
    fn doctor(&self) -> impl Future<Output = Result<Vec<Check>>>;
    /// Runs one command at the provider; only for delegated providers.
    fn run(
        &self,
        run: &DelegatedRun,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> impl Future<Output = Result<RunStartResult>>;
    /// Why a box died; `None` where the provider cannot be asked.
    fn evidence(&self, _lease: &Lease) -> impl Future<Output = Result<Option<EvidenceResult>>> {
        std::future::ready(Ok(None))
    }
    /// How to reach a box for a while, and the end of that; only for providers with `ssh-access`.
    fn grant_access(&self, _lease: &Lease) -> impl Future<Output = Result<SshEndpoint>> {
        let what = "this provider lets nobody in over SSH";
        std::future::ready(Err(KernelError::new(ErrorCode::Unsupported, what)))
    }
    /// Ends every access to a box that was granted.
    fn revoke_access(&self, _lease: &Lease) -> impl Future<Output = Result<()>> {
        std::future::ready(Ok(()))
    }
}

/// What is needed to reach a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Where and as whom.
    pub endpoint: SshEndpoint,
    /// The lease's private key file, for `auth: kernel-key`.
    pub key: PathBuf,
    /// The lease's known-hosts file: the pinned host key, written on first use.
    pub known_hosts: PathBuf,
    /// How long to keep trying until the box is ready.
    pub patience: Duration,
}

/// A new key pair for the SSH server of a box.
#[derive(Clone, PartialEq, Eq)]
pub struct HostKey {
    /// The private half, OpenSSH's own format.
    pub private: String,
    /// The public half in one line.
    pub public: String,
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostKey({})", self.public)
    }
}

/// Opens connections.
pub trait Dialer {
    /// The connections it opens.
    type Remote: Remote;
    /// Makes the lease's key pair in `dir` (`id_ed25519`, `id_ed25519.pub`), or finds the one that is
    /// there; returns the public half in OpenSSH one-line form.
    fn key_pair(&self, dir: &Path, comment: &str) -> Result<String>;
    /// Makes a host key for a box; nothing of it is kept here.
    fn host_key(&self, comment: &str) -> Result<HostKey>;
    /// Connects, racing the ports, and waits until the ready check passes. Errors name the stage.
    fn dial(
        &self,
        address: &Address,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> impl Future<Output = Result<Self::Remote>>;
}

/// Starts processes on a connection that somebody else holds, without a terminal, as [`Remote::start`] does.
pub type Starter<I, O> = Box<dyn Fn(String) -> Starting<I, O>>;

/// A process on its way.
pub type Starting<I, O> = Pin<Box<dyn Future<Output = Result<(I, O)>>>>;

/// One connection to a box.
pub trait Remote {
    /// Input half of a process.
    type Input: ProcessInput + 'static;
    /// Output half of a process.
    type Output: ProcessOutput + 'static;
    /// Starts a command line with the login user's shell. An error means it did not start, unless its
    /// outcome says `uncertain`.
    fn start(
        &self,
        command: &str,
        pty: Option<&Pty>,
    ) -> impl Future<Output = Result<(Self::Input, Self::Output)>>;
    /// A byte stream to a helper that somebody keeps open on this box, or opens and keeps now; `None` when the
    /// caller has to start one. `work_root` is a folder on the box where the helper's program may be put.
    fn kept_helper(
        &self,
        _work_root: &str,
    ) -> impl Future<Output = Result<Option<(Self::Input, Self::Output)>>> {
        std::future::ready(Ok(None))
    }
    /// What starts further processes later; `None` when only the connection's holder can.
    fn starter(&self) -> Option<Starter<Self::Input, Self::Output>> {
        None
    }
    /// The host and port that answered, for people.
    fn peer(&self) -> &str;
    /// Whose connection it is: `ssh` is our own, `openssh` one that the user's OpenSSH shares.
    fn transport(&self) -> &'static str {
        "ssh"
    }
    /// Whether the connection is known to have ended.
    fn is_closed(&self) -> bool {
        false
    }
    /// Ends the connection politely.
    fn close(self) -> impl Future<Output = ()>;
}

/// A terminal for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pty {
    /// The `TERM` value.
    pub term: String,
    /// Columns.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
}

/// Input half of a process on a box.
pub trait ProcessInput {
    /// Sends bytes to its standard input; waits for the channel's window.
    fn write(&mut self, data: Bytes) -> impl Future<Output = Result<()>>;
    /// Ends its standard input.
    fn finish(&mut self) -> impl Future<Output = Result<()>>;
    /// Sends a signal by name without `SIG`; servers may ignore it.
    fn signal(&mut self, name: &str) -> impl Future<Output = Result<()>>;
    /// Tells the terminal's new size.
    fn resize(&mut self, columns: u32, rows: u32) -> impl Future<Output = Result<()>>;
}

/// Output half of a process on a box.
pub trait ProcessOutput {
    /// The next piece; `Exited` exactly once, last. An error means the connection broke.
    fn next(&mut self) -> impl Future<Output = Result<Piece>>;
}

/// What a process sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes it printed.
    Data(Stream, Bytes),
    /// How it ended.
    Exited(Exit),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its status, 128 + number for a signal.
    pub code: i32,
    /// The signal's name without `SIG`.
    pub signal: Option<String>,
}
