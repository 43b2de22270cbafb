//! `plugin remove` and `plugin gc`: what is no longer wanted, without stranding a lease.

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::claim::Claim;
use crabbox_schemas::deed::{PluginGcView, PluginRemoveView};
use crabbox_schemas::error::ErrorCode;

use super::told;
use crate::context::Context;

pub(super) fn run(ctx: &Context, plugin: &str) -> Result<i32> {
    let mut lock = ctx.shelf.lock()?;
    let id = match lock.plugins.contains_key(plugin) {
        true => plugin.to_owned(),
        false => super::entries(ctx, plugin)?[0].manifest.id.clone(),
    };
    if lock.plugins.remove(&id).is_none() {
        return Err(KernelError::new(ErrorCode::NotFound, format!("{id} was not installed"))
            .hint(format!("remove its folder yourself: {}", ctx.shelf.root().display())));
    }
    ctx.shelf.set_lock(&lock)?;
    let mut trust = ctx.shelf.trust()?;
    trust.plugins.retain(|plugin| plugin.id != id);
    ctx.shelf.set_trust(&trust)?;
    let needed = ctx.pins().iter().any(|pin| pin.id == id);
    sweep(ctx)?;
    let made = |claim: &Claim| claim.plugin.as_ref().is_some_and(|pin| pin.id == id);
    let claims = ctx.claims().all().0.into_iter().filter(made);
    let leases: Vec<String> = claims.map(|claim| claim.slug).collect();
    let kept = match (needed, leases.is_empty()) {
        (false, _) => String::new(),
        (true, true) => {
            "; a copy stays until `crabbox cleanup` has seen to what it left".to_owned()
        }
        (true, false) => format!(
            "; a copy stays until its leases are gone: {}\n`crabbox claims list` shows them, `crabbox stop NAME` ends one",
            leases.join(", ")
        ),
    };
    let line = format!("removed {id}{kept}");
    told(ctx, &PluginRemoveView { schema_version: SCHEMA_VERSION, removed: id, leases }, &line);
    Ok(0)
}

pub(super) fn gc(ctx: &Context) -> Result<i32> {
    let removed = sweep(ctx)?;
    let line = format!("removed {removed} stored copies");
    told(ctx, &PluginGcView { schema_version: SCHEMA_VERSION, copies: removed as u64 }, &line);
    Ok(0)
}

/// Removes copies that are neither installed, nor agreed to, nor needed by a lease.
fn sweep(ctx: &Context) -> Result<usize> {
    let locked = ctx.shelf.lock()?.plugins.into_values().map(|plugin| plugin.files);
    let agreed = ctx.shelf.trust()?.plugins.into_iter().map(|plugin| plugin.files);
    let made = ctx.pins().into_iter().map(|pin| pin.digest);
    ctx.shelf.sweep(&locked.chain(agreed).chain(made).collect::<Vec<_>>())
}
