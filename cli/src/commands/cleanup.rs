//! `crabbox cleanup`: finish what interrupted commands left open, and delete boxes past their end.

use std::collections::BTreeSet;

use crabbox_host::Session;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::lease::Bench;
use crabbox_kernel::lease::acquire::OWN_LEASE_IDS;
use crabbox_kernel::lease::claim::Claims;
use crabbox_kernel::lease::reap::{self, Verdict, judge};
use crabbox_kernel::lease::release::{release, word};
use crabbox_kernel::lease::trail::Trail;
use crabbox_kernel::ports::{Clock, Dialer, Provider};
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::{CleanupAction, CleanupView};
use crabbox_schemas::lease::{Lease, ReleaseOutcome};

use crate::context::Context;

/// Finish interrupted leases and delete expired boxes
///
/// Works through every lease whose command died, then through every box of the providers in use that carries
/// crabbox's label and is past its end. A box is deleted only when its label names its lease.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox cleanup --dry-run
  crabbox cleanup")]
pub(crate) struct Args {
    /// Only look at this provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Say what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Cleans up; exits 1 when something could not be finished.
pub(crate) async fn run(ctx: &Context, args: Args) -> Result<i32> {
    ctx.state.prepare()?;
    if !args.dry_run {
        ctx.state.sweep(ctx.clock.now_ms());
    }
    let only = args
        .provider
        .as_deref()
        .map(|name| ctx.entry(name).map(|e| e.provider.name.clone()))
        .transpose()?;
    let mut done = Done::default();
    let mut open = reap::open(&ctx.state);
    for provider in providers(ctx, &open, only) {
        let (mine, rest) = open.into_iter().partition(|o| o.provider == provider);
        open = rest;
        match ctx.open_provider(&provider).await {
            Ok(session) => {
                let seen = one_provider(ctx, &provider, &session, mine, args.dry_run, &mut done);
                seen.await.unwrap_or_else(|error| done.unseen(ctx, &provider, &error));
                session.close().await;
            }
            // What is open stays open, and that is no success.
            Err(error) => match mine.is_empty() {
                true => done.unseen(ctx, &provider, &error),
                false => done.actions.extend(mine.into_iter().map(|open| CleanupAction {
                    action: "failed".to_owned(),
                    lease_id: open.desired.lease_id.to_string(),
                    slug: open.desired.slug,
                    provider: provider.clone(),
                    reason: open.reason.to_owned(),
                    error: Some(error.to_string()),
                })),
            },
        }
    }
    report(ctx, done, args.dry_run)
}

/// What was done, and whose boxes could not be looked at.
#[derive(Default)]
struct Done {
    actions: Vec<CleanupAction>,
    unseen: Vec<String>,
}

impl Done {
    fn unseen(&mut self, ctx: &Context, provider: &str, error: &KernelError) {
        let what = format!("the boxes of {provider} could not be looked at: {error}");
        ctx.terminal.warn(&what);
        self.unseen.push(provider.to_owned());
    }
}

/// Providers to visit: those of open leases and of claims, and the configured one.
fn providers(ctx: &Context, open: &[reap::Open], only: Option<String>) -> BTreeSet<String> {
    if let Some(only) = only {
        return BTreeSet::from([only]);
    }
    let claimed = Claims::new(ctx.state.claims()).all().0.into_iter().map(|c| c.provider);
    let named =
        open.iter().map(|o| o.provider.clone()).chain(claimed).chain(ctx.values.provider.clone());
    let known = named.filter_map(|name| ctx.entry(&name).ok().map(|e| e.provider.name.clone()));
    known.chain(ctx.default_provider()).collect()
}

async fn one_provider(
    ctx: &Context,
    provider: &str,
    session: &Session,
    open: Vec<reap::Open>,
    dry_run: bool,
    Done { actions, .. }: &mut Done,
) -> Result<()> {
    let dialer = ctx.dialer();
    let bench = ctx.bench(session, &dialer);
    let act = |action: &str,
               lease_id: String,
               slug: String,
               reason: String,
               error: Option<KernelError>| {
        CleanupAction {
            action: action.to_owned(),
            lease_id,
            slug,
            provider: provider.to_owned(),
            reason,
            error: error.map(|e| e.to_string()),
        }
    };
    let listed = session.list().await;
    let gone = match &listed {
        Ok((leases, true)) => gone(ctx, &bench, leases).await,
        _ => Vec::new(),
    };
    for one in open.into_iter().chain(gone) {
        let (id, slug, reason) =
            (one.desired.lease_id.to_string(), one.desired.slug.clone(), one.reason.to_owned());
        let was_there = match dry_run {
            true => reap::is_there(&bench, &one).await,
            false => reap::finish(&bench, one).await.map(|o| o != ReleaseOutcome::AlreadyGone),
        };
        actions.push(match was_there {
            Ok(true) => act("delete", id, slug, reason, None),
            Ok(false) => act("forget", id, slug, reason, None),
            Err(error) => act("failed", id, slug, reason, Some(error)),
        });
    }
    for lease in session.list().await?.0 {
        // It was judged already.
        if actions.iter().any(|action| action.lease_id == lease.lease_id.as_str()) {
            continue;
        }
        let (id, slug) = (lease.lease_id.to_string(), lease.slug.clone());
        let action = match judge(&lease, ctx.clock.now_ms()) {
            Verdict::Skip(reason) => act("skip", id, slug, reason.to_owned(), None),
            Verdict::Delete(reason) if dry_run => act("delete", id, slug, reason.to_owned(), None),
            Verdict::Delete(reason) => {
                let trail = Trail::adopt(&ctx.state.journal(), &lease.lease_id).ok().flatten();
                match release(&bench, &lease, trail).await.map(word) {
                    Ok(_) => act("delete", id, slug, reason.to_owned(), None),
                    Err(error) => act("failed", id, slug, reason.to_owned(), Some(error)),
                }
            }
        };
        actions.push(action);
    }
    Ok(())
}

/// Kept leases whose boxes the provider no longer has. A host of the user's own is never among them.
async fn gone(
    ctx: &Context,
    bench: &Bench<'_, Session, impl Dialer, impl Clock>,
    listed: &[Lease],
) -> Vec<reap::Open> {
    let about = bench.provider.about();
    let mut gone = Vec::new();
    if about.features.iter().any(|feature| feature == OWN_LEASE_IDS) {
        return gone;
    }
    for claim in bench.claims().all().0 {
        let known = listed.iter().any(|lease| lease.lease_id == claim.lease_id);
        if known || claim.provider != about.provider {
            continue;
        }
        match reap::vanished(bench, &claim).await {
            Ok(open) => gone.extend(open),
            Err(error) => ctx.terminal.warn(&format!("{}: {error}", claim.slug)),
        }
    }
    gone
}

fn report(ctx: &Context, Done { actions, unseen }: Done, dry_run: bool) -> Result<i32> {
    let failed = actions.iter().any(|a| a.action == "failed") || !unseen.is_empty();
    if ctx.global.json {
        let schema_version = SCHEMA_VERSION;
        ctx.terminal.out_json(&CleanupView { schema_version, dry_run, actions, unseen });
    } else {
        for a in &actions {
            let tail = a.error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
            ctx.terminal.out(&format!(
                "{} lease={} slug={} provider={} reason={:?}{tail}",
                a.action, a.lease_id, a.slug, a.provider, a.reason
            ));
        }
    }
    Ok(i32::from(failed))
}
