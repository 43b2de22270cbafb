//! A flight: the delta, its content and the command in one exchange with the helper, corrected until it lands.

use bytes::Bytes;
use crabbox_schemas::helper::{LockAsk, RunSpec, Started};
use crabbox_schemas::ids::LeaseId;

use crate::error::Result;
use crate::helper::Helper;
use crate::ports::{Clock, EventSink, Stop};
use crate::state::State;
use crate::sync::push::Pushed;
use crate::sync::{LocalTree, SyncRules};

/// Which tree on which box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The lease: the fence the helper checks.
    pub lease: LeaseId,
    /// The lease's folder on the box, absolute: `<workRoot>/<leaseID>`.
    pub base_dir: String,
    /// The tree's folder below it: the repository's name.
    pub repo: String,
}

/// A command to start when the tree stands.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What to start.
    pub spec: RunSpec,
    /// The body of an uploaded script.
    pub script: Option<Bytes>,
}

/// Everything one flight is about.
#[derive(Debug, Clone)]
pub struct Flight<'a> {
    /// Which tree.
    pub place: &'a Place,
    /// What it shall be; `None` leaves it alone.
    pub tree: Option<(&'a LocalTree, &'a SyncRules)>,
    /// How the work tree is locked.
    pub lock: LockAsk,
    /// Run in a private copy of the tree.
    pub isolate: bool,
    /// The command.
    pub launch: Option<&'a Launch>,
}

/// What became of a flight's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launched {
    /// There was none.
    Nothing,
    /// It was started by this flight; its output comes on the flight's channels.
    Now(Started),
    /// A run of this id was started before: an earlier flight whose answer was lost. Attach to it.
    Earlier,
}

/// A flight that landed.
#[derive(Debug, Clone)]
pub struct Flown {
    /// What was done to the tree; `None` when it was left alone, or the run was started earlier.
    pub pushed: Option<Pushed>,
    /// What became of the command.
    pub launched: Launched,
    /// Base number of the flight's channels: the command's output comes there.
    pub channels: u32,
}

/// Makes the tree on the box equal the one here and starts the command in it: both, or neither.
///
/// After [`crabbox_schemas::error::ErrorCode::ConnectionLost`] the caller connects again and calls this again with
/// the same launch: what arrived is not sent twice, and the command is not started twice. An
/// error's outcome says whether the command may run. When the user stops it while it lands, it may still land:
/// look at `stop` afterwards.
pub async fn fly(
    helper: &mut Helper,
    flight: &Flight<'_>,
    state: &State,
    events: &mut dyn EventSink,
    stop: &Stop,
    clock: &impl Clock,
) -> Result<Flown> {
    let _ = (helper, flight, state, events, stop, clock);
    Err(crate::error::KernelError::new(
        crabbox_schemas::error::ErrorCode::Internal,
        "not built yet",
    ))
}
