//! The work at a provider that runs commands itself: hand over tree and command, relay what it says.

use std::cell::Cell;
use std::ffi::OsString;
use std::time::Duration;

use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::run::{SyncPhase, Timing};
use crabbox_tree::hex;
use tempfile::NamedTempFile;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::lease::lock::lock;
use crate::lease::{Bench, Held};
use crate::plan::{Plan, Supply, Sync};
use crate::ports::{
    Clock, DelegatedRun, Dialer, EventSink, Exit, Provider, Stop, Urgency, Workspace,
};
use crate::run::Ended;
use crate::run::command::{Action, Command};
use crate::shell;
use crate::sync::archive::{Packing, tar_file};

/// A provider with this power wants the archive of the tree compressed.
const GZIP: &str = "workspace-gzip";
/// A provider with this power sends the checkout itself, with a tool of its own.
pub const OWN_SYNC: &str = "own-sync";
/// The phase whose end says that the tree is in place; see `docs/protocol.md`.
const IN_PLACE: &str = "workspace";
/// What it says when the box held the tree already.
const UNCHANGED: &str = "unchanged";
/// Runs a line of shell as on any other box: by bash where there is one, else by sh.
const BY_BASH: &str =
    "if command -v bash >/dev/null 2>&1; then exec bash -c \"$1\"; else exec sh -c \"$1\"; fi";

/// What the command line can ask for and no provider that runs commands itself does. Looked at before a box is
/// asked for: an option that cannot be honoured costs nothing.
pub(super) fn check(plan: &Plan, provider: &str, events: &mut dyn EventSink) -> Result<()> {
    let command = plan.command.as_ref();
    let script = |c: &Command| matches!(c.action, Action::Script { .. });
    let asked = [
        ("--sync-only", command.is_none(), "it takes the tree only together with a command"),
        ("--detach", plan.detach, "nobody would see the command's end"),
        ("--isolate", plan.isolate, "the box has one work tree"),
        ("--pty", command.is_some_and(|c| c.pty.is_some()), "its commands have no terminal"),
        ("--script", command.is_some_and(script), "it takes no files but the tree"),
        ("--download", !plan.downloads.is_empty(), "it hands back no files"),
        ("piped standard input", plan.input == Supply::Bytes, "its commands read nothing"),
    ];
    let of_sync: &[&str] = match &plan.sync {
        Sync::Own { asked } => asked,
        Sync::Off | Sync::Tree { .. } => &[],
    };
    let own = matches!(plan.sync, Sync::Own { .. });
    let variables = command.is_some_and(|command| !command.env.is_empty());
    let of_sync = of_sync.iter().map(|option| (*option, true, "its own tool sends the checkout"));
    let of_env = (own && variables).then_some((
        "--env, --env-file or env.allow",
        true,
        "its own tool hands on no variables",
    ));
    let mut asked = asked.into_iter().chain(of_sync).chain(of_env);
    if let Some((option, _, why)) = asked.find(|(_, asked, _)| *asked) {
        let what = format!("{provider} runs commands itself and cannot do {option}: {why}");
        return Err(KernelError::new(ErrorCode::Unsupported, what)
            .hint("leave it out (`</dev/null` for input), or choose a provider whose boxes are reached over SSH")
            .outcome(Outcome::NotStarted)
            .at("plan"));
    }
    if plan.input == Supply::Silent {
        let message = format!(
            "{provider} runs commands without input: what comes through the pipe is not read"
        );
        events.emit(Event::Warning { message });
    }
    if !plan.junit.is_empty() {
        let message = format!("{provider} hands back no files: JUnit reports stay on the box");
        events.emit(Event::Warning { message });
    }
    command.map_or(Ok(()), |command| words(command).and(env(command)).map(drop))
}

/// Runs the command at the provider. Runs from this machine take turns.
pub(super) async fn work<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    plan: &Plan,
    held: &Held,
    timing: &mut Timing,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Ended> {
    let Some(command) = &plan.command else { return Ok(Ended::Synced) };
    let (state, id) = (bench.state, &held.lease.lease_id);
    let turn = lock(state, id, &plan.owner, plan.patience, bench.clock, events, stop).await;
    let _turn = turn.map_err(|e| e.at("lock"))?;
    let gzip = bench.provider.about().features.iter().any(|feature| feature == GZIP);
    let packing = if gzip { Packing::Gzip } else { Packing::Plain };
    let packed = match &plan.sync {
        Sync::Tree { .. } => Some(pack(bench.clock, plan, held, packing, timing, events)?),
        Sync::Off => None,
        Sync::Own { .. } => {
            let (name, reason) = ("delegated".to_owned(), None);
            timing.sync_phases.push(SyncPhase { name, ms: None, skipped: true, reason });
            None
        }
    };
    let run = DelegatedRun {
        run_id: plan.run_id.to_string(),
        lease: held.lease.clone(),
        command: words(command)?,
        env: env(command)?,
        workspace: packed.as_ref().map(|(_, workspace)| workspace.clone()),
        timeout_secs: plan.timeout.map(|t| t.as_secs().max(1)),
    };
    let began = Cell::new(None);
    let shown = shell::join(&command.shown);
    let mut relay =
        Relay::new(bench.clock, &held.provider, shown, packed.is_some(), &began, timing, events);
    relay.sent();
    let done = watched(bench, plan, &run, &mut relay, &began, stop).await;
    finish(relay, held, done)
}

/// Tells the end of the command.
fn finish<C: Clock>(
    mut relay: Relay<'_, C>,
    held: &Held,
    done: Result<crabbox_schemas::plugin::RunStartResult>,
) -> Result<Ended> {
    let done = done.map_err(|e| e.at("command"))?;
    relay.started();
    relay.timing.command_ms = relay.since_start();
    if !(0..=255).contains(&done.exit_code) {
        let what = format!("{} gave an impossible exit status: {}", held.provider, done.exit_code);
        return Err(KernelError::new(ErrorCode::PluginFault, what)
            .outcome(Outcome::Completed)
            .at("command"));
    }
    relay.events.emit(Event::CommandFinished {
        exit_code: done.exit_code,
        signal: done.signal.clone(),
        ms: relay.timing.command_ms,
    });
    Ok(Ended::Exited(Exit { code: done.exit_code, signal: done.signal }))
}

/// Writes the archive of the tree, and says what is sent.
fn pack<C: Clock>(
    clock: &C,
    plan: &Plan,
    held: &Held,
    packing: Packing,
    timing: &mut Timing,
    events: &mut dyn EventSink,
) -> Result<(NamedTempFile, Workspace)> {
    let Sync::Tree { tree, rules } = &plan.sync else {
        return Err(KernelError::new(ErrorCode::Internal, "there is no tree to pack"));
    };
    events.emit(Event::SyncStarted {
        root: tree.root.display().to_string(),
        host: held.provider.clone(),
        workdir: held.lease.slug.clone(),
        files: tree.files(),
        bytes: tree.bytes(),
    });
    let from = clock.monotonic_ms();
    let (file, exact) = tar_file(tree, packing).map_err(|e| e.at("sync"))?;
    timing.sync_ms = clock.monotonic_ms() - from;
    timing.sync_phases.push(phase("archive", timing.sync_ms));
    // What changed while it was read has no name, and nothing is trusted that the user does not trust.
    let named = exact && !rules.checksum && !rules.full_resync;
    let workspace = Workspace {
        archive: file.path().to_owned(),
        digest: named.then(|| hex(&tree.digest)),
        keeps: !rules.delete,
        limit: rules.timeout,
    };
    Ok((file, workspace))
}

/// Runs it, and has it stopped when its time is over.
async fn watched<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    plan: &Plan,
    run: &DelegatedRun,
    relay: &mut Relay<'_, C>,
    began: &Cell<Option<u64>>,
    stop: &Stop,
) -> Result<crabbox_schemas::plugin::RunStartResult> {
    let (wish, passed_on) = Stop::new();
    let mut running = std::pin::pin!(bench.provider.run(run, relay, &passed_on));
    let (mut next, mut late) = (Urgency::Gentle, false);
    let mut patience = plan.timeout.unwrap_or_default();
    loop {
        tokio::select! {
            done = &mut running => {
                return if late { Err(plan.out_of_time().outcome(Outcome::Completed)) } else { done };
            }
            () = stop.reaches(next), if next <= Urgency::Now => {
                wish.send_replace(stop.urgency());
                if stop.urgency() == Urgency::Now {
                    return running.await;
                }
                next = Urgency::Now;
            }
            () = bench.clock.sleep(patience), if plan.timeout.is_some() && !late => {
                let limit = plan.timeout.unwrap_or_default();
                let ran = began.get().map_or(0, |from| bench.clock.monotonic_ms() - from);
                patience = limit.saturating_sub(Duration::from_millis(ran));
                late = patience.is_zero();
                if late {
                    wish.send_replace(Urgency::Gentle);
                }
            }
        }
    }
}

/// Passes events on, and notes when the tree was in place and the command began.
struct Relay<'a, C> {
    clock: &'a C,
    provider: &'a str,
    command: String,
    /// A tree is on its way.
    syncing: bool,
    /// The step of the sync that is under way, and when it and the whole began.
    step: Option<(String, u64)>,
    from: u64,
    began: &'a Cell<Option<u64>>,
    timing: &'a mut Timing,
    events: &'a mut dyn EventSink,
}

impl<'a, C: Clock> Relay<'a, C> {
    fn new(
        clock: &'a C,
        provider: &'a str,
        command: String,
        syncing: bool,
        began: &'a Cell<Option<u64>>,
        timing: &'a mut Timing,
        events: &'a mut dyn EventSink,
    ) -> Self {
        let from = clock.monotonic_ms();
        Self { clock, provider, command, syncing, step: None, from, began, timing, events }
    }

    /// From here on the command may start. Without a tree nothing else will tell when.
    fn sent(&mut self) {
        self.events.emit(Event::CommandSent);
        if !self.syncing {
            self.started();
        }
    }

    fn started(&mut self) {
        if self.began.get().is_some() {
            return;
        }
        self.began.set(Some(self.clock.monotonic_ms()));
        self.events.emit(Event::CommandStarted {
            host: self.provider.to_owned(),
            workdir: String::new(),
            command: self.command.clone(),
            acknowledged: false,
        });
    }

    fn since_start(&self) -> u64 {
        self.clock.monotonic_ms() - self.began.get().unwrap_or(self.from)
    }

    /// A step of the sync began; the one before has ended.
    fn step(&mut self, name: Option<&str>) {
        let now = self.clock.monotonic_ms();
        if let Some((before, since)) = self.step.take_if(|(before, _)| name != Some(before)) {
            self.timing.sync_phases.push(phase(&before, now - since));
        }
        if let (Some(name), None) = (name, &self.step) {
            self.step = Some((name.to_owned(), now));
        }
    }

    fn in_place(&mut self, skipped: bool) {
        self.step(None);
        self.syncing = false;
        self.timing.sync_ms += self.clock.monotonic_ms() - self.from;
        self.timing.sync_skipped = skipped;
        self.events.emit(Event::SyncFinished {
            ms: self.timing.sync_ms,
            skipped,
            sent_files: 0,
            sent_bytes: 0,
            deleted: 0,
            drifted: 0,
            phases: self.timing.sync_phases.clone(),
        });
        self.started();
    }
}

impl<C: Clock> EventSink for Relay<'_, C> {
    fn emit(&mut self, event: Event) {
        match &event {
            Event::Progress { phase, done, total, message, .. } if self.syncing => {
                if phase != IN_PLACE {
                    self.step(Some(phase));
                } else if done.is_some() && done == total {
                    return self.in_place(message.as_deref() == Some(UNCHANGED));
                }
            }
            Event::Output { .. } => self.started(),
            _ => {}
        }
        self.events.emit(event);
    }
}

fn phase(name: &str, ms: u64) -> SyncPhase {
    SyncPhase { name: name.to_owned(), ms: Some(ms), skipped: false, reason: None }
}

/// The command, passed exactly.
fn words(command: &Command) -> Result<Vec<String>> {
    match &command.action {
        Action::Exec(words) => words.iter().map(utf8).collect(),
        Action::Shell(text) => Ok(["sh", "-c", BY_BASH, "sh"]
            .map(str::to_owned)
            .into_iter()
            .chain([utf8(text)?])
            .collect()),
        Action::Script { .. } => Err(KernelError::new(
            ErrorCode::Unsupported,
            "this provider cannot run an uploaded script",
        )
        .at("plan")),
    }
}

fn env(command: &Command) -> Result<std::collections::BTreeMap<String, String>> {
    command.env.iter().map(|(name, value)| Ok((name.clone(), utf8(value)?))).collect()
}

fn utf8(text: &OsString) -> Result<String> {
    text.to_str().map(str::to_owned).ok_or_else(|| {
        KernelError::new(
            ErrorCode::Unsupported,
            format!("this provider takes only UTF-8 text, not {text:?}"),
        )
        .at("plan")
    })
}
