//! `crabbox completions`.

use crabbox_kernel::error::Result;

use crate::context::Context;
use crate::flags::Wanted;

/// Print shell completions
///
/// For example: crabbox completions bash > ~/.local/share/bash-completion/completions/crabbox
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  crabbox completions zsh > ~/.zfunc/_crabbox")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// Prints completions for every command and every provider's flags.
pub(crate) fn run(ctx: &Context, args: &Args) -> Result<i32> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut crate::command_line(&ctx.catalog, &Wanted::All),
        "crabbox",
        &mut script,
    );
    ctx.terminal.bytes(false, &script);
    Ok(0)
}
