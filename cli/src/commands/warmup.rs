//! `crabbox warmup`: lease a box now, to use it later.

use crabbox_kernel::error::Result;
use crabbox_kernel::lease::{Fate, with_lease};
use crabbox_kernel::ports::{Clock, Provider, Remote};
use crabbox_kernel::run::reach::reach;
use crabbox_schemas::plugin::ProviderKind;

use crate::args::LeaseFlags;
use crate::checkout;
use crate::context::Context;
use crate::screen::Screen;
use crabbox_kernel::lease::Ask;
use crabbox_kernel::render::human;

/// Lease a box and keep it for later runs
///
/// Prints the lease and how to reach it. Use it with `crabbox run --id SLUG`, give it back with `crabbox stop SLUG`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox warmup
  crabbox warmup --ttl 4h --slug review")]
pub(crate) struct Args {
    #[command(flatten)]
    lease: LeaseFlags,
    /// Keep the box (it is kept unless this is false)
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    keep: bool,
    /// Print where the time went as one JSON line on stderr
    #[arg(long)]
    timing_json: bool,
}

impl Args {
    /// Configuration keys these flags set.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        self.lease.settings()
    }
}

/// Leases and returns the exit status.
pub(crate) async fn run(ctx: &Context, args: Args) -> Result<i32> {
    let started = ctx.clock.monotonic_ms();
    let provider = ctx.choose_provider(None, args.lease.provider.as_deref())?;
    let lease = &args.lease;
    let ask =
        Ask::New(ctx.new_lease(&provider, args.keep, lease.slug.as_deref(), lease.reclaim)?);
    let place = checkout::find(ctx)?;
    let session = ctx.open_provider(&provider).await?;
    let dialer = ctx.warm_dialer();
    let bench = ctx.bench(&session, &dialer);
    let mut screen = Screen::plain(ctx);
    let mut timing = crabbox_schemas::run::Timing {
        schema_version: crabbox_schemas::SCHEMA_VERSION,
        provider: provider.clone(),
        by: "crabbox".to_owned(),
        ..Default::default()
    };
    let keep = |outcome: &Result<_>| (args.keep && outcome.is_ok()).then(|| "warm".to_owned());
    let worked =
        with_lease(&bench, &ask, place.root, &mut screen, &ctx.stop, keep, async |held, events| {
            timing.lease_ms = ctx.clock.monotonic_ms() - started;
            let from = ctx.clock.monotonic_ms();
            if session.about().kind == ProviderKind::SshLease {
                reach(&bench, held, events, &ctx.stop).await?.remote.close().await;
            }
            timing.bootstrap_ms = ctx.clock.monotonic_ms() - from;
            Ok((held.lease.clone(), held.claim.clone()))
        })
        .await;
    session.close().await;
    let (outcome, fate) = worked?;
    let (lease, claim) = outcome?;
    timing.total_ms = ctx.clock.monotonic_ms() - started;
    timing.lease_id = Some(lease.lease_id.to_string());
    timing.slug = Some(lease.slug.clone());
    if ctx.global.json {
        let mut view = crate::views::status(ctx, &lease, &provider, Some(&claim));
        view.ready = true;
        ctx.terminal.out_json(&view);
    } else {
        ctx.terminal.out(&human::leased(&lease, &provider, &claim));
        if lease.ssh.is_some() {
            ctx.terminal.out(&human::ready(&lease));
        }
        ctx.terminal.out(&human::warmup_complete(timing.total_ms));
        if fate == Fate::Kept {
            let hint = format!("use it with `crabbox run --id {} -- COMMAND`", lease.slug);
            ctx.terminal.err(&hint);
        }
    }
    if args.timing_json {
        ctx.terminal.err_json(&timing);
    }
    Ok(0)
}
