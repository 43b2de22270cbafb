//! What interrupted commands left behind, and which boxes are past their end.

use crabbox_schemas::claim::Claim;
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::lease::{Desired, Lease, ReleaseOutcome};
use crabbox_schemas::plugin::Purpose;

use crate::error::Result;
use crate::lease::trail::Trail;
use crate::lease::{Bench, not_asked_for, release};
use crate::ports::{Clock, Dialer, Provider, Query};
use crate::state::State;
use crate::time::parse_instant;

/// A lease whose command died before it was done.
#[derive(Debug)]
pub struct Open {
    /// The lease.
    pub desired: Desired,
    /// The provider that was asked.
    pub provider: String,
    /// How far its command came.
    pub reason: &'static str,
    /// Its trail, locked by us.
    trail: Trail,
}

/// Every lease that an interrupted command left open. Leases of live commands and kept leases are not among them.
pub fn open(state: &State) -> Vec<Open> {
    Trail::ids(&state.journal()).iter().filter_map(|id| open_one(state, id)).collect()
}

fn open_one(state: &State, id: &LeaseId) -> Option<Open> {
    let trail = match Trail::adopt(&state.journal(), id) {
        Ok(trail) => trail?,
        Err(error) => {
            tracing::warn!(lease.id = %id, %error, "cannot tell whether the lease is open");
            return None;
        }
    };
    if trail.intent().is_none() {
        let _ = trail.finish(); // its command died before the intent was on disk, so nothing was made
        return None;
    }
    let reason = if trail.is_releasing() {
        "its release was interrupted"
    } else if !trail.is_claimed() {
        "its acquire was interrupted"
    } else if !trail.is_kept() {
        "its one-off run was interrupted"
    } else {
        return None;
    };
    let (desired, provider, _) = trail.intent()?;
    let (desired, provider) = (desired.clone(), provider.to_owned());
    Some(Open { desired, provider, reason, trail })
}

/// Whether the provider has anything of an open lease.
pub async fn is_there<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    open: &Open,
) -> Result<bool> {
    let found = bench.provider.resolve(&query(bench, &open.desired, &open.trail)).await?;
    Ok(found.is_some())
}

/// Finishes one open lease: whatever exists of it is released, then it is forgotten.
pub async fn finish<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    open: Open,
) -> Result<ReleaseOutcome> {
    settle(bench, &open.desired, open.trail).await
}

/// The kept lease of a claim, when its provider is certain that its box is gone: it ended by itself, with the
/// machine it was on, or by somebody else's hand.
pub async fn vanished<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    claim: &Claim,
) -> Result<Option<Open>> {
    let Some(trail) = Trail::adopt(&bench.state.journal(), &claim.lease_id)? else {
        return Ok(None);
    };
    let Some((desired, provider, _)) = trail.intent() else { return Ok(None) };
    let (desired, provider) = (desired.clone(), provider.to_owned());
    let found = bench.provider.resolve(&query(bench, &desired, &trail)).await?;
    Ok(found.is_none().then_some(Open { desired, provider, reason: "its box is gone", trail }))
}

fn query<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    desired: &Desired,
    trail: &Trail,
) -> Query {
    let claim = bench.claims().get(&desired.lease_id).ok().flatten();
    Query {
        id: desired.lease_id.to_string(),
        known: claim.and_then(|c| c.lease),
        resources: trail.resources(),
        purpose: Purpose::Reconcile,
    }
}

/// Asks the provider what exists of a lease, has it removed, and forgets the lease when that is certain.
pub(super) async fn settle<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    desired: &Desired,
    trail: Trail,
) -> Result<ReleaseOutcome> {
    match bench.provider.resolve(&query(bench, desired, &trail)).await? {
        Some(lease) if lease.lease_id == desired.lease_id => {
            release::release(bench, &lease, Some(trail)).await
        }
        Some(other) => Err(not_asked_for(bench, &desired.lease_id, &other)),
        None => {
            release::forget(bench, &placeholder(desired), Some(trail))?;
            Ok(ReleaseOutcome::AlreadyGone)
        }
    }
}

pub(super) fn placeholder(desired: &Desired) -> Lease {
    Lease {
        lease_id: desired.lease_id.clone(),
        slug: desired.slug.clone(),
        name: desired.name.clone(),
        cloud_id: String::new(),
        status: "released".to_owned(),
        server_type: String::new(),
        labels: Default::default(),
        work_root: None,
        ssh: None,
    }
}

/// What `cleanup` decides about a labelled box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it, and why.
    Skip(&'static str),
    /// Delete it, and why.
    Delete(&'static str),
}

/// How long a box that is provisioning or running may be past its end before it is deleted, in milliseconds.
const RUNNING_GRACE_MS: u64 = 12 * 3600 * 1000;

/// The cleanup rules, in order: not ours, kept, by state, by expiry.
pub fn judge(lease: &Lease, now_ms: u64) -> Verdict {
    let label = |name: &str| lease.labels.get(name).map(String::as_str).unwrap_or_default();
    if label("crabbox") != "true" || label("lease") != lease.lease_id.as_str() {
        return Verdict::Skip("not labelled as this lease");
    }
    if label("keep") == "true" {
        return Verdict::Skip("kept");
    }
    let state = if label("state").is_empty() { lease.status.as_str() } else { label("state") };
    if matches!(state, "failed" | "released" | "expired") {
        return Verdict::Delete("ended");
    }
    let Some(expires) = parse_instant(label("expires_at")) else {
        return Verdict::Skip("no readable end");
    };
    let grace = if matches!(state, "running" | "provisioning") { RUNNING_GRACE_MS } else { 0 };
    if now_ms > expires.saturating_add(grace) {
        Verdict::Delete("expired")
    } else {
        Verdict::Skip("not expired")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(pairs: &[(&str, &str)]) -> Lease {
        let mut lease = placeholder(&Desired {
            lease_id: LeaseId::mint([1; 6]),
            slug: "blue-prawn".into(),
            name: "m".into(),
        });
        let own = [("crabbox", "true"), ("lease", "cbx_010101010101")];
        lease.labels =
            own.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        lease
    }

    #[test]
    fn the_rules_hold_in_order() {
        let now = 100_000_000_000;
        let past = "99999999";
        for (labels, expected) in [
            (
                vec![("lease", "cbx_020202020202"), ("state", "failed")],
                Verdict::Skip("not labelled as this lease"),
            ),
            (
                vec![("keep", "true"), ("state", "failed"), ("expires_at", past)],
                Verdict::Skip("kept"),
            ),
            (vec![("state", "failed")], Verdict::Delete("ended")),
            (vec![("state", "ready"), ("expires_at", past)], Verdict::Delete("expired")),
            (vec![("state", "running"), ("expires_at", past)], Verdict::Skip("not expired")),
            (vec![("state", "running"), ("expires_at", "99950000")], Verdict::Delete("expired")),
            (
                vec![("state", "ready"), ("expires_at", "2999-01-01T00:00:00Z")],
                Verdict::Skip("not expired"),
            ),
            (vec![("state", "ready"), ("expires_at", "soon")], Verdict::Skip("no readable end")),
            (vec![("state", "odd"), ("expires_at", past)], Verdict::Delete("expired")),
        ] {
            assert_eq!(judge(&labelled(&labels), now), expected, "{labels:?}");
        }
    }
}
