//! `crabbox sync-plan`: what would be sent, without leasing anything.

use crabbox_kernel::error::Result;
use crabbox_schemas::view::SyncPlanView;

use crate::checkout;
use crate::context::Context;

/// Show what a run would send
///
/// Counts files and bytes, names the biggest, and says which guards would warn or refuse.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox sync-plan
  crabbox sync-plan --limit 5 --json")]
pub(crate) struct Args {
    /// How many of the biggest files and directories to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// Shows the plan; a tree that a guard refuses is shown and then refused.
pub(crate) fn run(ctx: &Context, args: &Args) -> Result<i32> {
    let place = checkout::find(ctx)?;
    let look = checkout::look(ctx, &place, args.limit)?;
    if ctx.global.json {
        ctx.terminal.out_json(&look.view);
    } else {
        text(ctx, &look.view);
    }
    look.refusal.map_or(Ok(0), Err)
}

fn text(ctx: &Context, view: &SyncPlanView) {
    let size = crabbox_kernel::render::text::size;
    ctx.terminal.out(&format!("root: {} ({})", view.root, view.kind));
    ctx.terminal.out(&format!("sync candidate: {} files, {}", view.files, size(view.bytes)));
    ctx.terminal.out(&format!("tracked deletions: {}", view.tracked_deletions));
    ctx.terminal.out(&format!("left out: {}", view.excluded));
    for (what, paths) in
        [("largest files", &view.largest_files), ("largest directories", &view.largest_dirs)]
    {
        ctx.terminal.out(&format!("{what}:"));
        for one in paths {
            ctx.terminal.out(&format!("  {:>10}  {}", size(one.bytes), one.path));
        }
    }
    for warning in &view.warnings {
        ctx.terminal.warn(warning.strip_prefix("warning: ").unwrap_or(warning));
    }
}
