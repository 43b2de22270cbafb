//! Access to a box that a provider lends for a while: asked for before a connection, given back after it.
//!
//! What is lent may be a secret. It is in no claim and no event, and goes back to no plugin: only the connection has it.

use crabbox_schemas::lease::Lease;

use crate::error::Result;
use crate::lease::{Bench, Held};
use crate::ports::{Clock, Dialer, Provider};

/// A provider with this power lets crabbox into its boxes over SSH for a while.
pub const POWER: &str = "ssh-access";

/// Whether the boxes of this provider are reached with access that is lent.
pub fn is_lent<P: Provider, D, C>(bench: &Bench<'_, P, D, C>) -> bool {
    bench.provider.about().features.iter().any(|feature| feature == POWER)
}

/// A lease in hand with access to its box; itself when that is not lent. The claim learns nothing of it.
pub async fn lend<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    held: &Held,
) -> Result<Held> {
    let lease = lend_again(bench, held.lease.clone()).await?;
    let (claim, provider) = (held.claim.clone(), held.provider.clone());
    // Whoever hands out access has the box ready.
    let reused = held.reused || is_lent(bench);
    Ok(Held { lease, claim, provider, reused, known: held.known, trail: None, tailnet: None })
}

/// A lease with access to its box, where that is lent.
pub async fn lend_again<P: Provider, D, C>(
    bench: &Bench<'_, P, D, C>,
    mut lease: Lease,
) -> Result<Lease> {
    if lease.ssh.is_none() && is_lent(bench) {
        let granted = bench.provider.grant_access(&lease).await;
        lease.ssh = Some(granted.map_err(|error| error.at("connect"))?);
    }
    Ok(lease)
}

/// Gives the access back. Where that fails it ends by itself.
pub async fn give_back<P: Provider, D, C>(bench: &Bench<'_, P, D, C>, held: &Held) {
    if is_lent(bench)
        && let Err(error) = bench.provider.revoke_access(&held.lease).await
    {
        tracing::debug!(%error, "the access that was lent is not given back");
    }
}
