//! One run, from plan to outcome. The file to read first.
//!
//! Plan → lease → connection → tree → command → outcome: every stage takes the previous value and adds one
//! noun. Decisions were taken in [`crate::plan`]; here is one `match`, on the provider's behaviour.

pub mod attach;
mod by_helper;
mod by_shell;
pub mod collect;
pub mod command;
pub mod delegated;
mod input;
mod launch;
mod lent;
pub mod line;
pub mod process;
pub mod reach;
mod reconnect;
pub mod record;
pub mod results;
pub mod ssh_lease;
pub mod stream;

use crabbox_schemas::plugin::ProviderKind;
use crabbox_schemas::run::Timing;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::lease::{Bench, Fate, access, with_lease};
use crate::plan::Plan;
use crate::ports::{Clock, Dialer, EventSink, Exit, Provider, Stop};
use crate::run::process::Console;
use crate::shell;

/// How the work of a run ended, when crabbox did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// There was no command.
    Synced,
    /// The command ended.
    Exited(Exit),
    /// The command goes on without us.
    Detached,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The status crabbox exits with: the command's own, or that of `error`.
    pub exit_code: i32,
    /// Signal that ended the command, without `SIG`.
    pub signal: Option<String>,
    /// The command goes on: its end is not known yet.
    pub detached: bool,
    /// Why crabbox failed, when it did. With a status of the command's own this is `None`.
    pub error: Option<KernelError>,
    /// Where the time went.
    pub timing: Timing,
    /// What became of the box; `None` when there never was one.
    pub fate: Option<Fate>,
}

impl Outcome {
    /// A run that failed before a box was asked for.
    pub fn never_began(error: KernelError, timing: Timing, events: &mut dyn EventSink) -> Self {
        conclude(Err(error), None, timing, events)
    }

    /// Whether the box outlives the run.
    pub fn kept(&self) -> bool {
        self.fate == Some(Fate::Kept)
    }
}

/// Leases a box, sends the tree, runs the command, and gives the box back.
pub async fn run<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    plan: &Plan,
    console: &mut Console,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Outcome {
    let started = bench.clock.monotonic_ms();
    let mut timing = Timing {
        schema_version: crabbox_schemas::SCHEMA_VERSION,
        provider: bench.provider.about().provider.clone(),
        run_id: Some(plan.run_id.to_string()),
        label: plan.label.clone(),
        ..Timing::default()
    };
    let about = bench.provider.about();
    let lent = access::is_lent(bench);
    if about.kind == ProviderKind::DelegatedRun
        && !lent
        && let Err(error) = delegated::check(plan, &about.provider, events)
    {
        return conclude(Err(error), None, timing, events);
    }
    if (about.kind == ProviderKind::SshLease || lent)
        && let Err(error) = &plan.commits
    {
        return conclude(Err(error.clone()), None, timing, events);
    }
    if about.kind == ProviderKind::SshLease
        && let Err(error) = ssh_lease::check(&plan.ask)
    {
        return conclude(Err(error), None, timing, events);
    }
    let keep = |outcome: &Result<Ended>| why_keep(plan, outcome);
    let worked = with_lease(
        bench,
        &plan.ask,
        plan.repo_root.clone(),
        events,
        stop,
        keep,
        async |held, events| {
            timing.lease_ms = bench.clock.monotonic_ms() - started;
            timing.lease_id = Some(held.lease.lease_id.to_string());
            timing.slug = Some(held.lease.slug.clone());
            match bench.provider.about().kind {
                ProviderKind::SshLease => {
                    ssh_lease::work(bench, plan, held, console, &mut timing, events, stop).await
                }
                ProviderKind::DelegatedRun if lent => {
                    lent::work(bench, plan, held, console, &mut timing, events, stop).await
                }
                ProviderKind::DelegatedRun => {
                    delegated::work(bench, plan, held, &mut timing, events, stop).await
                }
            }
        },
    )
    .await;
    let (outcome, fate) = match worked {
        Ok((outcome, fate)) => (outcome, Some(fate)),
        Err(error) => (Err(error), None),
    };
    timing.total_ms = bench.clock.monotonic_ms() - started;
    conclude(outcome, fate, timing, events)
}

/// The run's outcome in one value, told to everybody.
fn conclude(
    outcome: Result<Ended>,
    fate: Option<Fate>,
    mut timing: Timing,
    events: &mut dyn EventSink,
) -> Outcome {
    let detached = outcome == Ok(Ended::Detached);
    let (exit_code, by, signal, error) = match outcome {
        Ok(Ended::Exited(exit)) => (exit.code, "remote", exit.signal, None),
        Ok(Ended::Synced | Ended::Detached) => (0, "crabbox", None, None),
        Err(error) => (error.code.exit_status(), "crabbox", None, Some(error)),
    };
    timing.exit_code = exit_code;
    timing.by = by.to_owned();
    if let Some(error) = &error {
        timing.error_kind = Some(error.code.word().to_owned());
        timing.stage = error.stage.map(str::to_owned);
        events.emit(Event::Failed { error: error.clone() });
    }
    if fate != Some(Fate::Released) {
        timing.stop_command =
            timing.slug.as_ref().map(|slug| format!("crabbox stop {}", shell::quote(slug)));
    }
    Outcome { exit_code, signal, detached, error, timing, fate }
}

fn why_keep(plan: &Plan, outcome: &Result<Ended>) -> Option<String> {
    let failed = match outcome {
        Ok(Ended::Exited(exit)) => exit.code != 0,
        Ok(Ended::Synced | Ended::Detached) => false,
        Err(error) => error.code != crabbox_schemas::error::ErrorCode::Cancelled,
    };
    if *outcome == Ok(Ended::Detached) {
        Some("the command runs there".to_owned())
    } else if let Some(why) = plan.keep {
        Some(why.to_owned())
    } else if plan.keep_on_failure && failed {
        Some("the run failed and --keep-on-failure was given".to_owned())
    } else {
        None
    }
}
