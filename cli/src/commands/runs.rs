//! `history`, `events`, `logs` and `results`: what was recorded of runs, with no service behind it.

use std::io::Read;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Stream;
use crabbox_kernel::render::{human, text};
use crabbox_kernel::run::record::Filter;
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::LogsView;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::event::RunEvent;
use crabbox_schemas::ids::RunId;
use crabbox_schemas::run::RunRecord;

use crate::commands::attach::{RunOnBox, Sight, Until, see};
use crate::context::Context;

/// List recorded runs, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox history --limit 5
  crabbox history --lease blue-prawn --state failed --json")]
pub(crate) struct HistoryArgs {
    /// Only runs on this lease
    #[arg(long, value_name = "BOX")]
    lease: Option<String>,
    /// Only runs in this state
    #[arg(long, value_name = "STATE", value_parser = ["running", "succeeded", "failed", "lost"])]
    state: Option<String>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

/// Which recorded run.
#[derive(Debug, clap::Args)]
pub(crate) struct WhichRun {
    /// The run; the newest one when left out
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// The same as RUN
    #[arg(long, value_name = "RUN", conflicts_with = "run")]
    id: Option<String>,
}

/// Print the events of a run
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox events --after 10
  crabbox events run_0123456789ab --json")]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    which: WhichRun,
    /// Only events after this sequence number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 500)]
    limit: usize,
}

/// Print what a run's command printed
///
/// Standard output goes to stdout and standard error to stderr, byte for byte. Of a run that goes on by itself, the box
/// is asked for what is new.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox logs
  crabbox logs run_0123456789ab --follow")]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    which: RunOnBox,
    /// Go on until the run ends
    #[arg(long, short)]
    follow: bool,
}

/// Print the test results of a run
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  crabbox results --json")]
pub(crate) struct ResultsArgs {
    #[command(flatten)]
    which: WhichRun,
}

impl WhichRun {
    fn find(&self, ctx: &Context) -> Result<RunRecord> {
        find(ctx, self.run.as_deref().or(self.id.as_deref()))
    }
}

/// The run of this name; the newest one of this checkout, or of all, when there is none.
pub(crate) fn find(ctx: &Context, name: Option<&str>) -> Result<RunRecord> {
    let store = ctx.runs();
    let mine = |run: &RunRecord| run.repo_root == ctx.repo_root();
    match name {
        Some(name) => store.find(name),
        None => match store.list(&Filter::default()).into_iter().find(mine) {
            Some(run) => Ok(run),
            None => store.find("latest"),
        },
    }
}

/// Lists runs.
pub(crate) fn history(ctx: &Context, args: &HistoryArgs) -> Result<i32> {
    let filter =
        Filter { lease: args.lease.clone(), state: args.state.clone(), limit: Some(args.limit) };
    let runs = ctx.runs().list(&filter);
    if ctx.global.json {
        ctx.terminal.out_json(&runs);
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = runs
        .into_iter()
        .map(|r| {
            let exit = r.exit_code.map(|c| c.to_string()).unwrap_or_default();
            vec![r.id, r.state, exit, r.slug, r.provider, r.started_at, r.command.join(" ")]
        })
        .collect();
    ctx.terminal.table(&["RUN", "STATE", "EXIT", "SLUG", "PROVIDER", "STARTED", "COMMAND"], &rows);
    Ok(0)
}

/// Prints events.
pub(crate) fn events(ctx: &Context, args: &EventsArgs) -> Result<i32> {
    let run = args.which.find(ctx)?;
    let events = ctx.runs().events(&id_of(&run)?, args.after, args.limit)?;
    if ctx.global.json {
        ctx.terminal.out_json(&events);
        return Ok(0);
    }
    for event in events {
        ctx.terminal.out(&recorded(&event));
    }
    Ok(0)
}

/// Prints output.
pub(crate) async fn logs(ctx: &Context, args: &LogsArgs) -> Result<i32> {
    let sight = if ctx.global.json { Sight::Silent } else { Sight::Output };
    let until = if args.follow { Until::End } else { Until::Now };
    let run = see(ctx, &args.which, sight, until).await?;
    if ctx.global.json {
        let log = read_log(ctx, &run)?;
        ctx.terminal.out_json(&LogsView { schema_version: SCHEMA_VERSION, run, log });
    }
    Ok(0)
}

pub(crate) fn id_of(run: &RunRecord) -> Result<RunId> {
    RunId::parse(&run.id).ok_or_else(|| {
        KernelError::new(ErrorCode::State, format!("the record of run {:?} is damaged", run.id))
    })
}

/// Everything that was kept of a run's output, standard output first.
fn read_log(ctx: &Context, run: &RunRecord) -> Result<String> {
    let mut log = Vec::new();
    for stream in [Stream::Stdout, Stream::Stderr] {
        ctx.runs().output(&id_of(run)?, stream)?.read_to_end(&mut log).map_err(|e| {
            KernelError::new(ErrorCode::State, "cannot read the run's output").because(&e)
        })?;
    }
    Ok(String::from_utf8_lossy(&log).into_owned())
}

/// One event for people.
fn recorded(event: &RunEvent) -> String {
    let message = event.message.as_deref().map(text::plain).unwrap_or_default();
    format!("{:>5} {} {} {message}", event.seq, event.created_at, event.kind).trim_end().to_owned()
}

/// Prints test results.
pub(crate) fn results(ctx: &Context, args: &ResultsArgs) -> Result<i32> {
    let run = args.which.find(ctx)?;
    let Some(results) = run.results else {
        return Err(KernelError::new(
            ErrorCode::NotFound,
            format!("run {} has no test results", run.id),
        )
        .hint("pass --junit PATTERN to `crabbox run`, or set results.junit"));
    };
    if ctx.global.json {
        ctx.terminal.out_json(&results);
        return Ok(0);
    }
    ctx.terminal.out(&human::test_results(&results));
    for failed in &results.failed {
        let line = format!("{} {}: {}", failed.kind, failed.name, failed.message);
        ctx.terminal.out(&text::plain(&line));
    }
    Ok(0)
}
