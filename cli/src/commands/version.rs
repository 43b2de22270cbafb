//! `crabbox version`.

use crabbox_kernel::error::Result;

use crate::context::Context;

/// Prints the version.
pub(crate) fn run(ctx: &Context) -> Result<i32> {
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
