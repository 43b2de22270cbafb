//! The work on a box without a helper: the tree by tar, the command by a launcher for sh, one connection for both.

use bytes::Bytes;
use std::time::Duration;

use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::ids::RunId;
use crabbox_schemas::lease::Lease;
use crabbox_schemas::run::Timing;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::lease::lock::lock;
use crate::ports::{Clock, Dialer, EventSink, Exit, Provider, Remote, Stop, Urgency};
use crate::run::command::{self, Action, Command, Places};
use crate::run::process::{Console, End, Killer, capture, pump};
use crate::run::reach::explain;
use crate::run::ssh_lease::{Job, sync_ended, sync_starts};
use crate::run::{Ended, collect};
use crate::shell::{self, quote};
use crate::sync::commits::{FORGET, judge};
use crate::sync::known;
use crate::sync::push::{PushSpec, push_after};

/// How long the last broom may take.
const TIDY_LIMIT: Duration = Duration::from_secs(2);

/// Sends the tree, runs the command, brings evidence back. Runs from this machine take turns.
pub(super) async fn work<P: Provider, D: Dialer, C: Clock>(
    job: &Job<'_, P, D, C>,
    remote: D::Remote,
    lease: &Lease,
    console: &mut Console,
    timing: &mut Timing,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Ended> {
    let Job { bench, plan, places, .. } = job;
    let (state, id) = (bench.state, &lease.lease_id);
    let turn = lock(state, id, &plan.owner, plan.patience, bench.clock, events, stop).await;
    let _turn = turn.map_err(|e| e.at("lock"))?;
    if let Err(error) = sync(job, &remote, timing, events, stop).await {
        let error = explain(bench, lease, error).await;
        return Err(KernelError { outcome: Some(Outcome::NotStarted), ..error.at("sync") });
    }
    let Some(command) = job.command() else {
        remote.close().await;
        return Ok(Ended::Synced);
    };
    let exit = execute(job, &command, &remote, console, timing, events, stop).await;
    if !matches!(&exit, Err(e) if e.code == ErrorCode::ConnectionLost) {
        collect::bring_back(bench.clock, plan, &places.workdir, &remote, events, stop).await;
        tidy(job, &remote).await;
        remote.close().await;
    }
    match exit {
        Ok(exit) => Ok(Ended::Exited(exit)),
        Err(error) => Err(explain(bench, lease, error).await.at("command")),
    }
}

async fn sync<P: Provider, D: Dialer, C: Clock>(
    job: &Job<'_, P, D, C>,
    remote: &D::Remote,
    timing: &mut Timing,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<()> {
    let Some((tree, rules)) = job.tree() else { return Ok(()) };
    sync_starts(tree, remote.peer(), &job.places, events);
    let spec = PushSpec { workdir: job.places.workdir.clone(), rules: rules.clone() };
    let clock = job.bench.clock;
    let from = clock.monotonic_ms();
    let Job { bench, plan, held, .. } = job;
    let noted = known::noted(bench.state, &held.lease.lease_id, &plan.repo_name);
    let pushed = push_after(remote, tree, &spec, &noted, events, stop, clock).await?;
    sync_ended(pushed, clock.monotonic_ms() - from, timing, events);
    job.deliver(remote, stop).await?;
    let checkout = job.checkout().unwrap_or_else(|| FORGET.to_owned());
    let checkout = format!("cd {} && {checkout}", quote(&job.places.workdir));
    let checkout = format!("exec sh -c {}", quote(&checkout));
    let done = job.in_time(capture(remote, &checkout, Bytes::new()), stop).await?;
    judge(done.code, &String::from_utf8_lossy(&done.stderr))
}

async fn execute<P: Provider, D: Dialer, C: Clock>(
    job: &Job<'_, P, D, C>,
    command: &Command,
    remote: &D::Remote,
    console: &mut Console,
    timing: &mut Timing,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Exit> {
    let Job { bench, plan, places, .. } = job;
    let run = &plan.run_id;
    tokio::select! {
        stored = store(remote, places, run, command) => stored?,
        () = stop.reaches(Urgency::Gentle) => {
            return Err(KernelError::new(ErrorCode::Cancelled, "interrupted before the command")
                .outcome(Outcome::NotStarted));
        }
    }
    events.emit(Event::CommandStarted {
        host: remote.peer().to_owned(),
        workdir: places.workdir.clone(),
        command: shell::join(&command.shown),
        acknowledged: false,
    });
    let killer = Killer {
        gently: command::kill(places, run, false),
        at_once: command::kill(places, run, true),
    };
    let from = bench.clock.monotonic_ms();
    let (start, pty) = (command::start(places, run), command.pty.as_ref());
    let time = plan.timeout;
    let end = pump(remote, &start, pty, console, &killer, time, bench.clock, events, stop).await;
    timing.command_ms = bench.clock.monotonic_ms() - from;
    let exit = match end? {
        End::Exited(exit) => exit,
        End::Stopped => {
            let what = "interrupted; the command was stopped";
            return Err(KernelError::new(ErrorCode::Cancelled, what));
        }
        End::TimedOut => return Err(plan.out_of_time()),
    };
    events.emit(Event::CommandFinished {
        exit_code: exit.code,
        signal: exit.signal.clone(),
        ms: timing.command_ms,
    });
    Ok(exit)
}

/// Removes what the run left in the control folder.
async fn tidy<P, D: Dialer, C: Clock>(job: &Job<'_, P, D, C>, remote: &D::Remote) {
    let broom = command::tidy(&job.places, &job.plan.run_id);
    tokio::select! {
        _ = capture(remote, &broom, Bytes::new()) => {}
        () = job.bench.clock.sleep(TIDY_LIMIT) => {}
    }
}

/// Puts the command's script and launcher on the box.
async fn store<R: Remote>(
    remote: &R,
    places: &Places,
    run: &RunId,
    command: &Command,
) -> Result<()> {
    if let Action::Script { body, .. } = &command.action {
        put(remote, places, &places.script(run), body.clone()).await?;
    }
    put(remote, places, &places.launcher(run), command::launcher(command, places, run)).await
}

async fn put<R: Remote>(remote: &R, places: &Places, path: &str, body: Vec<u8>) -> Result<()> {
    let not_started = |e: KernelError| e.outcome(Outcome::NotStarted);
    let done = capture(remote, &command::upload(places, path), Bytes::from(body))
        .await
        .map_err(not_started)?;
    if done.code == 0 {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(not_started(
        KernelError::new(ErrorCode::SyncWrite, format!("the box cannot store the command: {said}"))
            .hint("check free space and permissions of the work root on the box"),
    ))
}
