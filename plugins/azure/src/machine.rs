//! What belongs to a lease as Azure shows it: its machine, address, network interface and disk.

use std::collections::BTreeMap;
use std::time::Duration;

use crabbox_plugin_sdk::cloud::{Extra, Machine, Phase, short};
use crabbox_plugin_sdk::{Failure, Resource};
use serde_json::Value;

use crate::api::{Api, Thing};

/// Tag names Azure keeps for itself, and what is put before ours that begin like them.
const RESERVED: &[&str] = &["microsoft", "azure", "windows"];
const PREFIX: &str = "crabbox_";
/// Between two looks whether what goes with a machine is gone, and how many there are.
const GOING: Duration = Duration::from_secs(1);
const LOOKS: usize = 15;

/// A kind of things of a lease: what Azure calls it, how its names end, and the trail's word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(&'static str, &'static str, pub(crate) &'static str);

pub(crate) const MACHINE: Kind = Kind("Compute/virtualMachines", "", "virtual-machine");
pub(crate) const INTERFACE: Kind = Kind("Network/networkInterfaces", "-nic", "network-interface");
pub(crate) const ADDRESS: Kind = Kind("Network/publicIPAddresses", "-pip", "public-ip");
pub(crate) const DISK: Kind = Kind("Compute/disks", "-osdisk", "disk");
/// What a machine takes with it, in the order in which it can go otherwise.
pub(crate) const PARTS: [Kind; 3] = [INTERFACE, ADDRESS, DISK];

impl Kind {
    /// Where things of this kind are in a resource group.
    fn path(self, group: &str) -> String {
        format!("{group}/providers/Microsoft.{}", self.0)
    }

    /// Its name, for the machine of this name.
    pub(crate) fn name(self, machine: &str) -> String {
        format!("{machine}{}", self.1)
    }

    /// Its id in a resource group, for the machine of this name.
    pub(crate) fn id(self, group: &str, machine: &str) -> String {
        format!("{}/{}", self.path(group), self.name(machine))
    }

    pub(crate) fn is(self, id: &str) -> bool {
        id.contains(self.0)
    }

    pub(crate) fn resource(self, id: &str, location: &str) -> Resource {
        let (kind, cloud_id) = (self.2.to_owned(), id.to_owned());
        Resource { kind, cloud_id, region: Some(location.to_owned()), billable: self != INTERFACE }
    }

    pub(crate) fn extra(self, thing: Thing) -> Extra {
        let resource = self.resource(&thing.id, &thing.location);
        Extra { resource, name: thing.name, labels: labels(&thing.tags) }
    }
}

/// The id of the resource group something is in.
pub(crate) fn group_of(id: &str) -> Option<&str> {
    id.starts_with("/subscriptions/").then(|| id.split("/providers/").next()).flatten()
}

/// Tags as labels: what had to be called otherwise has its name back.
fn labels(tags: &BTreeMap<String, String>) -> BTreeMap<String, String> {
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

impl Thing {
    pub(crate) fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map(String::as_str).unwrap_or_default()
    }

    /// What Azure says of it, where it was asked for.
    fn statuses(&self) -> impl Iterator<Item = &Value> {
        self.list("/instanceView/statuses")
    }

    /// Its power: `running`, `stopped`, `deallocated`.
    fn power(&self) -> Option<&str> {
        self.statuses().find_map(|one| one["code"].as_str()?.strip_prefix("PowerState/"))
    }

    /// How it is, and more of that where it was asked for.
    fn shown(&self) -> String {
        let state = self.power().unwrap_or(self.provisioning());
        let said = |one: &'_ Value| -> Option<String> {
            Some(one["message"].as_str().or(one["displayStatus"].as_str())?.to_owned())
        };
        let all: Vec<_> = self.statuses().filter_map(said).collect();
        if all.is_empty() { state.to_owned() } else { format!("{state}: {}", all.join(", ")) }
    }

    fn phase(&self) -> Phase {
        match (self.provisioning(), self.power()) {
            ("Deleting", _) => Phase::Leaving,
            // A part alone will be no machine.
            _ if !MACHINE.is(&self.id) => Phase::Failed,
            // A later change that failed says nothing of a machine that was ready once.
            ("Failed", _) if matches!(self.tag("state"), "" | "leased") => Phase::Failed,
            (_, Some("stopped" | "stopping" | "deallocated" | "deallocating")) => Phase::Down,
            ("Creating", _) => Phase::Coming,
            _ => Phase::Up,
        }
    }

    /// As a machine of a lease, at the address of this thing; also where only a part of one is left.
    pub(crate) fn machine(self, address: Option<&Self>) -> Machine {
        let (phase, state) = (self.phase(), self.shown());
        let host = address.map(Self::host).filter(|host| !host.is_empty());
        // Only the timer on the machine switches it off from within; by hand it is deallocated too.
        let ended = self.power().filter(|power| *power == "stopped").map(|_| "expired");
        let mut labels = labels(&self.tags);
        labels.entry("region".to_owned()).or_insert_with(|| self.location.clone());
        Machine {
            machine: self.text("/hardwareProfile/vmSize").to_owned(),
            host: host.filter(|_| phase != Phase::Coming).map(str::to_owned),
            id: self.id,
            name: self.name,
            place: self.location,
            labels,
            state,
            phase,
            ended,
        }
    }

    pub(crate) fn host(&self) -> &str {
        self.text("/ipAddress")
    }
}

impl Api<'_> {
    /// Everything of one kind in a resource group that crabbox made.
    pub(crate) fn ours(&self, group: &str, kind: Kind) -> Result<Vec<Thing>, Failure> {
        let mut all = self.all::<Thing>(&kind.path(group))?;
        all.retain(|one| one.tag("crabbox") == "true");
        Ok(all)
    }

    /// Deletes a machine. What goes with it is given the time to: its end could hit what has its name by then.
    pub(crate) fn end(&self, id: &str) -> Result<(), Failure> {
        self.delete(id)?;
        let group = group_of(id).unwrap_or_default();
        let gone = || {
            let part = |kind: Kind| self.get::<Thing>(&kind.id(group, short(id)));
            let left = PARTS.iter().find_map(|&kind| part(kind).transpose());
            left.transpose().map(|left| left.is_none().then_some(()))
        };
        self.call.poll(GOING, LOOKS, gone).map(drop)
    }

    /// A machine, or what is left of one, by its id, and the service's own clock.
    pub(crate) fn machine(&self, id: &str) -> Result<Option<(Machine, Option<u64>)>, Failure> {
        let Some(group) = group_of(id) else { return Ok(None) };
        let more = if MACHINE.is(id) { "?$expand=instanceView" } else { "" };
        let Some((thing, now)) = self.timed::<Thing>(&format!("{id}{more}"))? else {
            return Ok(None);
        };
        let address = match MACHINE.is(id) && thing.tag("crabbox") == "true" {
            true => self.get::<Thing>(&ADDRESS.id(group, short(id)))?,
            false => None,
        };
        Ok(Some((thing.machine(address.as_ref()), now)))
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
        assert_eq!(DISK.id("/g", "m"), "/g/providers/Microsoft.Compute/disks/m-osdisk");
    }
}
