//! `plugin install` and `plugin update`: open, check, ask, copy, lock.

use std::path::Path;

use crabbox_fetch::Source;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::failed;
use crabbox_plugins::Candidate;
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::PluginInstallView;
use crabbox_schemas::error::ErrorCode;

use crate::context::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox plugin install ./my-provider
  crabbox plugin install ./hetzner-1.4.2.cbxplugin --grants sha256:…
  crabbox plugin install https://example.dev/hetzner-1.4.2.cbxplugin --digest sha256:…
  crabbox plugin install oci://registry.example.dev/plugins/hetzner:1.4")]
pub(super) struct Args {
    /// A folder with a manifest, a package, its web address, or a registry's oci://…
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Which bytes a web address must have, as its publisher says
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
    /// Agree to this digest of grants without being asked
    #[arg(long, value_name = "DIGEST")]
    grants: Option<String>,
}

pub(super) async fn run(ctx: &Context, args: &Args) -> Result<i32> {
    if let Some(source) = Source::parse(&args.source, args.digest.as_deref())? {
        return get(ctx, &source, args.grants.as_deref()).await;
    }
    let path = ctx.cwd.join(&args.source);
    if !path.exists() {
        return Err(super::nothing_at(&args.source));
    }
    let path = path.canonicalize().unwrap_or(path);
    install(ctx, &path, &path.display().to_string(), args.grants.as_deref())
}

pub(super) async fn update(ctx: &Context, plugin: &str) -> Result<i32> {
    let lock = ctx.shelf.lock()?;
    let locked = lock.plugins.get(plugin).ok_or_else(|| {
        KernelError::new(ErrorCode::NotFound, format!("no plugin {plugin} is installed"))
            .hint("`crabbox plugin list` shows them all; `crabbox plugin install` adds one")
    })?;
    if let Some(source) = Source::parse(&locked.source, None)? {
        if source.is_fixed() {
            return Err(KernelError::new(
                ErrorCode::Precondition,
                format!("{plugin} was installed from {source}, which never changes"),
            )
            .hint("`crabbox plugin install` the newer one"));
        }
        return get(ctx, &source, None).await;
    }
    let path = Path::new(&locked.source);
    if !path.exists() {
        return Err(KernelError::new(
            ErrorCode::NotFound,
            format!("{plugin} was installed from {}, which is gone", locked.source),
        )
        .hint("install it from where it is now"));
    }
    install(ctx, path, &locked.source, None)
}

/// Gets a package from elsewhere into a folder of its own, which does not outlive the command.
async fn get(ctx: &Context, source: &Source, grants: Option<&str>) -> Result<i32> {
    let dir = tempfile::tempdir()
        .map_err(|e| failed("cannot make", Path::new("a temporary folder"), &e))?;
    ctx.terminal.err(&format!("getting {source}"));
    let package = crabbox_fetch::fetch(source, dir.path()).await?;
    install(ctx, &package, &source.to_string(), grants)
}

fn install(ctx: &Context, path: &Path, source: &str, grants: Option<&str>) -> Result<i32> {
    let candidate = Candidate::open(path, source, &ctx.shelf, ctx.programs())?;
    let manifest = candidate.manifest()?;
    for entry in candidate.entries() {
        let rival = entry.names().find_map(|name| ctx.catalog.find(name));
        if let Some(rival) = rival.filter(|rival| rival.manifest.id != manifest.id) {
            ctx.terminal.warn(&format!(
                "{} offers {} too: choose with `plugins.prefer`",
                rival.manifest.id, rival.provider.name
            ));
        }
    }
    if let Some(proposal) = candidate.proposal(&ctx.shelf, &ctx.policy())? {
        match grants {
            Some(agreed) if agreed == proposal.grants => {}
            Some(_) => {
                return Err(KernelError::new(
                    ErrorCode::PluginUntrusted,
                    format!("{} asks for other grants than those agreed to", proposal.id),
                )
                .hint(format!("it asks for {}", proposal.grants)));
            }
            None => ctx.agree(&proposal).map_err(|error| KernelError {
                hint: error.hint.map(|_| {
                    format!(
                        "to agree: crabbox plugin install {source} --grants {}",
                        proposal.grants
                    )
                }),
                ..error
            })?,
        }
    }
    candidate.entries().iter().take(1).for_each(|entry| super::prepare(ctx, entry));
    let locked = candidate.install(&ctx.shelf)?;
    match ctx.global.json {
        true => ctx.terminal.out_json(&PluginInstallView {
            schema_version: SCHEMA_VERSION,
            id: manifest.id.clone(),
            plugin: locked,
        }),
        false => ctx.terminal.out(&format!("installed {} {}", manifest.id, locked.version)),
    }
    Ok(0)
}
