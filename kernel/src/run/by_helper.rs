//! The work on a box with a helper: one flight for tree and command, then its output, over as many connections as
//! it takes.

use std::time::Duration;

use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::helper::{LockAsk, RunExit, RunsParams, method};
use crabbox_schemas::run::Timing;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::ports::{Clock, Dialer, EventSink, Exit, Provider, Remote, Stop};
use crate::run::launch::launch;
use crate::run::line::Line;
use crate::run::process::Console;
use crate::run::reconnect::Reconnect;
use crate::run::ssh_lease::{Job, sync_ended, sync_starts};
use crate::run::stream::{End, Follow, OnStop};
use crate::run::{Ended, collect};
use crate::shell;
use crate::sync::flight::{Flight, Flown, Launch, Launched, Place, fly};

/// How long the last word to the helper may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often a flight may begin anew: each line may hold just long enough to count as one.
const FLIGHTS: u32 = 20;

/// Flies tree and command to the box, follows the command, brings evidence back.
pub(super) async fn work<P: Provider, D: Dialer, C: Clock>(
    job: &Job<'_, P, D, C>,
    line: Line<D::Remote>,
    reconnect: Reconnect,
    console: &mut Console,
    timing: &mut Timing,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Ended> {
    let clock = job.bench.clock;
    let mut trip = Trip { job, line, reconnect, doubt: None };
    if let Some((tree, _)) = job.tree() {
        sync_starts(tree, trip.line.remote.peer(), &job.places, events);
    }
    let command = job.command();
    let launch = command.as_ref().map(|command| launch(command, job.plan));
    if launch.is_some() {
        events.emit(Event::CommandSent);
    }
    let from = clock.monotonic_ms();
    let flown = trip.land(launch.as_ref(), events, stop).await?;
    if let Some(mut pushed) = flown.pushed {
        pushed.skipped &= !job.tree().is_some_and(|(_, rules)| rules.full_resync);
        sync_ended(pushed, clock.monotonic_ms() - from, timing, events);
    }
    let channels = match flown.launched {
        Launched::Nothing => {
            trip.line.close().await;
            return Ok(Ended::Synced);
        }
        Launched::Now(started) => {
            timing.workdir = Some(started.workdir);
            Some(flown.channels)
        }
        Launched::Earlier => None,
    };
    events.emit(Event::CommandStarted {
        host: trip.line.remote.peer().to_owned(),
        workdir: timing.workdir.clone().unwrap_or_default(),
        command: shell::join(&command.map(|c| c.shown).unwrap_or_default()),
        acknowledged: trip.doubt.is_none(),
    });
    if job.plan.detach {
        if let Some(error) = trip.doubt.take() {
            return Err(trip.lost_hint(error));
        }
        trip.line.close().await;
        let (run_id, lease) = (job.plan.run_id.to_string(), job.held.lease.clone());
        events.emit(Event::Detached { run_id, lease });
        return Ok(Ended::Detached);
    }
    let from = clock.monotonic_ms();
    let ended = trip.follow(channels, console, events, stop).await;
    timing.command_ms = clock.monotonic_ms() - from;
    trip.conclude(ended, timing, events, stop).await
}

/// One run on its way: the line it is on now, and how to get another.
struct Trip<'a, P, D: Dialer, C> {
    job: &'a Job<'a, P, D, C>,
    line: Line<D::Remote>,
    reconnect: Reconnect,
    /// Why the flight failed, when it is not known whether the command was started all the same.
    doubt: Option<KernelError>,
}

impl<P: Provider, D: Dialer, C: Clock> Trip<'_, P, D, C> {
    /// Flies until the flight lands. After a cut the same flight begins anew: what arrived is there, and a
    /// command that was started is not started again.
    async fn land(
        &mut self,
        launch: Option<&Launch>,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<Flown> {
        let Job { bench, plan, held, places } = self.job;
        let place = Place {
            lease: held.lease.lease_id.clone(),
            base_dir: places.base.clone(),
            repo: plan.repo_name.clone(),
        };
        let wait_ms = u64::try_from(plan.patience.0.as_millis()).unwrap_or(u64::MAX);
        let lock = LockAsk { owner: plan.owner.clone(), wait_ms };
        let checkout = self.job.checkout();
        let flight = Flight {
            place: &place,
            tree: self.job.tree(),
            lock,
            isolate: plan.isolate,
            checkout: checkout.as_deref(),
            launch,
        };
        let (mut in_doubt, mut flights) = (false, 0);
        loop {
            flights += 1;
            let Line { remote, helper, .. } = &mut self.line;
            let flown = async {
                let delivered = self.job.deliver(remote, stop).await;
                delivered.map_err(|e| e.outcome(Outcome::NotStarted))?;
                fly(helper, &flight, bench.state, events, stop, bench.clock).await
            };
            let error = match flown.await {
                Ok(flown) => return Ok(flown),
                Err(error) => error,
            };
            // Whether the command may run is not forgotten because a later try surely did not start it.
            in_doubt |= error.outcome == Some(Outcome::Uncertain);
            let outcome = if in_doubt { Outcome::Uncertain } else { Outcome::NotStarted };
            let stage = if error.code == ErrorCode::Busy { "lock" } else { "sync" };
            let error = error.outcome(outcome).at(stage);
            match error.code {
                ErrorCode::ConnectionLost if flights < FLIGHTS => {}
                ErrorCode::ConnectionLost => return Err(never_lands(error)),
                ErrorCode::Cancelled => return Err(error),
                _ if in_doubt => {
                    // The box knows: it is asked by the run's id.
                    self.doubt = Some(error);
                    return Ok(Flown { pushed: None, launched: Launched::Earlier, channels: 0 });
                }
                _ => return Err(error),
            }
            let line = self.reconnect.again(bench, held, error, events, stop).await;
            self.line = line.map_err(|e| e.at(stage))?;
        }
    }

    /// Follows the run to its end.
    async fn follow(
        &mut self,
        channels: Option<u32>,
        console: &mut Console,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<End> {
        let (run_id, base) = (self.job.plan.run_id.as_str(), &self.job.places.base);
        let mut follow = Follow::new(base, run_id, [0, 0], true, OnStop::EndCommand);
        follow.forestall(self.doubt.is_some());
        let Job { bench, held, .. } = self.job;
        let over = &mut self.reconnect;
        over.follow(bench, held, &mut self.line, &mut follow, channels, console, events, stop).await
    }

    /// The end of the command becomes the end of the run.
    async fn conclude(
        mut self,
        ended: Result<End>,
        timing: &Timing,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<Ended> {
        let plan = self.job.plan;
        let told = match ended {
            Err(error) => return Err(self.lost_hint(error).at("command")),
            Ok(End::Exited(exit)) if exit.timed_out => Err(plan.out_of_time()),
            Ok(End::Exited(exit)) => Ok(finished(exit, timing.command_ms, events)),
            Ok(End::Stopped(_) | End::Left) => {
                Err(KernelError::new(ErrorCode::Cancelled, "interrupted; the command was stopped"))
            }
            Ok(End::Lost) => Err(lost()),
            Ok(End::NotStarted) => Err(match self.doubt.take() {
                Some(error) => error.outcome(Outcome::NotStarted),
                None => not_started(),
            }),
            Ok(End::Unknown) => Err(forgotten()),
        };
        let workdir = timing.workdir.as_deref().unwrap_or(&self.job.places.workdir);
        collect::bring_back(self.job.bench.clock, plan, workdir, &self.line.remote, events, stop)
            .await;
        self.forget().await;
        self.line.close().await;
        told.map(Ended::Exited).map_err(|e| e.at("command"))
    }

    /// The box may forget the run. Nobody waits for its answer.
    async fn forget(&mut self) {
        let params = RunsParams {
            base_dir: self.job.places.base.clone(),
            run_id: Some(self.job.plan.run_id.to_string()),
        };
        if self.line.helper.request(method::RUN_FORGET, &params).is_ok() {
            tokio::select! {
                _ = self.line.helper.flush() => {}
                () = self.job.bench.clock.sleep(GOODBYE) => {}
            }
        }
    }

    /// What can still be done about a run whose end is not known.
    fn lost_hint(&self, error: KernelError) -> KernelError {
        if error.hint.is_some() || !self.job.held.reused && self.job.plan.keep.is_none() {
            return error;
        }
        let run = &self.job.plan.run_id;
        error.hint(format!("`crabbox attach {run}` takes it up again while its box exists"))
    }
}

fn finished(exit: RunExit, ms: u64, events: &mut dyn EventSink) -> Exit {
    let exit = Exit { code: exit.code, signal: exit.signal };
    events.emit(Event::CommandFinished { exit_code: exit.code, signal: exit.signal.clone(), ms });
    exit
}

/// The error for a flight that was cut off every time.
fn never_lands(error: KernelError) -> KernelError {
    let what = format!("the connection broke {FLIGHTS} times before the box had everything");
    let causes = std::iter::once(error.message).chain(error.causes).collect();
    KernelError { message: what, causes, ..error }
}

/// The error for a run whose keeper died.
pub(super) fn lost() -> KernelError {
    let what =
        "the command was started, but what kept it on the box died: nobody knows how it ended";
    KernelError::new(ErrorCode::ConnectionLost, what)
        .hint("something on the box killed it, perhaps for want of memory; look with `crabbox connect`")
        .outcome(Outcome::Uncertain)
}

/// The error for a run that never began.
pub(super) fn not_started() -> KernelError {
    let what = "the command was never started: the box did not have it yet, or what should keep it there died first";
    KernelError::new(ErrorCode::ConnectionLost, what).outcome(Outcome::NotStarted)
}

/// The error for a run that the box should know.
pub(super) fn forgotten() -> KernelError {
    let what = "the box knows nothing of this run any more: nobody knows how it ended";
    KernelError::new(ErrorCode::ConnectionLost, what)
        .hint("the box may have been made anew, or its work root was cleared")
        .outcome(Outcome::Uncertain)
}
