//! `plugin run`: asks a provider one question of the protocol and prints the answer as it came.

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;

use crate::context::Context;

#[derive(Debug, clap::Args)]
#[command(
    after_help = r#"Only what changes nothing can be asked; `crabbox warmup` and `crabbox stop` make and end boxes.

Examples:
  crabbox plugin run hetzner doctor
  crabbox plugin run hetzner lease.list
  crabbox plugin run rack lease.resolve '{"id": "blue-lobster", "purpose": "status"}'"#
)]
pub(super) struct Args {
    /// The provider's name
    #[arg(value_name = "PROVIDER")]
    provider: String,
    /// A method of docs/protocol.md, such as doctor or lease.list
    #[arg(value_name = "METHOD")]
    method: String,
    /// Its params as JSON, without `ctx`
    #[arg(value_name = "PARAMS", default_value = "{}")]
    params: String,
}

pub(super) async fn run(ctx: &Context, args: &Args) -> Result<i32> {
    let params = serde_json::from_str(&args.params).map_err(|error| {
        KernelError::new(ErrorCode::Usage, "the params are no JSON object")
            .because(&error)
            .hint(r#"write them like '{"id": "blue-prawn"}'"#)
    })?;
    let session = ctx.open_provider(&args.provider).await?;
    let answer = session.question(&args.method, params).await;
    session.close().await;
    ctx.terminal.out_json(&answer?);
    Ok(0)
}
