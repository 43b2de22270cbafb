//! `crabbox config`: every setting, and where it comes from.

use crabbox_kernel::config::show::{self, ShownBlock};
use crabbox_kernel::error::Result;
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::PathView;

use crate::context::Context;
use crate::flags;

/// Show settings and where they come from
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox config show
  crabbox --profile ci config show --json")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Print every setting with its origin; secrets only as configured or missing
    Show,
    /// Print the path of the user's configuration file
    Path,
}

/// Shows.
pub(crate) fn run(ctx: &Context, args: &Args) -> Result<i32> {
    match args.command {
        ConfigCommand::Path => {
            let path = ctx.user_config_file().display().to_string();
            match ctx.global.json {
                true => ctx.terminal.out_json(&PathView { schema_version: SCHEMA_VERSION, path }),
                false => ctx.terminal.out(&path),
            }
        }
        ConfigCommand::Show => show_all(ctx)?,
    }
    Ok(0)
}

fn show_all(ctx: &Context) -> Result<()> {
    let entries = ctx.catalog.providers();
    let names: Vec<_> = entries.iter().map(flags::block_names).collect();
    let properties: Vec<_> = entries.iter().map(flags::properties).collect();
    let blocks =
        entries.iter().map(|entry| flags::block(ctx, entry)).collect::<Result<Vec<_>>>()?;
    let shown: Vec<ShownBlock<'_>> = (0..entries.len())
        .map(|i| ShownBlock {
            provider: &entries[i].provider.name,
            names: &names[i],
            config_aliases: &entries[i].provider.config_aliases,
            properties: &properties[i],
            block: &blocks[i],
        })
        .collect();
    if ctx.global.json {
        ctx.terminal.out_json(&show::document(&ctx.settings, &shown));
    } else {
        show::lines(&ctx.settings, &shown).iter().for_each(|line| ctx.terminal.out(line));
    }
    Ok(())
}
