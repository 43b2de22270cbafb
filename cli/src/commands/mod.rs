//! The list of commands: one file each, one line here, one arm below.

mod attach;
mod cleanup;
mod completions;
mod config;
mod connect;
mod daemon;
mod doctor;
mod init;
mod list;
mod plugin;
mod providers;
mod run;
mod runs;
mod sizes;
mod status;
mod stop;
mod sync_plan;
mod version;
mod warmup;
mod watch;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::Urgency;
use crabbox_schemas::error::ErrorCode;

use crate::args::{ByName, Global};
use crate::context::Context;

/// Warm a box, sync the diff, run the suite — anywhere
///
/// crabbox leases a box from a provider, sends the checkout as it is, runs a command there with streamed output,
/// passes its exit status through, and gives the box back.
#[derive(Debug, clap::Parser)]
#[command(
    name = "crabbox",
    version,
    propagate_version = true,
    after_help = "Examples:
  crabbox run -- pnpm test            lease, sync, run, give back
  crabbox warmup                      lease a box for several runs
  crabbox run --id blue-prawn -- make use it
  crabbox stop blue-prawn             give it back
  crabbox cleanup                     finish whatever was interrupted"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Run(Box<run::Args>),
    Warmup(warmup::Args),
    Watch(Box<watch::Args>),
    #[command(visible_alias = "release")]
    Stop(stop::Args),
    Status(status::Args),
    List(list::Args),
    Inspect(status::InspectArgs),
    Ssh(connect::SshArgs),
    Connect(connect::Args),
    /// Extend a lease without running anything
    Heartbeat(ByName),
    Claims(list::ClaimsArgs),
    Cleanup(cleanup::Args),
    SyncPlan(sync_plan::Args),
    History(runs::HistoryArgs),
    Events(runs::EventsArgs),
    Logs(runs::LogsArgs),
    Attach(attach::Args),
    Wait(attach::WaitArgs),
    Results(runs::ResultsArgs),
    Config(config::Args),
    Daemon(daemon::Args),
    Doctor(doctor::Args),
    Init(init::Args),
    Plugin(plugin::Args),
    Providers(providers::Args),
    Sizes(sizes::Args),
    Completions(completions::Args),
    /// Print the version
    Version,
}

impl Command {
    /// Configuration keys the command's flags set.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        match self {
            Command::Run(args) => args.settings(),
            Command::Warmup(args) => args.settings(),
            Command::Watch(args) => args.settings(),
            Command::Sizes(args) => args.settings(),
            _ => Vec::new(),
        }
    }

    /// Commands that can be left at any moment, since they only look, or are repeated as they are.
    fn may_be_left(&self) -> bool {
        matches!(
            self,
            Command::Stop(_)
                | Command::Status(_)
                | Command::List(_)
                | Command::Inspect(_)
                | Command::Heartbeat(_)
                | Command::Cleanup(_)
                | Command::Doctor(_)
                | Command::Sizes(_)
        )
    }

    /// Commands that tell about leases other commands left open.
    pub(crate) fn tells_open_leases(&self) -> bool {
        matches!(
            self,
            Command::Run(_)
                | Command::Warmup(_)
                | Command::Stop(_)
                | Command::Status(_)
                | Command::List(_)
        )
    }
}

/// Runs the command; its exit status.
pub(crate) async fn run(ctx: &Context, command: Command) -> Result<i32> {
    if !command.may_be_left() {
        return carry_out(ctx, command).await;
    }
    tokio::select! {
        biased;
        done = carry_out(ctx, command) => done,
        () = ctx.stop.reaches(Urgency::Gentle) => {
            Err(KernelError::new(ErrorCode::Cancelled, "interrupted")
                .hint("what was begun can be finished by the same command"))
        }
    }
}

async fn carry_out(ctx: &Context, command: Command) -> Result<i32> {
    match command {
        Command::Run(args) => run::run(ctx, *args).await,
        Command::Warmup(args) => warmup::run(ctx, args).await,
        Command::Watch(args) => watch::run(ctx, *args).await,
        Command::Stop(args) => stop::run(ctx, args).await,
        Command::Status(args) => status::run(ctx, args).await,
        Command::List(args) => list::run(ctx, args).await,
        Command::Inspect(args) => status::inspect(ctx, args).await,
        Command::Ssh(args) => connect::ssh(ctx, args).await,
        Command::Connect(args) => connect::run(ctx, args).await,
        Command::Heartbeat(args) => status::heartbeat(ctx, &args).await,
        Command::Claims(args) => list::claims(ctx, &args),
        Command::Cleanup(args) => cleanup::run(ctx, args).await,
        Command::SyncPlan(args) => sync_plan::run(ctx, &args),
        Command::History(args) => runs::history(ctx, &args),
        Command::Events(args) => runs::events(ctx, &args),
        Command::Logs(args) => runs::logs(ctx, &args).await,
        Command::Attach(args) => attach::run(ctx, &args).await,
        Command::Wait(args) => attach::wait(ctx, &args).await,
        Command::Results(args) => runs::results(ctx, &args),
        Command::Config(args) => config::run(ctx, &args),
        Command::Daemon(args) => daemon::run(ctx, &args).await,
        Command::Doctor(args) => doctor::run(ctx, args).await,
        Command::Init(args) => init::run(ctx, &args),
        Command::Plugin(args) => plugin::run(ctx, args).await,
        Command::Providers(args) => providers::run(ctx, args),
        Command::Sizes(args) => sizes::run(ctx, args).await,
        Command::Completions(args) => completions::run(ctx, &args),
        Command::Version => version::run(ctx),
    }
}
