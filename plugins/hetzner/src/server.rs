//! A server as a lease: whose it is, how it is reached, and what its labels say.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::{
    AcquireParams, Bootstrap, Failure, Lease, LeaseId, Resource, SshEndpoint, label_value,
};

use crate::api::{Server, SshKey};

/// Selects what crabbox made.
pub(crate) const OURS: &str = "crabbox=true";

/// Selects what was made for one lease.
pub(crate) fn selector(id: &LeaseId) -> String {
    format!("{OURS},lease={id}")
}

/// The name of a lease's key in the project.
pub(crate) fn key_name(id: &LeaseId) -> String {
    format!("crabbox-{}", id.as_str().replace('_', "-"))
}

/// Whether labels say that something was made for this lease.
pub(crate) fn is_of(labels: &BTreeMap<String, String>, id: &LeaseId) -> bool {
    label(labels, "crabbox") == "true" && label(labels, "lease") == id.as_str()
}

fn label<'a>(labels: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    labels.get(name).map(String::as_str).unwrap_or_default()
}

impl Server {
    /// Whether a name the user typed means this server.
    pub(crate) fn answers_to(&self, name: &str) -> bool {
        label(&self.labels, "lease") == name
            || label(&self.labels, "slug") == name
            || self.name == name
            || self.id.to_string() == name
    }

    /// Whether it is on its way to run, or runs.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(&*self.status, "off" | "stopping" | "deleting")
    }

    fn state(&self) -> String {
        match &*self.status {
            "running" => match label(&self.labels, "state") {
                "" => "ready".to_owned(),
                state => state.to_owned(),
            },
            "off" | "stopping" => "expired".to_owned(),
            "deleting" => "released".to_owned(),
            _ => "leased".to_owned(),
        }
    }

    /// The lease it is labelled with. How it is reached comes from whoever made it or knows it.
    pub(crate) fn lease(&self, reached: &Reached<'_>) -> Result<Lease, Failure> {
        let id = LeaseId::parse(label(&self.labels, "lease")).ok_or_else(|| {
            Failure::not_found(format!("server {} is labelled with no lease", self.id))
        })?;
        Ok(Lease {
            lease_id: id,
            slug: label(&self.labels, "slug").to_owned(),
            name: self.name.clone(),
            cloud_id: self.id.to_string(),
            status: self.state(),
            server_type: self.server_type.name.clone(),
            labels: self.labels.clone(),
            work_root: reached.work_root(),
            ssh: self.public_net.host().map(|host| reached.endpoint(&host)),
        })
    }
}

/// Who says how a server is reached.
pub(crate) enum Reached<'a> {
    /// The kernel, when it is made.
    Made(&'a Bootstrap),
    /// The kernel, when it knows the lease.
    Known(Option<&'a Lease>),
}

impl Reached<'_> {
    fn work_root(&self) -> Option<String> {
        match self {
            Self::Made(bootstrap) => Some(bootstrap.work_root.clone()),
            Self::Known(known) => known.and_then(|known| known.work_root.clone()),
        }
    }

    fn endpoint(&self, host: &str) -> SshEndpoint {
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

/// What is left of a lease when only its key is: enough to give that back.
pub(crate) fn only_key(key: &SshKey, id: &LeaseId) -> Lease {
    Lease {
        lease_id: id.clone(),
        slug: label(&key.labels, "slug").to_owned(),
        name: key.name.clone(),
        cloud_id: format!("ssh-key-{}", key.id),
        status: "failed".to_owned(),
        server_type: String::new(),
        labels: key.labels.clone(),
        work_root: None,
        ssh: None,
    }
}

/// The labels of a lease's server or key, all fit for Hetzner: what the kernel wants, and what we search by.
pub(crate) fn labels(params: &AcquireParams, machine: Option<&str>) -> BTreeMap<String, String> {
    let own = [
        ("crabbox", "true"),
        ("provider", "hetzner"),
        ("lease", params.desired.lease_id.as_str()),
        ("slug", &params.desired.slug),
    ];
    let machine = machine.map(|machine| ("server_type", machine));
    let given = params.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let all = given.chain(own).chain(machine);
    all.map(|(name, value)| (name.to_owned(), label_value(value))).collect()
}

pub(crate) fn server_resource(server: &Server) -> Resource {
    Resource {
        kind: "server".to_owned(),
        cloud_id: server.id.to_string(),
        region: None,
        billable: true,
    }
}

pub(crate) fn key_resource(key: &SshKey) -> Resource {
    let cloud_id = format!("ssh-key-{}", key.id);
    Resource { kind: "ssh-key".to_owned(), cloud_id, region: None, billable: false }
}
