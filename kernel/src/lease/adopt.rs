//! An existing box: found by its claim first, else among the provider's boxes.

use std::collections::BTreeMap;
use std::path::Path;

use crabbox_schemas::claim::Claim;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::Lease;
use crabbox_schemas::plugin::Purpose;

use crate::error::{KernelError, Result};
use crate::lease::access::lend_again;
use crate::lease::acquire::OWN_LEASE_IDS;
use crate::lease::claim::{ambiguous, check_checkout};
use crate::lease::{Bench, Held, announce};
use crate::ports::{Clock, Dialer, EventSink, Provider, Query};
use crate::slug::normalise;
use crate::time::{parse_instant, rfc3339};

/// Takes an existing box in hand for this checkout: as its claim describes it while that must still be true, else
/// as its provider does.
pub async fn take<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    name: &str,
    repo_root: &Path,
    reclaim: bool,
    events: &mut dyn EventSink,
) -> Result<Held> {
    bench.state.prepare()?;
    let claim = bench.claims().find(name).map_err(|e| e.at("resolve"))?;
    let Some((mut claim, lease)) = claim.and_then(|claim| as_known(bench, claim)) else {
        return adopt(bench, name, repo_root, reclaim, events).await;
    };
    check_checkout(&claim, repo_root, reclaim).map_err(|e| e.at("resolve"))?;
    let root = repo_root.to_string_lossy();
    if claim.repo_root != root {
        claim.claimed_at = rfc3339(bench.clock.now_ms());
        claim.repo_root = root.into_owned();
        bench.claims().put(&claim)?;
    }
    let provider = bench.provider.about().provider.clone();
    let held =
        Held { lease, claim, provider, reused: true, known: true, trail: None, tailnet: None };
    announce(&held, events);
    Ok(held)
}

/// The lease a claim describes, when its provider would surely say the same: it has an address, its settings are
/// the same, and neither of its two ends has come.
fn as_known<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    claim: Claim,
) -> Option<(Claim, Lease)> {
    let about = bench.provider.about();
    let lease = claim.lease.clone().filter(|lease| lease.ssh.is_some())?;
    let ended = matches!(&*lease.status, "failed" | "released" | "expired");
    let lasts = |from: &str, secs: u64| {
        let end = parse_instant(from)?.checked_add(secs.checked_mul(1000)?)?;
        (secs > 0).then_some(end > bench.clock.now_ms())
    };
    let own = about.features.iter().any(|feature| feature == OWN_LEASE_IDS);
    let lives = own
        || lasts(&claim.created_at, claim.ttl_seconds) == Some(true)
            && lasts(&claim.last_used_at, claim.idle_timeout_seconds) == Some(true);
    (!ended && lives && claim.settings == about.settings).then_some((claim, lease))
}

/// What the provider says now of a box that was taken as known; its claim learns it too.
pub(crate) async fn ask_again<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    held: &Held,
) -> Result<Lease> {
    let id = held.lease.lease_id.to_string();
    let known = Some(held.claim.lease.clone().unwrap_or_else(|| held.lease.clone()));
    let query = Query { id, known, resources: Vec::new(), purpose: Purpose::Use };
    let Some(lease) = bench.provider.resolve(&query).await? else {
        return Err(gone(&held.lease.slug, &held.provider).at("resolve"));
    };
    if let Some(mut claim) = bench.claims().get(&lease.lease_id)? {
        claim.last_used_at = rfc3339(bench.clock.now_ms());
        claim.lease = Some(lease.clone());
        bench.claims().put(&claim)?;
    }
    lend_again(bench, lease).await
}

/// Takes an existing box in hand for this checkout, as its provider describes it now.
pub async fn adopt<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    name: &str,
    repo_root: &Path,
    reclaim: bool,
    events: &mut dyn EventSink,
) -> Result<Held> {
    bench.state.prepare()?;
    let (known, claim) = find(bench, name, Purpose::Use).await.map_err(|e| e.at("resolve"))?;
    let now = rfc3339(bench.clock.now_ms());
    let mut claim = match claim {
        Some(claim) => claim,
        None => fresh_claim(bench, &known, &now)?,
    };
    check_checkout(&claim, repo_root, reclaim).map_err(|e| e.at("resolve"))?;
    let root = repo_root.to_string_lossy().into_owned();
    if claim.repo_root != root {
        claim.claimed_at.clone_from(&now);
        claim.repo_root = root;
    }
    claim.last_used_at = now;
    claim.lease = Some(known.clone());
    claim.settings.clone_from(&bench.provider.about().settings);
    bench.claims().put(&claim)?;
    let held = Held {
        lease: known,
        claim,
        provider: bench.provider.about().provider.clone(),
        reused: true,
        known: false,
        trail: None,
        tailnet: None,
    };
    announce(&held, events);
    Ok(held)
}

/// Finds a box by name: its claim and what the provider says of it now.
pub async fn find<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    name: &str,
    purpose: Purpose,
) -> Result<(Lease, Option<Claim>)> {
    look_up(bench, name, purpose).await.map_err(|e| e.at("resolve"))
}

async fn look_up<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    name: &str,
    purpose: Purpose,
) -> Result<(Lease, Option<Claim>)> {
    let claim = bench.claims().find(name)?;
    let id = claim.as_ref().map_or_else(|| name.to_owned(), |c| c.lease_id.to_string());
    if claim.is_none() {
        return Ok((among(bench.provider.list().await?.0, name)?, None));
    }
    let known = claim.as_ref().and_then(|c| c.lease.clone());
    let query = Query { id, known, resources: Vec::new(), purpose };
    match bench.provider.resolve(&query).await? {
        Some(lease) => Ok((lease, claim)),
        None => Err(gone(name, &bench.provider.about().provider)),
    }
}

/// Looks a name up among listed boxes: lease id, then slug, then machine name, then provider id.
pub fn among(leases: Vec<Lease>, name: &str) -> Result<Lease> {
    let wanted = normalise(name);
    let rules: [&dyn Fn(&Lease) -> bool; 4] = [
        &|l| l.lease_id.as_str() == name,
        &|l| !l.slug.is_empty() && normalise(&l.slug) == wanted,
        &|l| !l.name.is_empty() && l.name == name,
        &|l| !l.cloud_id.is_empty() && l.cloud_id == name,
    ];
    for rule in rules {
        let fits: Vec<&Lease> = leases.iter().filter(|l| rule(l)).collect();
        match fits[..] {
            [] => {}
            [one] => return Ok(one.clone()),
            _ => {
                return Err(ambiguous(
                    name,
                    fits.iter().map(|l| (l.lease_id.as_str(), l.slug.as_str())),
                ));
            }
        }
    }
    Err(KernelError::new(ErrorCode::NotFound, format!("no lease is called {name}"))
        .hint("`crabbox list` and `crabbox claims list` show what there is"))
}

fn gone(name: &str, provider: &str) -> KernelError {
    KernelError::new(ErrorCode::NotFound, format!("lease {name} no longer exists at {provider}"))
        .hint(format!("`crabbox stop {name}` forgets it; `crabbox warmup` leases a new box"))
}

fn fresh_claim<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    lease: &Lease,
    now: &str,
) -> Result<Claim> {
    let secs = |label: &str| lease.labels.get(label).and_then(|v| v.parse().ok()).unwrap_or(0);
    Ok(Claim {
        lease_id: lease.lease_id.clone(),
        slug: lease.slug.clone(),
        provider: bench.provider.about().provider.clone(),
        repo_root: String::new(),
        claimed_at: now.to_owned(),
        last_used_at: now.to_owned(),
        idle_timeout_seconds: secs("idle_timeout_secs"),
        ttl_seconds: secs("ttl_secs"),
        created_at: now.to_owned(),
        keep: true,
        plugin: Some(bench.provider.pin()?),
        settings: bench.provider.about().settings.clone(),
        lease: Some(lease.clone()),
        other: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crabbox_schemas::ids::LeaseId;

    fn lease(id: &str, slug: &str, name: &str, cloud_id: &str) -> Lease {
        Lease {
            lease_id: LeaseId::parse(id).unwrap(),
            slug: slug.into(),
            name: name.into(),
            cloud_id: cloud_id.into(),
            status: "ready".into(),
            server_type: String::new(),
            labels: BTreeMap::new(),
            work_root: None,
            ssh: None,
        }
    }

    #[test]
    fn the_lease_id_wins_over_a_slug_that_looks_like_it() {
        let boxes = vec![
            lease("cbx_000000000001", "blue-prawn", "m1", "7"),
            lease("cbx_000000000002", "cbx-000000000001", "m2", "8"),
        ];
        for (name, expected) in
            [("cbx_000000000001", "m1"), ("Blue_Prawn", "m1"), ("m2", "m2"), ("8", "m2")]
        {
            assert_eq!(among(boxes.clone(), name).unwrap().name, expected, "{name}");
        }
        assert_eq!(among(boxes, "nobody").unwrap_err().code, ErrorCode::NotFound);
    }

    #[test]
    fn an_ambiguous_slug_lists_the_candidates() {
        let boxes = vec![
            lease("cbx_000000000001", "a-b", "m1", "7"),
            lease("cbx_000000000002", "a-b", "m2", "8"),
        ];
        let error = among(boxes, "a-b").unwrap_err();
        assert_eq!(error.code, ErrorCode::Ambiguous);
        assert!(
            error.message.contains("cbx_000000000001")
                && error.message.contains("cbx_000000000002")
        );
    }
}
