//! Takes up a run that an earlier command started, here or on another machine: to see its end, or to bring it about.

use std::time::Duration;

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::helper::{RunState, RunsParams, RunsResult, method};
use crabbox_schemas::ids::RunId;

use crate::error::{KernelError, Result};
use crate::lease::{Bench, Held, access};
use crate::ports::{Clock, Dialer, EventSink, Provider, Stop, Urgency};
use crate::run::by_helper::{forgotten, lost, not_started};
use crate::run::line::{Line, Way, open};
use crate::run::process::Console;
use crate::run::reconnect::Reconnect;
use crate::run::ssh_lease::work_root;
pub use crate::run::stream::End;
use crate::run::stream::{Follow, OnStop};

/// How long the box may take to list its runs.
const LIST_LIMIT: Duration = Duration::from_secs(30);

/// Which run, and what is wanted of it.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The run.
    pub run_id: &'a RunId,
    /// Offsets of the first bytes of its two streams that are wanted.
    pub from: [u64; 2],
    /// How long to try to reach the box again when the connection breaks.
    pub reconnect: Duration,
    /// End the command, instead of waiting for its end.
    pub end: bool,
    /// Leave when nothing was heard for so long, instead of waiting for the end.
    pub hush: Option<Duration>,
    /// The box would still know of the run, had it been started: then one it does not know shall never be.
    pub forestall: bool,
}

/// What was seen of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// How following it ended.
    pub end: End,
    /// The box's clock when the command started, milliseconds since 1970.
    pub started_ms: u64,
}

impl End {
    /// The error for a run whose end nobody will ever know.
    pub fn loss(&self) -> Option<KernelError> {
        match self {
            End::Lost => Some(lost()),
            End::NotStarted => Some(not_started()),
            End::Unknown => Some(forgotten()),
            End::Exited(_) | End::Stopped(_) | End::Left => None,
        }
    }
}

/// Follows a run until it ends, or the user leaves; ends its command first when that is wanted.
pub async fn attach<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    held: &Held,
    wanted: &Wanted<'_>,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Seen> {
    let lent = access::lend(bench, held).await?;
    let seen = follow(bench, &lent, wanted, events, stop).await;
    access::give_back(bench, &lent).await;
    seen
}

async fn follow<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    held: &Held,
    wanted: &Wanted<'_>,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Seen> {
    let mut reconnect = Reconnect::new(wanted.reconnect);
    let mut line = helped(reconnect.first(bench, held, events, stop).await?)?;
    let on_stop = if wanted.end { OnStop::EndCommand } else { OnStop::Leave };
    let run = wanted.run_id.as_str();
    let mut follow = Follow::new(&base_dir(held)?, run, wanted.from, false, on_stop);
    follow.leave_after(wanted.hush);
    follow.forestall(wanted.forestall);
    let mut console = Console::closed();
    let ended = if wanted.end {
        let now = Stop::raised(Urgency::Gentle);
        reconnect
            .follow(bench, held, &mut line, &mut follow, None, &mut console, events, &now)
            .await
    } else {
        reconnect
            .follow(bench, held, &mut line, &mut follow, None, &mut console, events, stop)
            .await
    };
    line.close().await;
    ended.map(|end| Seen { end, started_ms: follow.started_ms() })
}

/// The runs a box knows of its lease, oldest first.
pub async fn list<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    held: &Held,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Vec<RunState>> {
    let lent = access::lend(bench, held).await?;
    let listed: Result<RunsResult> = async {
        let mut line = helped(open(bench, &lent, events, stop).await?)?;
        let params = RunsParams { base_dir: base_dir(held)?, run_id: None };
        let listed = line.helper.call(method::RUN_LIST, &params, LIST_LIMIT, bench.clock).await;
        line.close().await;
        listed
    }
    .await;
    access::give_back(bench, &lent).await;
    listed.map(|listed| listed.runs)
}

fn helped<R>(way: Way<R>) -> Result<Line<R>> {
    match way {
        Way::Helper(line) => Ok(line),
        Way::Shell { why, .. } => {
            let what = "runs on this box end with their client";
            Err(KernelError::new(ErrorCode::Unsupported, what)
                .hint(format!("no helper runs there: {why}"))
                .at("connect"))
        }
    }
}

fn base_dir(held: &Held) -> Result<String> {
    let root = work_root(&held.lease)?.trim_end_matches('/');
    Ok(format!("{root}/{}", held.lease.lease_id))
}
