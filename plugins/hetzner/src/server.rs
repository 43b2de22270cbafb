//! Servers and keys as Hetzner shows them, and as machines of leases.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::cloud::{Extra, Machine, Phase};
use crabbox_plugin_sdk::{LeaseId, Resource};
use serde::Deserialize;

/// Selects what crabbox made.
pub(crate) const OURS: &str = "crabbox=true";

/// Selects what was made for one lease.
pub(crate) fn selector(id: &LeaseId) -> String {
    format!("{OURS},lease={id}")
}

/// A server, as far as it matters.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Server {
    pub(crate) id: u64,
    name: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    server_type: Named,
    #[serde(default)]
    public_net: PublicNet,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct PublicNet {
    ipv4: Option<Ip>,
    ipv6: Option<Ip>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Ip {
    ip: String,
}

/// Something of which only the name matters.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

impl PublicNet {
    /// The IPv4 address, else the first one of the IPv6 network.
    fn host(&self) -> Option<String> {
        let filled = |ip: &&Ip| !ip.ip.is_empty();
        let first = |ip: &Ip| {
            let network = ip.ip.split('/').next().unwrap_or_default();
            if network.ends_with("::") { format!("{network}1") } else { network.to_owned() }
        };
        let ipv4 = self.ipv4.as_ref().filter(filled).map(|ip| ip.ip.clone());
        ipv4.or_else(|| self.ipv6.as_ref().filter(filled).map(first))
    }
}

impl Server {
    pub(crate) fn phase(&self) -> Phase {
        match &*self.status {
            "running" => Phase::Up,
            "off" | "stopping" => Phase::Down,
            "deleting" => Phase::Leaving,
            _ => Phase::Coming,
        }
    }

    /// Nobody answers at its address before it starts.
    pub(crate) fn machine(self) -> Machine {
        Machine {
            id: self.id.to_string(),
            machine: self.server_type.name.clone(),
            place: String::new(),
            host: self.public_net.host().filter(|_| self.status != "initializing"),
            phase: self.phase(),
            name: self.name,
            labels: self.labels,
            state: self.status,
            ended: None,
        }
    }
}

/// A public key in the project.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct SshKey {
    id: u64,
    pub(crate) name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl SshKey {
    pub(crate) fn extra(self) -> Extra {
        let (kind, cloud_id) = ("ssh-key".to_owned(), format!("ssh-key-{}", self.id));
        let resource = Resource { kind, cloud_id, region: None, billable: false };
        Extra { resource, name: self.name, labels: self.labels }
    }
}
