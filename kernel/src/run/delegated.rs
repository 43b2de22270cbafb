//! The work at a provider that runs commands itself: hand over tree and command, relay what it says.

use std::ffi::OsString;

use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::run::Timing;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::lease::{Bench, Held};
use crate::plan::{Plan, Sync};
use crate::ports::{Clock, DelegatedRun, Dialer, EventSink, Exit, Provider, Stop};
use crate::run::Ended;
use crate::run::command::Action;
use crate::shell;

/// Runs the command at the provider.
pub(super) async fn work<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    plan: &Plan,
    held: &Held,
    timing: &mut Timing,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Ended> {
    if plan.detach || plan.isolate {
        let what =
            "this provider runs commands itself: neither --detach nor --isolate are possible";
        return Err(KernelError::new(ErrorCode::Unsupported, what).at("plan"));
    }
    let Some(command) = &plan.command else {
        return Err(KernelError::new(
            ErrorCode::Unsupported,
            "this provider syncs only as part of a run",
        )
        .hint("give a command, or choose a provider with SSH access")
        .at("sync"));
    };
    let words = match &command.action {
        Action::Exec(words) => words.iter().map(utf8).collect::<Result<Vec<_>>>()?,
        Action::Shell(text) => vec!["sh".to_owned(), "-c".to_owned(), utf8(text)?],
        Action::Script { .. } => {
            return Err(KernelError::new(
                ErrorCode::Unsupported,
                "this provider cannot run an uploaded script",
            )
            .at("plan"));
        }
    };
    let archive = match &plan.sync {
        Sync::Tree { tree, .. } => {
            let from = bench.clock.monotonic_ms();
            let file = crate::sync::archive::tar_file(tree).map_err(|e| e.at("sync"))?;
            timing.sync_ms = bench.clock.monotonic_ms() - from;
            Some(file)
        }
        Sync::Off => None,
    };
    let env = command
        .env
        .iter()
        .map(|(name, value)| Ok((name.clone(), utf8(value)?)))
        .collect::<Result<_>>()?;
    let run = DelegatedRun {
        run_id: plan.run_id.to_string(),
        lease: held.lease.clone(),
        command: words,
        env,
        workspace: archive.as_ref().map(|file| file.path().to_owned()),
        timeout_secs: plan.timeout.map(|t| t.as_secs().max(1)),
    };
    events.emit(Event::CommandStarted {
        host: held.provider.clone(),
        workdir: String::new(),
        command: shell::join(&command.shown),
        acknowledged: false,
    });
    let from = bench.clock.monotonic_ms();
    let done = bench.provider.run(&run, events, stop).await.map_err(|e| e.at("command"))?;
    timing.command_ms = bench.clock.monotonic_ms() - from;
    if !(0..=255).contains(&done.exit_code) {
        let what = format!("{} gave an impossible exit status: {}", held.provider, done.exit_code);
        return Err(KernelError::new(ErrorCode::PluginFault, what)
            .outcome(Outcome::Completed)
            .at("command"));
    }
    events.emit(Event::CommandFinished {
        exit_code: done.exit_code,
        signal: done.signal.clone(),
        ms: timing.command_ms,
    });
    Ok(Ended::Exited(Exit { code: done.exit_code, signal: done.signal }))
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
