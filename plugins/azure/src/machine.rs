//! What belongs to a lease: its machine, address, network interface and disk, whose they are, and how they go.

use std::collections::BTreeMap;
use std::time::Duration;

use crabbox_plugin_sdk::cloud::Reached;
use crabbox_plugin_sdk::{
    AcquireParams, ErrorKind, Failure, Lease, LeaseId, ReleaseOutcome, Resource, Woken, label_value,
};

use crate::api::{Api, Thing, name_of};
use crate::config::Market;

/// How often it is looked what is left, and the pause when something is still held by something else: what Azure keeps
/// an interface reserved for is three minutes.
const ROUNDS: usize = 48;
const PAUSE: Duration = Duration::from_secs(5);
/// Tag names Azure keeps for itself, and what is put before ours that begin like them.
const RESERVED: &[&str] = &["microsoft", "azure", "windows"];
const PREFIX: &str = "crabbox_";

/// The kinds of things of a lease, in the order in which they can go: a machine takes the others with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Machine,
    Interface,
    Address,
    Disk,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Machine, Self::Interface, Self::Address, Self::Disk];

    /// Where things of this kind are in a resource group.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Machine => "/providers/Microsoft.Compute/virtualMachines",
            Self::Interface => "/providers/Microsoft.Network/networkInterfaces",
            Self::Address => "/providers/Microsoft.Network/publicIPAddresses",
            Self::Disk => "/providers/Microsoft.Compute/disks",
        }
    }

    /// Its id in a resource group, for the machine of this name.
    pub(crate) fn id(self, group: &str, name: &str) -> String {
        let end = match self {
            Self::Machine => "",
            Self::Interface => "-nic",
            Self::Address => "-pip",
            Self::Disk => "-osdisk",
        };
        format!("{group}{}/{name}{end}", self.path())
    }

    /// How far it can go in a round: only when nothing of an earlier step is left.
    fn step(self) -> u8 {
        match self {
            Self::Machine => 0,
            Self::Interface => 1,
            Self::Address | Self::Disk => 2,
        }
    }

    pub(crate) fn resource(self, id: &str) -> Resource {
        let kind = match self {
            Self::Machine => "virtual-machine",
            Self::Interface => "network-interface",
            Self::Address => "public-ip",
            Self::Disk => "disk",
        };
        Resource {
            kind: kind.to_owned(),
            cloud_id: id.to_owned(),
            region: None,
            billable: self != Self::Interface,
        }
    }
}

/// The id of the resource group something is in.
pub(crate) fn group_of(id: &str) -> Option<&str> {
    id.starts_with("/subscriptions/").then(|| id.split("/providers/").next()).flatten()
}

/// Tags as labels: what had to be called otherwise has its name back.
pub(crate) fn labels(tags: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let name = |name: &String| match name.strip_prefix(PREFIX) {
        Some(rest) if is_reserved(rest) => rest.to_owned(),
        _ => name.clone(),
    };
    tags.iter().map(|(key, value)| (name(key), value.clone())).collect()
}

/// Labels as tags.
pub(crate) fn as_tags(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let name = |name: &String| match is_reserved(name) {
        true => format!("{PREFIX}{name}"),
        false => name.clone(),
    };
    labels.iter().map(|(key, value)| (name(key), value.clone())).collect()
}

fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|word| name.to_lowercase().starts_with(word))
}

/// The tags of everything that is made for a lease: what the kernel wants, and what we search by.
pub(crate) fn tags(
    params: &AcquireParams,
    machine: Option<&str>,
    market: Option<Market>,
) -> BTreeMap<String, String> {
    let desired = &params.desired;
    let own = [
        ("crabbox", "true"),
        ("provider", "azure"),
        ("lease", desired.lease_id.as_str()),
        ("slug", &desired.slug),
    ];
    let made = [machine.map(|m| ("server_type", m)), market.map(|m| ("market", m.word()))];
    let given = params.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let all = given.chain(own).chain(made.into_iter().flatten());
    as_tags(&all.map(|(name, value)| (name.to_owned(), label_value(value))).collect())
}

impl Thing {
    pub(crate) fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Whether its tags say that it was made for this lease.
    pub(crate) fn is_of(&self, id: &LeaseId) -> bool {
        self.tag("crabbox") == "true" && self.tag("lease") == id.as_str()
    }

    /// Whether a name the user typed means this machine.
    pub(crate) fn answers_to(&self, name: &str) -> bool {
        self.id.eq_ignore_ascii_case(name)
            || [&self.name, self.tag("lease"), self.tag("slug")].contains(&name)
    }

    /// Its power, where it was asked for: `running`, `stopped`, `deallocated`.
    pub(crate) fn power(&self) -> Option<&str> {
        let all = self.properties.pointer("/instanceView/statuses")?.as_array()?;
        all.iter().find_map(|status| status.get("code")?.as_str()?.strip_prefix("PowerState/"))
    }

    /// Whether it is on its way to run, or runs.
    pub(crate) fn is_up(&self) -> bool {
        !matches!(self.status(), "released" | "failed" | "expired")
    }

    fn status(&self) -> &str {
        let said = self.tag("state");
        match (self.provisioning(), self.power()) {
            ("Deleting", _) => "released",
            // A later change that failed says nothing of a machine that was ready once.
            ("Failed", _) if matches!(said, "" | "leased") => "failed",
            (_, Some("stopped" | "stopping" | "deallocated" | "deallocating")) => "expired",
            _ if said.is_empty() => "ready",
            _ => said,
        }
    }

    /// The lease it is tagged with, at an address. How that is reached comes from whoever made it or knows it.
    pub(crate) fn lease(&self, reached: &Reached<'_>, host: Option<&str>) -> Option<Lease> {
        let mut labels = labels(&self.tags);
        let lease_id = LeaseId::parse(self.tag("lease")).filter(|id| self.is_of(id))?;
        labels.entry("region".to_owned()).or_insert_with(|| self.location.clone());
        Some(Lease {
            lease_id,
            slug: self.tag("slug").to_owned(),
            name: self.name.clone(),
            cloud_id: self.id.clone(),
            status: self.status().to_owned(),
            server_type: self.text("/hardwareProfile/vmSize").to_owned(),
            work_root: reached.work_root(),
            ssh: host.filter(|host| !host.is_empty()).map(|host| reached.endpoint(host)),
            labels,
        })
    }

    pub(crate) fn host(&self) -> &str {
        self.text("/ipAddress")
    }
}

impl Api<'_> {
    /// Everything of one kind in a resource group that crabbox made.
    pub(crate) fn ours(&self, group: &str, kind: Kind) -> Result<Vec<Thing>, Failure> {
        let mut all = self.all::<Thing>(&format!("{group}{}", kind.path()))?;
        all.retain(|one| one.tag("crabbox") == "true");
        Ok(all)
    }

    /// What is left of a lease in a resource group, the first to go first.
    pub(crate) fn left(&self, group: &str, id: &LeaseId) -> Result<Vec<(Kind, Thing)>, Failure> {
        let mut left = Vec::new();
        for kind in Kind::ALL {
            let all = self.ours(group, kind)?.into_iter().filter(|one| one.is_of(id));
            left.extend(all.map(|one| (kind, one)));
        }
        Ok(left)
    }

    /// Removes everything of a lease: the machine first, which takes the rest with it, then what it left, and looks again
    /// until nothing is there any more.
    pub(crate) fn remove(&self, group: &str, id: &LeaseId) -> Result<ReleaseOutcome, Failure> {
        let mut outcome = ReleaseOutcome::AlreadyGone;
        for _ in 0..ROUNDS {
            let left = self.left(group, id)?;
            let Some(step) = left.first().map(|(kind, _)| kind.step()) else {
                return Ok(outcome);
            };
            outcome = ReleaseOutcome::Released;
            let mut held = false;
            for (kind, one) in left.iter().filter(|(kind, _)| kind.step() == step) {
                match self.delete(&one.id) {
                    Ok(true) => drop(self.call.forget(&kind.resource(&one.id))),
                    Ok(false) => return Ok(ReleaseOutcome::Pending),
                    Err(failure) if failure.kind() == ErrorKind::Conflict => held = true,
                    Err(failure) => return Err(failure),
                }
            }
            if held && self.call.sleep(PAUSE)? == Woken::Cancel {
                break;
            }
        }
        Ok(ReleaseOutcome::Pending)
    }

    /// The public address of a machine.
    pub(crate) fn address_of(&self, machine: &Thing) -> Result<String, Failure> {
        let group = group_of(&machine.id).unwrap_or_default();
        let found = self.get::<Thing>(&Kind::Address.id(group, name_of(&machine.id)))?;
        Ok(found.map(|(address, _)| address.host().to_owned()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_begins_like_azures_own_has_another_name_there() {
        let labels: BTreeMap<_, _> =
            [("windows_mode", "normal"), ("slug", "a")].map(|(k, v)| (k.into(), v.into())).into();
        let tags = as_tags(&labels);
        assert_eq!(tags.keys().collect::<Vec<_>>(), ["crabbox_windows_mode", "slug"]);
        assert_eq!(super::labels(&tags), labels);
    }

    #[test]
    fn a_resource_group_is_the_beginning_of_an_id() {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/m";
        assert_eq!(group_of(id), Some("/subscriptions/s/resourceGroups/g"));
        assert_eq!(group_of("i-0123"), None);
        assert_eq!(Kind::Disk.id("/g", "m"), "/g/providers/Microsoft.Compute/disks/m-osdisk");
    }
}
