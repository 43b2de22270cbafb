//! `crabbox version` and `crabbox completions`.

use crabbox_kernel::error::Result;

use crate::context::Context;

/// Print shell completions
///
/// For example: crabbox completions bash > ~/.local/share/bash-completion/completions/crabbox
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// Prints completions for every command and every provider's flags.
pub(crate) fn completions(ctx: &Context, args: &CompletionsArgs) -> Result<i32> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut crate::command_line(&ctx.catalog),
        "crabbox",
        &mut script,
    );
    ctx.terminal.bytes(false, &script);
    Ok(0)
}

/// Prints the version.
pub(crate) fn version(ctx: &Context) -> Result<i32> {
    let version = env!("CARGO_PKG_VERSION");
    if ctx.global.json {
        let protocols = crabbox_schemas::plugin::PROTOCOLS;
        let schema = crabbox_schemas::SCHEMA_VERSION;
        ctx.terminal.out_json(
            &serde_json::json!({ "schemaVersion": schema, "version": version, "pluginProtocols": protocols }),
        );
    } else {
        ctx.terminal.out(&format!("crabbox {version}"));
    }
    Ok(0)
}
