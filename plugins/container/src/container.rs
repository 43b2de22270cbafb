//! A container as the kernel sees it: a lease.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::{
    AcquireParams, Desired, Failure, Lease, LeaseId, Resource, SshAuth, SshEndpoint,
};

use crate::engine::{Container, Engine};
use crate::notes::Notes;
use crate::settings::Settings;

/// Most boxes that are listed.
pub(crate) const LIMIT: usize = 500;
/// The label that holds the lease's public key; it is for us alone.
pub(crate) const KEY: &str = "ssh_public_key";

/// Whether a person, or the journal, means this container by a name.
pub(crate) fn answers_to(container: &Container, name: &str) -> bool {
    let short = name.len() >= 12 && container.id.starts_with(name);
    let names = [container.label("lease"), container.label("slug"), container.plain_name()];
    short || names.contains(&name)
}

/// A container as the journal keeps it.
pub(crate) fn resource(id: &str) -> Resource {
    Resource {
        kind: "container".to_owned(),
        cloud_id: id.to_owned(),
        region: None,
        billable: false,
    }
}

/// What an acquire would make.
pub(crate) fn planned(settings: &Settings, params: &AcquireParams) -> Lease {
    let Desired { lease_id, slug, name } = params.desired.clone();
    Lease {
        lease_id,
        slug,
        name,
        cloud_id: String::new(),
        status: "leased".to_owned(),
        server_type: settings.image.clone(),
        labels: params.labels.clone(),
        work_root: Some(settings.work_root(params.request.work_root.as_deref())),
        ssh: None,
    }
}

/// A container of ours, with what is noted of it.
pub(crate) fn lease(
    engine: Engine,
    container: &Container,
    notes: Option<&Notes>,
) -> Result<Lease, Failure> {
    let lease_id = LeaseId::parse(container.label("lease")).ok_or_else(|| {
        Failure::conflict(format!("container {} carries no lease id", container.plain_name()))
    })?;
    let status = match container.status.as_str() {
        "running" if notes.is_some() => "ready",
        "running" | "created" | "configured" | "initialized" => "leased",
        _ => "failed",
    };
    Ok(Lease {
        lease_id,
        slug: container.label("slug").to_owned(),
        name: container.plain_name().to_owned(),
        cloud_id: container.id.clone(),
        status: status.to_owned(),
        server_type: container.label("image").to_owned(),
        labels: labels(engine, container, status, notes),
        work_root: Some(container.label("work_root").to_owned()).filter(|root| !root.is_empty()),
        ssh: notes.filter(|_| container.is_running()).and_then(|notes| endpoint(container, notes)),
    })
}

/// The labels as they would be if those of a container could change.
fn labels(
    engine: Engine,
    container: &Container,
    status: &str,
    notes: Option<&Notes>,
) -> BTreeMap<String, String> {
    let mut labels = container.labels.clone().unwrap_or_default();
    labels.remove(KEY);
    labels.insert("runtime".to_owned(), engine.0.to_owned());
    labels.insert("state".to_owned(), status.to_owned());
    let Some(notes) = notes else { return labels };
    let number = |name: &str| container.label(name).parse::<u64>().unwrap_or_default();
    let end = number("created_at").saturating_add(limit(number("ttl_secs")));
    let idle = notes.last_touched_at.saturating_add(limit(number("idle_timeout_secs")));
    labels.extend(
        [
            ("state", notes.state.clone()),
            ("last_touched_at", notes.last_touched_at.to_string()),
            ("expires_at", end.min(idle).to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    labels
}

/// Zero means no limit; a century is long enough.
fn limit(secs: u64) -> u64 {
    if secs == 0 { 100 * 365 * 24 * 3600 } else { secs }
}

fn endpoint(container: &Container, notes: &Notes) -> Option<SshEndpoint> {
    Some(SshEndpoint {
        user: notes.user.clone(),
        host: "127.0.0.1".to_owned(),
        port: container.port().or(notes.port)?,
        host_keys: vec![notes.host_key.clone()],
        auth: SshAuth::KernelKey,
        ..SshEndpoint::default()
    })
}
