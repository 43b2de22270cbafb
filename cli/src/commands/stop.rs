//! `crabbox stop`: give boxes back, or end runs.

use crabbox_host::Session;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::lease::adopt;
use crabbox_kernel::lease::release::{forget, release, word};
use crabbox_kernel::lease::trail::Trail;
use crabbox_kernel::ports::Provider;
use crabbox_kernel::render::human;
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::{StopView, Stopped};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::ReleaseOutcome;
use crabbox_schemas::plugin::Purpose;

use crate::commands::attach::{RunOnBox, end, end_with_box, last_look};
use crate::context::Context;

/// Give boxes back and forget them, or end runs
///
/// A box that is already gone counts as given back, and a run that is over as ended, so the command is safe to repeat.
/// Ending a run leaves its box alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox stop blue-prawn
  crabbox stop cbx_abcdef123456 silver-crab
  crabbox stop run_0123456789ab")]
pub(crate) struct Args {
    /// Lease ids, slugs, machine names or provider ids; or ids of runs
    #[arg(value_name = "BOX")]
    boxes: Vec<String>,
    /// The same as BOX; with ids of runs, the box they are on
    #[arg(long, value_name = "BOX")]
    id: Vec<String>,
    /// Provider to look at, for a box without a local claim
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Fail when a box does not exist
    #[arg(long)]
    must_exist: bool,
}

/// Stops every named box; the first failure is reported after all were tried.
pub(crate) async fn run(ctx: &Context, args: Args) -> Result<i32> {
    let runs = args.boxes.iter().filter(|name| is_run(name)).count();
    let names: Vec<&String> = match runs {
        0 => args.boxes.iter().chain(&args.id).collect(),
        _ => args.boxes.iter().collect(),
    };
    if names.is_empty() {
        return Err(KernelError::new(ErrorCode::Usage, "no box was named")
            .hint("`crabbox list` shows your boxes"));
    }
    let mut stopped = Vec::new();
    let mut failure = None;
    for name in names {
        let done = if is_run(name) {
            stop_run(ctx, name, args.id.first()).await
        } else {
            stop(ctx, name, &args).await
        };
        match done {
            Ok((one, line)) => {
                if !ctx.global.json {
                    ctx.terminal.err(&line);
                }
                stopped.push(one);
            }
            Err(error) if failure.is_none() => failure = Some(error),
            Err(error) => ctx.terminal.warn(&error.to_string()),
        }
    }
    if ctx.global.json && failure.is_none() {
        ctx.terminal.out_json(&StopView { schema_version: SCHEMA_VERSION, stopped });
    }
    failure.map_or(Ok(0), Err)
}

fn is_run(name: &str) -> bool {
    name.starts_with("run_")
}

/// Ends the command of a run; the line is what people read about it.
async fn stop_run(ctx: &Context, name: &str, on: Option<&String>) -> Result<(Stopped, String)> {
    let which = RunOnBox::new(name, on);
    let (run, outcome) = end(ctx, &which).await?;
    let line = match outcome {
        "stopped" => format!("stopped {}", run.id),
        _ => format!("{} is over already", run.id),
    };
    let stopped = Stopped {
        name: name.to_owned(),
        lease_id: (!run.lease_id.is_empty()).then_some(run.lease_id),
        provider: (!run.provider.is_empty()).then_some(run.provider),
        run_id: Some(run.id),
        outcome: outcome.to_owned(),
    };
    Ok((stopped, line))
}

/// Gives one box back; what people read about it.
pub(crate) async fn give_back(ctx: &Context, name: &str) -> Result<String> {
    let args = Args { boxes: Vec::new(), id: Vec::new(), provider: None, must_exist: false };
    stop(ctx, name, &args).await.map(|(_, line)| line)
}

async fn stop(ctx: &Context, name: &str, args: &Args) -> Result<(Stopped, String)> {
    let provider = ctx.choose_provider(Some(name), args.provider.as_deref())?;
    let session = ctx.open_provider(&provider).await?;
    let done = stop_at(ctx, &session, name, args.must_exist).await;
    session.close().await;
    done
}

async fn stop_at(
    ctx: &Context,
    session: &Session,
    name: &str,
    must_exist: bool,
) -> Result<(Stopped, String)> {
    let dialer = ctx.dialer();
    let bench = ctx.bench(session, &dialer);
    let provider = Some(session.about().provider.clone());
    let claim = ctx.claims().find(name)?;
    match adopt::find(&bench, name, Purpose::Release).await {
        Ok((lease, _)) => {
            let going = last_look(ctx, &lease.lease_id).await;
            let trail = Trail::adopt(&ctx.state.journal(), &lease.lease_id)?;
            let outcome = release(&bench, &lease, trail).await?;
            if outcome != ReleaseOutcome::Retained {
                end_with_box(ctx, going);
            }
            let outcome = word(outcome);
            let line = human::released(&lease, outcome);
            let stopped = Stopped {
                name: name.to_owned(),
                lease_id: Some(lease.lease_id.to_string()),
                provider,
                run_id: None,
                outcome: outcome.to_owned(),
            };
            Ok((stopped, line))
        }
        Err(error) if error.code == ErrorCode::NotFound && !must_exist => {
            if let Some(lease) = claim.as_ref().and_then(|c| c.lease.clone()) {
                let trail = Trail::adopt(&ctx.state.journal(), &lease.lease_id)?;
                forget(&bench, &lease, trail)?;
            } else if let Some(claim) = &claim {
                ctx.claims().remove(&claim.lease_id)?;
            }
            let lease_id = claim.map(|c| c.lease_id.to_string());
            let line = match &lease_id {
                Some(id) => format!("released lease={id} (it was already gone)"),
                None => {
                    let provider = &session.about().provider;
                    format!(
                        "nothing to stop: {provider} has no box {name} of yours (already gone, or misspelt)"
                    )
                }
            };
            let stopped = Stopped {
                name: name.to_owned(),
                lease_id,
                provider,
                run_id: None,
                outcome: word(ReleaseOutcome::AlreadyGone).to_owned(),
            };
            Ok((stopped, line))
        }
        Err(error) => Err(error),
    }
}
