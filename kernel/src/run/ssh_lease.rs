//! The work on a box we connect to: ready, sync, command, evidence.

use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::ids::RunId;
use crabbox_schemas::lease::Lease;
use crabbox_schemas::plugin::Purpose;
use crabbox_schemas::run::Timing;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::lease::lock::lock;
use crate::lease::{Bench, Held};
use crate::plan::{Plan, Sync};
use crate::ports::{Clock, Dialer, EventSink, Exit, Provider, Query, Remote, Stop, Urgency};
use crate::run::collect;
use crate::run::command::{self, Action, Command, Places};
use crate::run::process::{Console, End, Killer, capture, pump};
use crate::run::reach::{Reached, reach};
use crate::shell;
use crate::sync::push::{PushSpec, push};

/// How long evidence may take to come back, and the last broom.
const COLLECT_LIMIT: Duration = Duration::from_secs(30 * 60);
const TIDY_LIMIT: Duration = Duration::from_secs(2);

/// Connects, sends the tree, runs the command, brings evidence back. `None` when there was no command.
pub(super) async fn work<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    plan: &Plan,
    held: &Held,
    console: &mut Console,
    timing: &mut Timing,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Option<Exit>> {
    let owner = format!("{} (process {})", plan.run_id, std::process::id());
    let _lock =
        lock(bench.state, &held.lease.lease_id, &owner, plan.patience, bench.clock, events, stop)
            .await
            .map_err(|e| e.at("lock"))?;
    let places = places(plan, &held.lease)?;
    timing.workdir = Some(places.workdir.clone());
    let from = bench.clock.monotonic_ms();
    let Reached { remote, lease } = reach(bench, held, events, stop).await?;
    timing.bootstrap_ms = bench.clock.monotonic_ms() - from;
    let synced = sync(bench, plan, &places, &remote, timing, events, stop).await;
    if let Err(error) = synced {
        let error = explain(bench, &lease, error).await;
        return Err(KernelError { outcome: Some(Outcome::NotStarted), ..error.at("sync") });
    }
    let Some(command) = &plan.command else {
        remote.close().await;
        return Ok(None);
    };
    let exit =
        execute(bench, plan, held, command, &places, &remote, console, timing, events, stop).await;
    if !matches!(&exit, Err(e) if e.code == ErrorCode::ConnectionLost) {
        bring_back(bench.clock, plan, &places, &remote, events, stop).await;
        remote.close().await;
    }
    match exit {
        Ok(exit) => Ok(Some(exit)),
        Err(error) => Err(explain(bench, &lease, error).await.at("command")),
    }
}

/// Why the connection broke, when the provider knows: the lease has ended.
async fn explain<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    lease: &Lease,
    error: KernelError,
) -> KernelError {
    if error.code != ErrorCode::ConnectionLost {
        return error;
    }
    let id = lease.lease_id.to_string();
    let query =
        Query { id, known: Some(lease.clone()), resources: Vec::new(), purpose: Purpose::Status };
    match bench.provider.resolve(&query).await {
        Ok(None) => KernelError {
            outcome: error.outcome,
            ..KernelError::new(
                ErrorCode::LeaseExpired,
                format!("lease {} ended while it was in use", lease.lease_id),
            )
            .because(&error)
            .hint("it was stopped, or its --ttl or --idle-timeout ran out; lease a new box")
        },
        _ => error,
    }
}

fn places(plan: &Plan, lease: &Lease) -> Result<Places> {
    let root = lease.work_root.as_deref().unwrap_or("/work/crabbox");
    if !root.starts_with('/') {
        return Err(KernelError::new(
            ErrorCode::Config,
            format!("the work root is not an absolute path: {root}"),
        )
        .at("plan"));
    }
    Ok(Places::new(root, lease.lease_id.as_str(), &plan.repo_name))
}

async fn sync<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    plan: &Plan,
    places: &Places,
    remote: &D::Remote,
    timing: &mut Timing,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<()> {
    let Sync::Tree { tree, rules } = &plan.sync else { return Ok(()) };
    events.emit(Event::SyncStarted {
        root: tree.root.display().to_string(),
        host: remote.peer().to_owned(),
        workdir: places.workdir.clone(),
        files: tree.files(),
        bytes: tree.bytes(),
    });
    let spec = PushSpec { workdir: places.workdir.clone(), rules: rules.clone() };
    let from = bench.clock.monotonic_ms();
    let pushed = push(remote, tree, &spec, events, stop, bench.clock).await?;
    timing.sync_ms = bench.clock.monotonic_ms() - from;
    timing.sync_skipped = pushed.skipped;
    timing.sync_phases.clone_from(&pushed.phases);
    events.emit(Event::SyncFinished {
        ms: timing.sync_ms,
        skipped: pushed.skipped,
        sent_files: pushed.sent_files,
        sent_bytes: pushed.sent_bytes,
        deleted: pushed.deleted,
        drifted: pushed.drifted,
        phases: pushed.phases,
    });
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the one place where every noun of a run meets")]
async fn execute<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    plan: &Plan,
    held: &Held,
    command: &Command,
    places: &Places,
    remote: &D::Remote,
    console: &mut Console,
    timing: &mut Timing,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Exit> {
    let run = &plan.run_id;
    let command = with_identity(command, held, plan);
    tokio::select! {
        stored = store(remote, places, run, &command) => stored?,
        () = stop.reaches(Urgency::Gentle) => {
            return Err(KernelError::new(ErrorCode::Cancelled, "interrupted before the command")
                .outcome(Outcome::NotStarted));
        }
    }
    events.emit(Event::CommandStarted {
        host: remote.peer().to_owned(),
        workdir: places.workdir.clone(),
        command: shell::join(&command.shown),
    });
    let killer = Killer {
        gently: command::kill(places, run, false),
        at_once: command::kill(places, run, true),
    };
    let from = bench.clock.monotonic_ms();
    let start = command::start(places, run);
    let end = pump(
        remote,
        &start,
        command.pty.as_ref(),
        console,
        &killer,
        plan.timeout,
        bench.clock,
        events,
        stop,
    )
    .await;
    timing.command_ms = bench.clock.monotonic_ms() - from;
    let exit = match end? {
        End::Exited(exit) => exit,
        End::Stopped => {
            return Err(KernelError::new(
                ErrorCode::Cancelled,
                "interrupted; the command was stopped",
            ));
        }
        End::TimedOut => {
            let limit = crate::time::format_duration(plan.timeout.unwrap_or_default());
            return Err(KernelError::new(
                ErrorCode::CommandTimeout,
                format!("the command was stopped after {limit}"),
            )
            .hint("a longer --timeout gives it more time"));
        }
    };
    events.emit(Event::CommandFinished {
        exit_code: exit.code,
        signal: exit.signal.clone(),
        ms: timing.command_ms,
    });
    Ok(exit)
}

/// The command with the names of its lease and run in its environment.
fn with_identity(command: &Command, held: &Held, plan: &Plan) -> Command {
    let mut command = command.clone();
    let names = [
        ("CRABBOX_LEASE_ID", held.lease.lease_id.to_string()),
        ("CRABBOX_RUN_ID", plan.run_id.to_string()),
        ("CRABBOX_SLUG", held.lease.slug.clone()),
    ];
    command.env.extend(names.map(|(name, value)| (name.to_owned(), value.into())));
    command
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

/// Brings evidence back and tidies up, unless the user is in a hurry.
async fn bring_back<R: Remote>(
    clock: &impl Clock,
    plan: &Plan,
    places: &Places,
    remote: &R,
    events: &mut dyn EventSink,
    stop: &Stop,
) {
    let missing = tokio::select! {
        biased;
        () = stop.reaches(Urgency::Gentle) => Some("interrupted"),
        () = clock.sleep(COLLECT_LIMIT) => Some("it took too long"),
        () = collect(plan, places, remote, events) => None,
    };
    if let Some(why) = missing.filter(|_| !(plan.junit.is_empty() && plan.downloads.is_empty())) {
        let message = format!("test reports and downloads may be missing: {why}");
        events.emit(Event::Warning { message });
    }
    let tidy = command::tidy(places, &plan.run_id);
    tokio::select! {
        _ = capture(remote, &tidy, Bytes::new()) => {}
        () = clock.sleep(TIDY_LIMIT) => {}
    }
}

/// Test reports and downloads, also after a failed command; what cannot be had is a warning.
async fn collect<R: Remote>(plan: &Plan, places: &Places, remote: &R, events: &mut dyn EventSink) {
    if let Err(error) = collect::junit(remote, &places.workdir, &plan.junit, events).await {
        events.emit(Event::Warning { message: error.to_string() });
    }
    for wanted in &plan.downloads {
        let told = match collect::download(remote, &places.workdir, wanted).await {
            Ok(size) => Event::Debug {
                message: format!("downloaded {} ({size} bytes)", wanted.local.display()),
            },
            Err(error) => Event::Warning { message: error.to_string() },
        };
        events.emit(told);
    }
}
