//! `plugin trust` and `plugin verify`: agreeing without being asked, and checking what was agreed to.

use crabbox_kernel::error::{KernelError, Result};
use crabbox_plugins::{check_imports, content, holds_only, of_grants};
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::PluginTrustView;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::view::{PluginState, PluginStates};

use super::told;
use crate::context::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox plugin trust example.dev/hetzner@sha256:… --grants sha256:…
  crabbox plugin trust --forget-key example.dev")]
pub(super) struct Args {
    /// The plugin's id and the digest of its files
    #[arg(value_name = "ID@DIGEST", required_unless_present = "forget_key")]
    plugin: Option<String>,
    /// The digest of what it asks for
    #[arg(long, value_name = "DIGEST", required_unless_present = "forget_key")]
    grants: Option<String>,
    /// Forget the key a publisher was first seen with
    #[arg(long, value_name = "PUBLISHER", conflicts_with_all = ["plugin", "grants"])]
    forget_key: Option<String>,
}

pub(super) fn run(ctx: &Context, args: &Args) -> Result<i32> {
    if let Some(publisher) = &args.forget_key {
        let mut trust = ctx.shelf.trust()?;
        if trust.publishers.remove(publisher).is_none() {
            return Err(KernelError::new(
                ErrorCode::NotFound,
                format!("no key of {publisher} is known"),
            ));
        }
        ctx.shelf.set_trust(&trust)?;
        let forgot = PluginTrustView { forgot_key: Some(publisher.clone()), ..nothing() };
        told(ctx, &forgot, &format!("forgot the key of {publisher}"));
        return Ok(0);
    }
    let plugin = args.plugin.as_deref().unwrap_or_default();
    let Some((id, files)) = plugin.split_once('@') else {
        return Err(KernelError::new(ErrorCode::Usage, format!("{plugin} names no digest"))
            .hint("write ID@sha256:…, as the refusal and `crabbox plugin info` show it"));
    };
    let entry = super::entries(ctx, id)?[0];
    ctx.shelf.untouched(&entry.folder)?;
    let found = ctx.shelf.digest(&entry.folder)?;
    let asked = of_grants(&entry.manifest.grants);
    let differs =
        [("files", files, &found), ("grants", args.grants.as_deref().unwrap_or_default(), &asked)];
    if let Some((what, said, is)) = differs.iter().find(|(_, said, is)| said != is) {
        return Err(KernelError::new(
            ErrorCode::PluginUntrusted,
            format!("the {what} of {id} are not {said}"),
        )
        .hint(format!("they are {is}; look at them with `crabbox plugin info {id}`")));
    }
    ctx.policy().check(entry, Some(&found), false)?;
    check_imports(&entry.manifest, &entry.folder)?;
    ctx.shelf.agree(&entry.folder, &entry.manifest, &found)?;
    super::prepare(ctx, entry);
    let version = entry.manifest.version.clone();
    let line = format!("{id} {version} may run");
    let (id, version) = (Some(id.to_owned()), Some(version));
    let agreed =
        PluginTrustView { id, version, files: Some(found), grants: Some(asked), ..nothing() };
    told(ctx, &agreed, &line);
    Ok(0)
}

fn nothing() -> PluginTrustView {
    let schema_version = SCHEMA_VERSION;
    PluginTrustView {
        schema_version,
        id: None,
        version: None,
        files: None,
        grants: None,
        forgot_key: None,
    }
}

/// Reads every installed file again.
pub(super) fn verify(ctx: &Context) -> Result<i32> {
    let (mut broken, mut plugins) = (Vec::new(), Vec::new());
    for (id, locked) in ctx.shelf.lock()?.plugins {
        let state = match ctx.shelf.copy(&locked.files) {
            None => "missing",
            Some(folder) => {
                let content = content(&folder)?;
                let same = content.digest == locked.files && holds_only(&folder, &content.files);
                if same { "whole" } else { "changed" }
            }
        };
        if state != "whole" {
            broken.push(id.clone());
        }
        plugins.push(PluginState { id, version: locked.version, state: state.to_owned() });
    }
    match ctx.global.json {
        true => ctx.terminal.out_json(&PluginStates { schema_version: SCHEMA_VERSION, plugins }),
        false => plugins.iter().for_each(|PluginState { id, version, state }| {
            ctx.terminal.out(&format!("{id} {version}: {state}"));
        }),
    }
    match &broken[..] {
        [] => Ok(0),
        // The document says which.
        _ if ctx.global.json => Ok(1),
        ids => Err(KernelError::new(
            ErrorCode::Unhealthy,
            format!("not as they were installed: {}", ids.join(", ")),
        )
        .hint("remove each with `crabbox plugin remove ID`, and install it again")),
    }
}
