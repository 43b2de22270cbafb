//! The work on a box we connect to: one run, top to bottom.
//!
//! Reach the box, find or bring the helper, and let it take the tree and the command in one flight. Where no helper
//! can run, sh and tar do the same in more steps and without surviving a broken connection.

use std::time::Duration;

use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::lease::Lease;
use crabbox_schemas::run::Timing;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::lease::{Ask, Bench, Held};
use crate::plan::{Plan, Sync};
use crate::ports::{Clock, Dialer, EventSink, Provider, Remote, Stop, Urgency};
use crate::run::command::{Command, Places};
use crate::run::line::Way;
use crate::run::process::Console;
use crate::run::reconnect::Reconnect;
use crate::run::{Ended, by_helper, by_shell};
use crate::sync::LocalTree;
use crate::sync::commits::Commits;
use crate::sync::flight;
use crate::sync::push::Pushed;

/// What a command is told where the box was asked for with these; the bootstrap puts it there.
const FOUND: [(&str, &str, &str); 5] = [
    ("browser", "CRABBOX_BROWSER", "1"),
    ("browser", "BROWSER", "/usr/local/bin/crabbox-browser"),
    ("browser", "CHROME_BIN", "/usr/local/bin/crabbox-browser"),
    ("desktop", "CRABBOX_DESKTOP", "1"),
    ("desktop", "DISPLAY", ":99"),
];

/// What stays the same in a run, from the first connection to the last.
pub(super) struct Job<'a, P, D, C> {
    pub(super) bench: &'a Bench<'a, P, D, C>,
    pub(super) plan: &'a Plan,
    pub(super) held: &'a Held,
    pub(super) places: Places,
}

/// Connects, sends the tree, runs the command, brings evidence back.
pub(super) async fn work<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    plan: &Plan,
    held: &Held,
    console: &mut Console,
    timing: &mut Timing,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Ended> {
    let labels = &held.lease.labels;
    let is = |label: &str, value: &str| labels.get(label).is_some_and(|said| said == value);
    if is("target", "windows") && !is("windows_mode", "wsl2") {
        return Err(native_windows());
    }
    let job = Job { bench, plan, held, places: places(plan, &held.lease)? };
    timing.workdir = Some(job.places.workdir.clone());
    let from = bench.clock.monotonic_ms();
    let mut reconnect = Reconnect::new(plan.reconnect);
    let way = reconnect.first(bench, held, events, stop).await?;
    timing.bootstrap_ms = bench.clock.monotonic_ms() - from;
    match way {
        Way::Helper(line) => {
            by_helper::work(&job, line, reconnect, console, timing, events, stop).await
        }
        Way::Shell { remote, lease, why } => {
            refuse_without_helper(plan, &why)?;
            by_shell::work(&job, remote, &lease, console, timing, events, stop).await
        }
    }
}

/// Refuses, before anything is asked for, a box where the command could not run.
pub(super) fn check(ask: &Ask) -> Result<()> {
    match ask {
        Ask::New(new) if new.request.is_native_windows() => Err(native_windows()),
        _ => Ok(()),
    }
}

fn native_windows() -> KernelError {
    let what = "crabbox runs no commands in Windows itself, which has no POSIX shell";
    KernelError::new(ErrorCode::Unsupported, what)
        .hint("--windows-mode wsl2 runs them in the Linux inside it, where the provider has that; `crabbox warmup` and `crabbox ssh` need no shell")
        .outcome(Outcome::NotStarted)
        .at("plan")
}

fn places(plan: &Plan, lease: &Lease) -> Result<Places> {
    Ok(Places::new(work_root(lease)?, lease.lease_id.as_str(), &plan.repo_name))
}

/// The folder of a box below which leases work.
pub fn work_root(lease: &Lease) -> Result<&str> {
    let root = lease.work_root.as_deref().unwrap_or("/work/crabbox");
    if !root.starts_with('/') {
        let what = format!("the work root is not an absolute path: {root}");
        return Err(KernelError::new(ErrorCode::Config, what).at("plan"));
    }
    Ok(root)
}

/// What only a helper can do is refused before anything is sent.
fn refuse_without_helper(plan: &Plan, why: &str) -> Result<()> {
    let wish = match (plan.detach, plan.isolate) {
        (true, _) => "--detach",
        (_, true) => "--isolate",
        _ => return Ok(()),
    };
    Err(KernelError::new(
        ErrorCode::Unsupported,
        format!("{wish} needs crabbox's helper on the box"),
    )
    .hint(format!("none runs there: {why}"))
    .at("connect"))
}

/// Says what is about to be sent.
pub(super) fn sync_starts(
    tree: &LocalTree,
    host: &str,
    places: &Places,
    events: &mut dyn EventSink,
) {
    events.emit(Event::SyncStarted {
        root: tree.root.display().to_string(),
        host: host.to_owned(),
        workdir: places.workdir.clone(),
        files: tree.files(),
        bytes: tree.bytes(),
    });
}

/// Says what was sent, and notes how long it took.
pub(super) fn sync_ended(pushed: Pushed, ms: u64, timing: &mut Timing, events: &mut dyn EventSink) {
    timing.sync_ms = ms;
    timing.sync_skipped = pushed.skipped;
    timing.sync_phases.clone_from(&pushed.phases);
    events.emit(Event::SyncFinished {
        ms,
        skipped: pushed.skipped,
        sent_files: pushed.sent_files,
        sent_bytes: pushed.sent_bytes,
        deleted: pushed.deleted,
        drifted: pushed.drifted,
        phases: pushed.phases,
    });
}

impl<P, D, C: Clock> Job<'_, P, D, C> {
    /// Brings the commits to the box, if it shall have any, in the time a sync may take.
    pub(super) async fn deliver<R: Remote>(&self, remote: &R, stop: &Stop) -> Result<()> {
        let (Some((tree, _)), Some(commits)) = (self.tree(), self.commits()) else {
            return Ok(());
        };
        let store = self.commit_store().unwrap_or_default();
        self.in_time(commits.deliver(remote, &tree.root, &store), stop).await.map(drop)
    }

    /// Bounds a part of the sync by `sync.timeout`, and by the user's patience.
    pub(super) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T>>,
        stop: &Stop,
    ) -> Result<T> {
        let limit = self.tree().map_or(Duration::ZERO, |(_, rules)| rules.timeout);
        tokio::select! {
            biased;
            () = stop.reaches(Urgency::Gentle) => Err(flight::stopped()),
            () = self.bench.clock.sleep(limit) => Err(flight::late(limit)),
            done = work => done,
        }
    }
}

impl<P, D, C> Job<'_, P, D, C> {
    /// The tree to send, if one is to be sent.
    pub(super) fn tree(&self) -> Option<(&LocalTree, &crate::sync::SyncRules)> {
        match &self.plan.sync {
            Sync::Tree { tree, rules } => Some((tree, rules)),
            Sync::Off | Sync::Own { .. } => None,
        }
    }

    /// With `sync.baseRef` the tree is a git checkout when the command sees it.
    pub(super) fn commits(&self) -> Option<&Commits> {
        self.plan.commits.as_ref().ok()?.as_ref()
    }

    /// The script that makes it one.
    pub(super) fn checkout(&self) -> Option<String> {
        Some(self.commits()?.checkout(&self.commit_store()?))
    }

    /// Where the box keeps commits, beside the trees that show them.
    fn commit_store(&self) -> Option<String> {
        Some(self.commits()?.store(&self.places.base, &self.plan.repo_name))
    }

    /// The command with the names of its lease and run in its environment.
    pub(super) fn command(&self) -> Option<Command> {
        let mut command = self.plan.command.clone()?;
        let names = [
            ("CRABBOX_LEASE_ID", self.held.lease.lease_id.to_string()),
            ("CRABBOX_RUN_ID", self.plan.run_id.to_string()),
            ("CRABBOX_SLUG", self.held.lease.slug.clone()),
        ];
        command.env.extend(names.map(|(name, value)| (name.to_owned(), value.into())));
        let labels = &self.held.lease.labels;
        let has = |feature: &str| labels.get(feature).is_some_and(|asked| asked == "true");
        let found = FOUND.iter().filter(|(feature, ..)| has(feature));
        command.env.extend(found.map(|(_, name, value)| ((*name).to_owned(), (*value).into())));
        Some(command)
    }
}
