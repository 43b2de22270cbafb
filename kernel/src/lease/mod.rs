//! Leases: the bracket that always gives a box back, the claim, and the trail that survives us.

pub mod access;
pub mod acquire;
pub mod adopt;
pub mod claim;
pub mod evidence;
pub mod heartbeat;
pub mod lock;
pub mod network;
pub mod reap;
pub mod release;
pub mod tailnet;
pub mod trail;

use std::path::PathBuf;
use std::time::Duration;

use crabbox_schemas::claim::Claim;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::lease::{BoxRequest, Lease};

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::helper::Binaries;
use crate::lease::claim::Claims;
use crate::lease::heartbeat::Pulse;
use crate::lease::network::Network;
use crate::lease::tailnet::Tailnet;
use crate::lease::trail::Trail;
use crate::ports::{Clock, Dialer, EventSink, Provider, Stop, Urgency};
use crate::state::State;

/// The doors a lease is worked through.
pub struct Bench<'a, P, D, C> {
    /// The open provider.
    pub provider: &'a P,
    /// Opens connections and makes keys.
    pub dialer: &'a D,
    /// Time.
    pub clock: &'a C,
    /// Local state.
    pub state: &'a State,
    /// Which of its addresses a box is dialled at.
    pub network: Network,
    /// The helpers that can be brought to a box.
    pub binaries: &'a Binaries,
}

impl<P: Provider, D: Dialer, C: Clock> Bench<'_, P, D, C> {
    /// The local claims.
    pub fn claims(&self) -> Claims {
        Claims::new(self.state.claims())
    }
}

/// Which box is wanted.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one of them in a command")]
pub enum Ask {
    /// A new one.
    New(NewLease),
    /// One that exists, by id, slug, machine name or provider id.
    Existing {
        /// As the user typed it.
        name: String,
        /// Use it although it belongs to another checkout.
        reclaim: bool,
    },
}

/// What a new lease should be.
#[derive(Debug, Clone, PartialEq)]
pub struct NewLease {
    /// What kind of box.
    pub request: BoxRequest,
    /// The profile in force.
    pub profile: String,
    /// The slug the user wants, already normalised.
    pub slug: Option<String>,
    /// Use a resource that belongs to another checkout (providers with ids of their own).
    pub reclaim: bool,
    /// How we log in where the provider leaves that to us.
    pub login: Login,
    /// The tailnet it shall join.
    pub tailnet: Option<Tailnet>,
}

/// How boxes are logged into that crabbox sets up itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Login name.
    pub user: String,
    /// Ports of the SSH server, the preferred one first.
    pub ports: Vec<u16>,
}

/// A lease in hand.
#[derive(Debug)]
pub struct Held {
    /// The box.
    pub lease: Lease,
    /// Its claim, as written.
    pub claim: Claim,
    /// Its provider.
    pub provider: String,
    /// It existed before this command.
    pub reused: bool,
    /// It is as its claim describes it; the provider was not asked.
    pub known: bool,
    /// Its trail, for a lease this command made.
    pub trail: Option<Trail>,
    /// The tailnet its box shall join at its first connection.
    pub tailnet: Option<Tailnet>,
}

impl Held {
    /// Idle limit of the lease.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.claim.idle_timeout_seconds.max(15))
    }
}

/// What became of the box after the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Given back.
    Released,
    /// Giving it back failed; its trail remembers.
    Stuck,
    /// It stays.
    Kept,
}

/// Gets a box, works with it, and gives it back or keeps it: on success, failure and interruption alike.
///
/// `keep` looks at the outcome and says why the box stays, or `None` to give it back. A box that existed
/// before is never given back, and is used as it is known where that must still be true. The lease is touched
/// while `work` goes on; should it vanish, work ends.
pub async fn with_lease<P: Provider, D: Dialer, C: Clock, T>(
    bench: &Bench<'_, P, D, C>,
    ask: &Ask,
    repo_root: PathBuf,
    events: &mut dyn EventSink,
    stop: &Stop,
    keep: impl FnOnce(&Result<T>) -> Option<String>,
    work: impl AsyncFnOnce(&Held, &mut dyn EventSink) -> Result<T>,
) -> Result<(Result<T>, Fate)> {
    let held = match ask {
        Ask::New(new) => acquire::acquire(bench, new, &repo_root, events, stop).await?,
        Ask::Existing { name, reclaim } => tokio::select! {
            held = adopt::take(bench, name, &repo_root, *reclaim, events) => held?,
            () = stop.reaches(Urgency::Gentle) => {
                return Err(interrupted("interrupted before the box was found").at("resolve"));
            }
        },
    };
    let outcome = if stop.urgency() >= Urgency::Gentle {
        Err(interrupted("interrupted before the work began"))
    } else {
        in_use(bench, &held, stop, work(&held, events)).await
    };
    if let Err(error) = &outcome
        && evidence::is_of_a_dead_box(error)
        && stop.urgency() == Urgency::None
    {
        evidence::ask(bench, &held.lease, events).await;
    }
    if held.reused {
        return Ok((outcome, Fate::Kept));
    }
    let gone = matches!(&outcome, Err(error) if error.code == ErrorCode::LeaseExpired);
    let fate = match keep(&outcome).filter(|_| !gone) {
        Some(reason) => release::keep(bench, held, reason, events).await,
        None => {
            let slug = held.lease.slug.clone();
            tokio::select! {
                fate = release::give_back(bench, held, events) => fate,
                () = hurry(bench.clock, stop) => {
                    let message = format!("{slug} was not given back in time; run `crabbox cleanup`");
                    events.emit(Event::Warning { message });
                    Fate::Stuck
                }
            }
        }
    };
    Ok((outcome, fate))
}

/// Works with a box while its heartbeat goes on. Only a touch that is overdue is waited for, and not by a user
/// who asked to stop.
pub async fn in_use<P: Provider, D: Dialer, C: Clock, T>(
    bench: &Bench<'_, P, D, C>,
    held: &Held,
    stop: &Stop,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let pulse = Pulse::of(bench, held);
    let working = async {
        tokio::select! {
            outcome = work => outcome,
            gone = pulse.beat() => Err(gone),
        }
    };
    let caught_up = async {
        tokio::select! {
            () = pulse.catch_up() => {}
            () = stop.reaches(Urgency::Gentle) => {}
        }
    };
    let (outcome, ()) = tokio::join!(working, caught_up);
    if held.reused && stop.urgency() == Urgency::None {
        pulse.rest().await;
    }
    outcome
}

/// How long a user in a hurry waits for a box to be given back; its trail remembers.
const HURRIED: Duration = Duration::from_secs(3);

async fn hurry(clock: &impl Clock, stop: &Stop) {
    stop.reaches(Urgency::Now).await;
    clock.sleep(HURRIED).await;
}

fn interrupted(when: &str) -> KernelError {
    KernelError::new(ErrorCode::Cancelled, when)
}

/// The error for a provider that answered about another lease.
fn not_asked_for<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    asked: &LeaseId,
    got: &Lease,
) -> KernelError {
    let provider = &bench.provider.about().provider;
    let what =
        format!("{provider} was asked about lease {asked} and answered about {}", got.lease_id);
    KernelError::new(ErrorCode::PluginFault, what)
        .hint("nothing was touched; this is a fault of the plugin")
}

/// Tells about a box in hand.
fn announce(held: &Held, events: &mut dyn EventSink) {
    events.emit(Event::LeaseCreated {
        lease: held.lease.clone(),
        provider: held.provider.clone(),
        reused: held.reused,
    });
}
