//! `crabbox list` and `crabbox claims list`: what there is, at the provider and here.

use crabbox_kernel::error::Result;
use crabbox_kernel::ports::Provider;
use crabbox_schemas::claim::Claim;
use crabbox_schemas::view::ClaimsView;

use crate::context::Context;
use crate::views;

/// How many boxes of other providers are named.
const NAMED: usize = 5;

/// List the provider's boxes
///
/// Boxes that no local claim names are marked as orphans. `crabbox claims list` needs no provider.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox list
  crabbox list --provider ssh --json")]
pub(crate) struct Args {
    /// Provider to ask
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

/// Look at the local claims
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  crabbox claims list --json")]
pub(crate) struct ClaimsArgs {
    #[command(subcommand)]
    command: ClaimsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ClaimsCommand {
    /// List every lease this user has claimed, without asking any provider
    List,
}

/// Lists boxes.
pub(crate) async fn run(ctx: &Context, args: Args) -> Result<i32> {
    let provider = ctx.choose_provider(None, args.provider.as_deref())?;
    let session = ctx.open_provider(&provider).await?;
    let listed = session.list().await;
    session.close().await;
    let (leases, complete) = listed?;
    if !complete {
        ctx.terminal.warn("the provider could not list everything");
    }
    let claims = ctx.claims().all().0;
    if let Some(line) = elsewhere(&claims, &provider) {
        ctx.terminal.err(&line);
    }
    let entries: Vec<_> = leases
        .iter()
        .map(|lease| {
            views::entry(lease, &provider, claims.iter().any(|c| c.lease_id == lease.lease_id))
        })
        .collect();
    if ctx.global.json {
        ctx.terminal.out_json(&entries);
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = entries
        .into_iter()
        .map(|e| {
            let orphan = if e.orphan { "orphan" } else { "" };
            vec![e.id, e.slug, e.provider, e.status, e.server_type, e.host, orphan.to_owned()]
        })
        .collect();
    ctx.terminal.table(&["LEASE", "SLUG", "PROVIDER", "STATUS", "TYPE", "HOST", ""], &rows);
    Ok(0)
}

/// What is leased from others than the provider that was asked.
fn elsewhere(claims: &[Claim], asked: &str) -> Option<String> {
    let others = claims.iter().filter(|claim| claim.provider != asked);
    let named: Vec<_> = others.map(|c| format!("{} ({})", c.slug, c.provider)).collect();
    let shown = named.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = match named.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let all = "`crabbox claims list` shows every lease, `crabbox stop NAME` ends one";
    (!named.is_empty()).then(|| format!("not listed, of other providers: {shown}{more}; {all}"))
}

/// Lists claims.
pub(crate) fn claims(ctx: &Context, args: &ClaimsArgs) -> Result<i32> {
    let ClaimsCommand::List = args.command;
    let (claims, problems) = ctx.claims().all();
    if ctx.global.json {
        ctx.terminal.out_json(&ClaimsView {
            schema_version: crabbox_schemas::SCHEMA_VERSION,
            version: 1,
            source: "local-claims".to_owned(),
            claims,
            problems,
        });
        return Ok(0);
    }
    for problem in &problems {
        ctx.terminal.warn(problem);
    }
    let rows: Vec<Vec<String>> = claims
        .into_iter()
        .map(|c| vec![c.lease_id.to_string(), c.slug, c.provider, c.last_used_at, c.repo_root])
        .collect();
    ctx.terminal.table(&["LEASE", "SLUG", "PROVIDER", "LAST USED", "CHECKOUT"], &rows);
    Ok(0)
}
