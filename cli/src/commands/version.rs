//! `crabbox version`.

use crabbox_kernel::error::Result;
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::VersionView;
use crabbox_schemas::plugin::PROTOCOLS;

use crate::context::Context;

/// Prints the version.
pub(crate) fn run(ctx: &Context) -> Result<i32> {
    let version = env!("CARGO_PKG_VERSION");
    if ctx.global.json {
        let (version, plugin_protocols) = (version.to_owned(), PROTOCOLS.iter().copied());
        let plugin_protocols = plugin_protocols.map(str::to_owned).collect();
        let schema_version = SCHEMA_VERSION;
        ctx.terminal.out_json(&VersionView { schema_version, version, plugin_protocols });
    } else {
        ctx.terminal.out(&format!("crabbox {version}"));
    }
    Ok(0)
}
