//! A new box: intent on disk, then the provider, then the claim; and what to do when that fails half-way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crabbox_schemas::claim::{Claim, PluginPin};
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::journal::TrailLine;
use crabbox_schemas::lease::{Bootstrap, Desired, Lease, ReleaseOutcome};

use crate::bootstrap::{CLOUD_INIT, Recipe, Windows, linux, macos, windows};
use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::lease::claim::check_checkout;
use crate::lease::evidence::{self, is_of_a_dead_box};
use crate::lease::reap::{placeholder, settle};
use crate::lease::trail::Trail;
use crate::lease::{Bench, Held, NewLease, announce, not_asked_for};
use crate::ports::{Clock, Dialer, EventSink, Provider, Stop, Urgency, Wanted};
use crate::slug;
use crate::state::{make_dir, write_atomic};
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
    let about = bench.provider.about();
    let desired = tokio::select! {
        biased;
        () = stop.reaches(Urgency::Gentle) => {
            let why = "interrupted before a box was asked for";
            return Err(KernelError::new(ErrorCode::Cancelled, why).at("acquire"));
        }
        desired = choose(bench, new) => desired?,
    };
    let idem: String = random()?.iter().chain(&random()?).map(|b| format!("{b:02x}")).collect();
    let plugin = bench.provider.pin().map_err(|e| e.at("provider"))?;
    let intent = intent(bench, new, &desired, &idem, repo_root, &plugin);
    let mut trail = Trail::begin(&bench.state.journal(), intent)?;
    let wanted = match wanted(bench, new, &desired, idem) {
        Ok(wanted) => wanted,
        Err(error) => {
            let error = error.outcome(Outcome::NotStarted);
            return Err(undo(bench, trail, &desired, error, events).await.at("acquire"));
        }
    };
    let started = Event::LeasingStarted {
        desired: desired.clone(),
        provider: about.provider.clone(),
        class: new.request.class.clone(),
        keep: new.request.keep,
    };
    let mut asking = Asking { events, started: Some(started) };
    let acquired = bench.provider.acquire(&wanted, &mut trail, &mut asking, stop).await;
    if acquired.is_ok() {
        asking.begin();
    }
    let own_ids = about.features.iter().any(|feature| feature == OWN_LEASE_IDS);
    let done = match acquired {
        Ok(lease) if lease.lease_id == desired.lease_id => {
            claim_new(bench, new, repo_root, lease, &plugin, &mut trail)
        }
        Ok(lease) if own_ids => {
            forget(bench, trail, &desired)?;
            let held =
                claim_found(bench, new, repo_root, lease, &plugin).map_err(|e| e.at("acquire"))?;
            announce(&held, events);
            return Ok(held);
        }
        Ok(other) => Err(not_asked_for(bench, &desired.lease_id, &other)),
        Err(error) => Err(error),
    };
    match done {
        Ok((lease, claim)) => {
            let provider = about.provider.clone();
            let (trail, tailnet) = (Some(trail), new.tailnet.clone());
            let held = Held { lease, claim, provider, reused: false, known: false, trail, tailnet };
            announce(&held, events);
            Ok(held)
        }
        Err(error) => Err(undo(bench, trail, &desired, error, events).await.at("acquire")),
    }
}

/// Tells that a box is being asked for when the first thing is done for it: what the provider refuses at a look is
/// never said to have begun.
struct Asking<'a> {
    events: &'a mut dyn EventSink,
    started: Option<Event>,
}

impl Asking<'_> {
    fn begin(&mut self) {
        self.started.take().into_iter().for_each(|started| self.events.emit(started));
    }
}

impl EventSink for Asking<'_> {
    fn emit(&mut self, event: Event) {
        if !matches!(event, Event::Debug { .. } | Event::Warning { .. }) {
            self.begin();
        }
        self.events.emit(event);
    }
}

/// Claims the box that was made.
fn claim_new<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    new: &NewLease,
    repo_root: &Path,
    lease: Lease,
    plugin: &PluginPin,
    trail: &mut Trail,
) -> Result<(Lease, Claim)> {
    let claim = claim(bench, new, repo_root, &lease, plugin);
    bench.claims().put(&claim)?;
    trail.append(TrailLine::Claimed { at: claim.claimed_at.clone() })?;
    Ok((lease, claim))
}

/// Claims a box that was there before, under an id of its own. One that was kept stays kept.
fn claim_found<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    new: &NewLease,
    repo_root: &Path,
    lease: Lease,
    plugin: &PluginPin,
) -> Result<Held> {
    let earlier = bench.claims().get(&lease.lease_id)?;
    let mut claim = claim(bench, new, repo_root, &lease, plugin);
    let mut reused = false;
    if let Some(earlier) = earlier {
        check_checkout(&earlier, repo_root, new.reclaim)?;
        reused = earlier.keep;
        claim.keep |= earlier.keep;
        claim.created_at = earlier.created_at;
        claim.other = earlier.other;
    }
    bench.claims().put(&claim)?;
    let provider = bench.provider.about().provider.clone();
    Ok(Held { lease, claim, provider, reused, known: false, trail: None, tailnet: None })
}

fn claim<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    new: &NewLease,
    repo_root: &Path,
    lease: &Lease,
    plugin: &PluginPin,
) -> Claim {
    let about = bench.provider.about();
    let now = rfc3339(bench.clock.now_ms());
    Claim {
        lease_id: lease.lease_id.clone(),
        slug: lease.slug.clone(),
        provider: about.provider.clone(),
        repo_root: repo_root.to_string_lossy().into_owned(),
        claimed_at: now.clone(),
        last_used_at: now.clone(),
        idle_timeout_seconds: new.request.idle_timeout_secs,
        ttl_seconds: new.request.ttl_secs,
        created_at: now,
        keep: new.request.keep,
        plugin: Some(plugin.clone()),
        settings: about.settings.clone(),
        lease: Some(lease.clone()),
        other: BTreeMap::new(),
    }
}

async fn choose<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    new: &NewLease,
) -> Result<Desired> {
    let lease_id = LeaseId::mint(random()?);
    let taken = taken_slugs(bench).await?;
    let slug = match &new.slug {
        Some(slug) if taken.contains(slug) => {
            return Err(KernelError::new(
                ErrorCode::Usage,
                format!("a box called {slug} exists already"),
            )
            .hint(format!("choose another --slug, use it with --id {slug}, or stop it first")));
        }
        Some(slug) => slug.clone(),
        None => slug::choose(&lease_id, |slug| taken.contains(slug)),
    };
    Ok(Desired { name: slug::machine_name(&lease_id, &slug), slug, lease_id })
}

fn wanted<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    new: &NewLease,
    desired: &Desired,
    idem: String,
) -> Result<Wanted> {
    let keys = bench.state.keys(&desired.lease_id);
    make_dir(&keys)?;
    let ssh_public_key = bench.dialer.key_pair(&keys, &format!("crabbox {}", desired.lease_id))?;
    let now = bench.clock.now_ms() / 1000;
    let labels = labels(new, desired, &bench.provider.about().provider, now);
    let bootstrap = bootstrap(bench, new, desired, &ssh_public_key)?;
    let (desired, request) = (desired.clone(), new.request.clone());
    Ok(Wanted { desired, request, ssh_public_key, labels, bootstrap, idem })
}

/// How the machine becomes a box, for providers that only make machines. What is known of its host key is kept with
/// the lease's own key, so that no connection ever has to believe what it sees.
fn bootstrap<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    new: &NewLease,
    desired: &Desired,
    authorized_key: &str,
) -> Result<Option<Bootstrap>> {
    let wants = bench.provider.about().features.iter().any(|feature| feature == CLOUD_INIT);
    if !wants {
        return match &new.request.features[..] {
            [] => Ok(None),
            asked => Err(cannot_have(&bench.provider.about().provider, asked)),
        };
    }
    let host_key = bench.dialer.host_key(&format!("crabbox {}", desired.lease_id))?;
    let recipe = Recipe {
        user: &new.login.user,
        ports: &new.login.ports,
        work_root: new.request.work_root.as_deref(),
        authorized_key,
        host_key: &host_key,
        features: &new.request.features,
        ends_at_ms: bench.clock.now_ms() + new.request.ttl_secs * 1000,
    };
    let made = match &*new.request.target {
        "windows" if new.request.is_native_windows() => windows(&recipe, Windows::Native),
        "windows" => windows(&recipe, Windows::Wsl2),
        "macos" => macos(&recipe),
        _ => linux(&recipe),
    }?;
    let file = bench.state.host_key(&desired.lease_id);
    write_atomic(&file, format!("{}\n", host_key.public).as_bytes())?;
    Ok(Some(made))
}

fn cannot_have(provider: &str, asked: &[String]) -> KernelError {
    let options = asked.iter().map(|word| format!("--{word}")).collect::<Vec<_>>().join(", ");
    let what = format!("{provider} sets its boxes up itself and cannot do {options}");
    KernelError::new(ErrorCode::Unsupported, what)
        .hint("leave it out, or use a provider of bare Linux machines")
}

/// Slugs of local claims, of leases that nobody finished, and of boxes of this provider. A provider that cannot list now is no reason to
/// refuse a box; that it does not know us is.
async fn taken_slugs<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
) -> Result<BTreeSet<String>> {
    let listed = match bench.provider.list().await {
        Ok((leases, _)) => leases,
        Err(error) if error.code == ErrorCode::Auth => {
            return Err(error.outcome(Outcome::NotStarted).at("acquire"));
        }
        Err(error) => {
            tracing::debug!(%error, "could not list boxes to avoid slug collisions");
            Vec::new()
        }
    };
    let claimed = bench.claims().all().0.into_iter().map(|claim| claim.slug);
    let unfinished = Trail::slugs(&bench.state.journal());
    Ok(claimed.chain(listed.into_iter().map(|lease| lease.slug)).chain(unfinished).collect())
}

fn intent<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    new: &NewLease,
    desired: &Desired,
    idem: &str,
    repo_root: &Path,
    plugin: &PluginPin,
) -> TrailLine {
    let about = bench.provider.about();
    TrailLine::Intent {
        desired: desired.clone(),
        provider: about.provider.clone(),
        plugin: plugin.clone(),
        idem: idem.to_owned(),
        repo_root: repo_root.to_string_lossy().into_owned(),
        keep: new.request.keep,
        at: rfc3339(bench.clock.now_ms()),
        pid: std::process::id(),
    }
}

/// After a failed acquire: finds out what was left behind and removes it, or leaves the trail for `cleanup`.
async fn undo<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    trail: Trail,
    desired: &Desired,
    error: KernelError,
    events: &mut dyn EventSink,
) -> KernelError {
    let certain = matches!(error.outcome, Some(Outcome::NotStarted | Outcome::RolledBack));
    if certain && trail.resources().is_empty() {
        if let Err(error) = forget(bench, trail, desired) {
            events.emit(Event::Warning { message: error.to_string() });
        }
        return error;
    }
    // What the provider removed itself cannot be asked about any more; its error says how that was.
    let made = trail.resources().into_iter().rfind(|resource| resource.billable);
    if let Some(made) = made.filter(|_| is_of_a_dead_box(&error)) {
        let lease = Lease { cloud_id: made.cloud_id, ..placeholder(desired) };
        evidence::ask(bench, &lease, events).await;
    }
    let left = match settle(bench, desired, trail).await {
        Ok(ReleaseOutcome::Pending) => "is still being deleted".to_owned(),
        Ok(_) => return error.outcome(Outcome::RolledBack),
        Err(error) => format!("may have been left behind ({error})"),
    };
    let slug = &desired.slug;
    events.emit(Event::Warning { message: format!("{slug} {left}; run `crabbox cleanup`") });
    error.outcome(Outcome::Uncertain)
}

/// Removes trail and keys of a lease that never was.
fn forget<P, D, C>(bench: &Bench<'_, P, D, C>, trail: Trail, desired: &Desired) -> Result<()> {
    let _ = std::fs::remove_dir_all(bench.state.keys(&desired.lease_id));
    trail.finish()
}

/// The labels every provider puts on its resource, which adds the machine type it chose.
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
        ("profile", new.profile.clone()),
        ("class", request.class.clone()),
        ("target", request.target.clone()),
        ("keep", request.keep.to_string()),
        ("state", "leased".to_owned()),
        ("created_at", now_secs.to_string()),
        ("last_touched_at", now_secs.to_string()),
        ("expires_at", expires.to_string()),
        ("idle_timeout", request.idle_timeout_secs.to_string()),
        ("idle_timeout_secs", request.idle_timeout_secs.to_string()),
        ("ttl_secs", request.ttl_secs.to_string()),
    ];
    let mode = request.windows_mode.iter().map(|mode| ("windows_mode", mode.clone()));
    let machine = request.machine_type.iter().map(|machine| ("server_type", machine.clone()));
    let asked = request.features.iter().map(|feature| (feature.as_str(), "true".to_owned()));
    let all = pairs.into_iter().chain(machine).chain(mode).chain(asked);
    all.map(|(key, value)| (key.to_owned(), slug::label_value(&value))).collect()
}

/// Six bytes of randomness.
pub fn random() -> Result<[u8; 6]> {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes).map_err(|e| {
        KernelError::new(ErrorCode::Internal, format!("the system gives no randomness: {e}"))
    })?;
    Ok(bytes)
}
