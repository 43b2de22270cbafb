//! A new box: intent on disk, then the provider, then the claim; and what to do when that fails half-way.

use std::collections::BTreeMap;
use std::path::Path;

use crabbox_schemas::claim::Claim;
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::journal::TrailLine;
use crabbox_schemas::lease::{Desired, Lease};
use crabbox_schemas::plugin::Purpose;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::lease::claim::check_checkout;
use crate::lease::trail::Trail;
use crate::lease::{Bench, Held, NewLease, announce};
use crate::ports::{Clock, Dialer, EventSink, Provider, Query, Stop, Urgency, Wanted};
use crate::slug;
use crate::state::make_dir;
use crate::time::rfc3339;

/// The manifest feature of providers whose leases have ids of their own, such as hosts the user owns.
pub const OWN_LEASE_IDS: &str = "own-lease-ids";

/// Makes a box and claims it.
pub async fn acquire<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    new: &NewLease,
    repo_root: &Path,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Held> {
    bench.state.prepare()?;
    let wanted = wanted(bench, new).await?;
    let about = bench.provider.about();
    if stop.urgency() >= Urgency::Gentle {
        return Err(KernelError::new(
            ErrorCode::Cancelled,
            "interrupted before a box was asked for",
        )
        .at("acquire"));
    }
    let mut trail = Trail::begin(&bench.state.journal(), intent(bench, &wanted, repo_root))?;
    events.emit(Event::LeasingStarted {
        desired: wanted.desired.clone(),
        provider: about.provider.clone(),
        class: new.request.class.clone(),
        keep: new.request.keep,
    });
    let lease = match bench.provider.acquire(&wanted, &mut trail, events, stop).await {
        Ok(lease) => lease,
        Err(error) => return Err(undo(bench, trail, &wanted, error, events).await.at("acquire")),
    };
    let own_id = lease.lease_id != wanted.desired.lease_id;
    if own_id {
        if let Some(claim) = bench.claims().get(&lease.lease_id)? {
            trail.finish()?;
            forget_keys(bench, &wanted.desired.lease_id);
            check_checkout(&claim, repo_root, new.reclaim).map_err(|e| e.at("acquire"))?;
            return finish(bench, new, repo_root, lease, None, events);
        }
        trail.finish()?;
        forget_keys(bench, &wanted.desired.lease_id);
        return finish(bench, new, repo_root, lease, None, events);
    }
    finish(bench, new, repo_root, lease, Some(trail), events)
}

/// Writes the claim, closes the intent and announces the box.
fn finish<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    new: &NewLease,
    repo_root: &Path,
    lease: Lease,
    mut trail: Option<Trail>,
    events: &mut dyn EventSink,
) -> Result<Held> {
    let about = bench.provider.about();
    let now = rfc3339(bench.clock.now_ms());
    let claim = Claim {
        lease_id: lease.lease_id.clone(),
        slug: lease.slug.clone(),
        provider: about.provider.clone(),
        repo_root: repo_root.to_string_lossy().into_owned(),
        claimed_at: now.clone(),
        last_used_at: now.clone(),
        idle_timeout_seconds: new.request.idle_timeout_secs,
        ttl_seconds: new.request.ttl_secs,
        created_at: now.clone(),
        keep: new.request.keep,
        plugin: Some(about.plugin.clone()),
        lease: Some(lease.clone()),
        other: BTreeMap::new(),
    };
    bench.claims().put(&claim)?;
    if let Some(trail) = trail.as_mut() {
        trail.append(TrailLine::Claimed { at: now })?;
    }
    let held = Held { lease, claim, provider: about.provider.clone(), reused: false, trail };
    announce(&held, events);
    Ok(held)
}

async fn wanted<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    new: &NewLease,
) -> Result<Wanted> {
    let lease_id = LeaseId::mint(random()?);
    let slug = match &new.slug {
        Some(slug) => slug.clone(),
        None => free_slug(bench, &lease_id).await,
    };
    let desired = Desired { name: slug::machine_name(&lease_id, &slug), slug, lease_id };
    make_dir(&bench.state.keys(&desired.lease_id))?;
    let ssh_public_key = bench
        .dialer
        .key_pair(&bench.state.keys(&desired.lease_id), &format!("crabbox {}", desired.lease_id))?;
    let labels =
        labels(new, &desired, &bench.provider.about().provider, bench.clock.now_ms() / 1000);
    let idem = random()?.iter().chain(&random()?).map(|b| format!("{b:02x}")).collect();
    Ok(Wanted { desired, request: new.request.clone(), ssh_public_key, labels, idem })
}

/// A slug that neither a local claim nor a box of this provider has. A provider that cannot list now is
/// no reason to refuse a box.
async fn free_slug<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    id: &LeaseId,
) -> String {
    let claimed = bench.claims().all().0;
    let listed = match bench.provider.list().await {
        Ok((leases, _)) => leases,
        Err(error) => {
            tracing::debug!(%error, "could not list boxes to avoid slug collisions");
            Vec::new()
        }
    };
    slug::choose(id, |slug| {
        claimed.iter().any(|c| c.slug == slug) || listed.iter().any(|l| l.slug == slug)
    })
}

fn intent<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    wanted: &Wanted,
    repo_root: &Path,
) -> TrailLine {
    let about = bench.provider.about();
    TrailLine::Intent {
        desired: wanted.desired.clone(),
        provider: about.provider.clone(),
        plugin: about.plugin.clone(),
        idem: wanted.idem.clone(),
        repo_root: repo_root.to_string_lossy().into_owned(),
        keep: wanted.request.keep,
        at: rfc3339(bench.clock.now_ms()),
        pid: std::process::id(),
    }
}

/// After a failed acquire: finds out what was left behind and removes it, or leaves the trail for `cleanup`.
async fn undo<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    trail: Trail,
    wanted: &Wanted,
    error: KernelError,
    events: &mut dyn EventSink,
) -> KernelError {
    let certain = matches!(error.outcome, Some(Outcome::NotStarted | Outcome::RolledBack));
    if certain && trail.resources().is_empty() {
        forget(bench, trail, wanted, events);
        return error;
    }
    let query = Query {
        id: wanted.desired.lease_id.to_string(),
        known: None,
        resources: trail.resources(),
        purpose: Purpose::Reconcile,
    };
    let gone = match bench.provider.resolve(&query).await {
        Ok(None) => true,
        Ok(Some(lease)) => bench.provider.release(&lease).await.is_ok(),
        Err(_) => false,
    };
    if gone {
        forget(bench, trail, wanted, events);
        return error.outcome(Outcome::RolledBack);
    }
    let slug = &wanted.desired.slug;
    events.emit(Event::Warning {
        message: format!("{slug} may have been left behind; run `crabbox cleanup`"),
    });
    error.outcome(Outcome::Uncertain)
}

fn forget<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    trail: Trail,
    wanted: &Wanted,
    events: &mut dyn EventSink,
) {
    forget_keys(bench, &wanted.desired.lease_id);
    if let Err(error) = trail.finish() {
        events.emit(Event::Warning { message: error.to_string() });
    }
}

fn forget_keys<P, D, C>(bench: &Bench<'_, P, D, C>, id: &LeaseId) {
    let _ = std::fs::remove_dir_all(bench.state.keys(id));
}

/// The labels every provider puts on its resource.
pub fn labels(
    new: &NewLease,
    desired: &Desired,
    provider: &str,
    now_secs: u64,
) -> BTreeMap<String, String> {
    let request = &new.request;
    let expires = now_secs + request.idle_timeout_secs.min(request.ttl_secs);
    let pairs = [
        ("crabbox", "true".to_owned()),
        ("created_by", "crabbox".to_owned()),
        ("lease", desired.lease_id.to_string()),
        ("slug", desired.slug.clone()),
        ("provider", provider.to_owned()),
        ("provider_key", slug::key_name(&desired.lease_id)),
        ("class", request.class.clone()),
        ("target", request.target.clone()),
        ("server_type", request.machine_type.clone().unwrap_or_default()),
        ("keep", request.keep.to_string()),
        ("state", "leased".to_owned()),
        ("created_at", now_secs.to_string()),
        ("last_touched_at", now_secs.to_string()),
        ("expires_at", expires.to_string()),
        ("idle_timeout", request.idle_timeout_secs.to_string()),
        ("idle_timeout_secs", request.idle_timeout_secs.to_string()),
        ("ttl_secs", request.ttl_secs.to_string()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), slug::label_value(&value))).collect()
}

/// Six bytes of randomness.
pub fn random() -> Result<[u8; 6]> {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes).map_err(|e| {
        KernelError::new(ErrorCode::Internal, format!("the system gives no randomness: {e}"))
    })?;
    Ok(bytes)
}
