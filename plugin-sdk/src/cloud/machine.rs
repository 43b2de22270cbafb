//! A machine as a lease: whose it is, how it is reached, and what its labels say.

use std::collections::BTreeMap;

use crate::label::labelled;
use crate::{AcquireParams, Bootstrap, Failure, Lease, LeaseId, Resource, SshEndpoint};

/// A machine, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The service's own id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its machine type.
    pub machine: String,
    /// Where it is.
    pub place: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The address it is reached at, once there is one.
    pub host: Option<String>,
    /// How it is, in the service's words.
    pub state: String,
    /// How it is, in ours.
    pub phase: Phase,
    /// Why it ended, as `evidence.collect` says it, where the service tells.
    pub ended: Option<&'static str>,
}

/// How far a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is being made, or started.
    Coming,
    /// It runs.
    Up,
    /// It does not run, and is still paid for.
    Down,
    /// It never will run, and is still there; or it is only a part of what was a machine.
    Failed,
    /// It goes.
    Leaving,
}

/// What is made for a lease beside its machine, such as a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// What the trail says of it.
    pub resource: Resource,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Whether labels say that something was made for this lease.
pub fn is_of(labels: &BTreeMap<String, String>, id: &LeaseId) -> bool {
    labelled(labels, "crabbox") == "true" && labelled(labels, "lease") == id.as_str()
}

/// What people call something by its id, which may be a path.
pub fn short(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or_default()
}

/// The name a lease's key has at a service.
pub fn key_name(id: &LeaseId) -> String {
    format!("crabbox-{}", id.as_str().replace('_', "-"))
}

impl Machine {
    pub(super) fn is_of(&self, id: &LeaseId) -> bool {
        is_of(&self.labels, id)
    }

    /// Whether a name the user typed means this machine.
    pub(super) fn answers_to(&self, name: &str) -> bool {
        let labels = ["lease", "slug"].map(|label| labelled(&self.labels, label));
        labels.into_iter().chain([&*self.id, &*self.name]).any(|known| known == name)
    }

    pub(super) fn short_id(&self) -> &str {
        short(&self.id)
    }

    /// Whether it is on its way to run, or runs.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Coming | Phase::Up)
    }

    fn status(&self) -> &str {
        match (self.phase, labelled(&self.labels, "state")) {
            (Phase::Up, "") => "ready",
            (Phase::Up, state) => state,
            (Phase::Coming, _) => "leased",
            (Phase::Down, _) => "expired",
            (Phase::Failed, _) => "failed",
            (Phase::Leaving, _) => "released",
        }
    }

    /// The lease it is labelled with; none when that is none.
    pub(super) fn lease(&self, reached: &Reached<'_>) -> Option<Lease> {
        Some(Lease {
            lease_id: LeaseId::parse(labelled(&self.labels, "lease"))?,
            slug: labelled(&self.labels, "slug").to_owned(),
            name: self.name.clone(),
            cloud_id: self.id.clone(),
            status: self.status().to_owned(),
            server_type: self.machine.clone(),
            labels: self.labels.clone(),
            work_root: reached.work_root(),
            ssh: self.host.as_deref().map(|host| reached.endpoint(host)),
        })
    }

    /// The same where it must be labelled.
    pub(super) fn leased(&self, reached: &Reached<'_>) -> Result<Lease, Failure> {
        let unlabelled = || Failure::not_found(format!("{} is labelled with no lease", self.id));
        self.lease(reached).ok_or_else(unlabelled)
    }

    pub(super) fn resource(&self, kind: &str) -> Resource {
        let (kind, cloud_id) = (kind.to_owned(), self.id.clone());
        let region = Some(self.place.clone()).filter(|place| !place.is_empty());
        Resource { kind, cloud_id, region, billable: true }
    }
}

impl Extra {
    /// What is left of a lease when only this is: enough to give it back.
    pub(super) fn lease(&self, id: &LeaseId) -> Lease {
        let mut labels = self.labels.clone();
        labels.extend(self.resource.region.iter().map(|at| ("region".to_owned(), at.clone())));
        Lease {
            lease_id: id.clone(),
            slug: labelled(&labels, "slug").to_owned(),
            name: self.name.clone(),
            cloud_id: self.resource.cloud_id.clone(),
            status: "failed".to_owned(),
            server_type: String::new(),
            labels,
            work_root: None,
            ssh: None,
        }
    }
}

/// What an acquire would make.
pub(super) fn planned(
    params: &AcquireParams,
    machine: &str,
    labels: BTreeMap<String, String>,
) -> Lease {
    let desired = params.desired.clone();
    Lease {
        lease_id: desired.lease_id,
        slug: desired.slug,
        name: desired.name,
        cloud_id: "planned".to_owned(),
        status: "planned".to_owned(),
        server_type: machine.to_owned(),
        labels,
        work_root: None,
        ssh: None,
    }
}

/// Who says how a machine is reached.
#[derive(Debug, Clone, Copy)]
pub enum Reached<'a> {
    /// The kernel, when it is made.
    Made(&'a Bootstrap),
    /// The kernel, when it knows the lease.
    Known(Option<&'a Lease>),
}

impl Reached<'_> {
    /// The folder that holds work directories on it.
    pub fn work_root(&self) -> Option<String> {
        match self {
            Self::Made(bootstrap) => Some(bootstrap.work_root.clone()),
            Self::Known(known) => known.and_then(|known| known.work_root.clone()),
        }
    }

    /// How it is reached at this host name or address.
    pub fn endpoint(&self, host: &str) -> SshEndpoint {
        let known = match self {
            Self::Made(bootstrap) => return bootstrap.endpoint(host),
            Self::Known(known) => known.and_then(|known| known.ssh.clone()),
        };
        let usual = || SshEndpoint {
            user: "crabbox".to_owned(),
            port: 2222,
            fallback_ports: vec![22],
            ..SshEndpoint::default()
        };
        SshEndpoint { host: host.to_owned(), ..known.unwrap_or_else(usual) }
    }
}
