//! Instances and keys as EC2 shows them, and as machines of leases.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::cloud::{Extra, Machine, Phase};
use crabbox_plugin_sdk::{Failure, LeaseId, Resource, found};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::api::{Api, Page, Query};

/// What is on its way to run, runs or may run again. What is shutting down never comes back.
const ALIVE: &[&str] = &["pending", "running", "stopping", "stopped"];

/// A list in an answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
pub(crate) struct Set<T> {
    #[serde(default = "Vec::new")]
    pub(crate) item: Vec<T>,
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self { item: Vec::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Tag {
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) value: String,
}

/// Tags by their name.
pub(crate) fn by_name(tags: &Set<Tag>) -> BTreeMap<String, String> {
    tags.item.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect()
}

/// An instance, as far as it matters.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Instance {
    pub(crate) instance_id: String,
    #[serde(default)]
    instance_type: String,
    #[serde(rename = "instanceState", default)]
    state: State,
    #[serde(default)]
    ip_address: Option<String>,
    #[serde(default)]
    ipv6_address: Option<String>,
    #[serde(default)]
    tag_set: Set<Tag>,
    #[serde(default)]
    state_reason: Reason,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct State {
    name: String,
}

/// Why an instance is what it is, which the service remembers for an hour.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Reason {
    code: String,
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Instances {
    #[serde(default)]
    reservation_set: Set<Made>,
    #[serde(default)]
    next_token: Option<String>,
}

/// What was made together.
#[derive(Deserialize)]
pub(crate) struct Made {
    #[serde(rename = "instancesSet", default)]
    pub(crate) instances: Set<Instance>,
}

impl Page for Instances {
    type Item = Instance;
    fn open(self) -> (Vec<Instance>, Option<String>) {
        let all = self.reservation_set.item.into_iter().flat_map(|made| made.instances.item);
        (all.collect(), self.next_token)
    }
}

/// A public key in a region.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyPair {
    key_name: String,
    #[serde(default)]
    tag_set: Set<Tag>,
}

#[derive(Deserialize)]
struct KeyPairs {
    #[serde(rename = "keySet", default)]
    keys: Set<KeyPair>,
}

impl Instance {
    pub(crate) fn tags(&self) -> BTreeMap<String, String> {
        by_name(&self.tag_set)
    }

    /// Whether it still counts as there.
    pub(crate) fn is_there(&self) -> bool {
        ALIVE.contains(&&*self.state.name)
    }

    /// How it is, and why where that is known.
    fn shown(&self) -> String {
        let (state, why) = (&self.state.name, &self.state_reason.message);
        if why.is_empty() { state.clone() } else { format!("{state}: {why}") }
    }

    pub(crate) fn machine(self, region: &str) -> Machine {
        let phase = match &*self.state.name {
            "pending" => Phase::Coming,
            "running" => Phase::Up,
            "stopping" | "stopped" => Phase::Down,
            _ => Phase::Leaving,
        };
        let ended = match &*self.state_reason.code {
            "Server.SpotInstanceTermination" | "Server.SpotInstanceShutdown" => Some("preempted"),
            // Only the timer on the machine switches it off from within.
            "Client.InstanceInitiatedShutdown" => Some("expired"),
            _ => None,
        };
        let mut labels = self.tags();
        labels.entry("region".to_owned()).or_insert_with(|| region.to_owned());
        let state = self.shown();
        let addresses = [self.ip_address, self.ipv6_address].into_iter().flatten();
        Machine {
            name: labels.get("Name").cloned().unwrap_or_default(),
            id: self.instance_id,
            machine: self.instance_type,
            place: region.to_owned(),
            host: addresses.into_iter().find(|host| !host.is_empty()),
            labels,
            state,
            phase,
            ended,
        }
    }
}

/// A lease's key. Its name exists once in a region.
pub(crate) fn key(name: &str, labels: BTreeMap<String, String>, region: &str) -> Extra {
    let resource = Resource {
        kind: "key-pair".to_owned(),
        cloud_id: format!("{region}/{name}"),
        region: Some(region.to_owned()),
        billable: false,
    };
    Extra { resource, name: name.to_owned(), labels }
}

/// Asks for what crabbox made and is still there.
pub(crate) fn ours() -> Query {
    Query::new("DescribeInstances")
        .filter("tag:crabbox", &["true"])
        .filter("instance-state-name", ALIVE)
}

impl Api<'_> {
    /// What was made for one lease and is still there.
    pub(crate) fn instances_of(&self, id: &LeaseId) -> Result<Vec<Machine>, Failure> {
        let query = || ours().filter("tag:lease", &[id.as_str()]);
        let all = self.all::<Instances>(query)?.into_iter().filter(Instance::is_there);
        Ok(all.map(|one| one.machine(self.region)).collect())
    }

    /// One instance, and the service's own clock; nothing when it does not exist.
    pub(crate) fn instance(&self, id: &str) -> Result<Option<(Instance, Option<u64>)>, Failure> {
        if !id.starts_with("i-") {
            return Ok(None);
        }
        let query = Query::new("DescribeInstances").with("InstanceId.1", id);
        let Some((all, now)) = found(self.timed::<Instances>(&query))? else { return Ok(None) };
        Ok(all.open().0.into_iter().find(|one| one.instance_id == id).map(|one| (one, now)))
    }

    /// The key of this name.
    pub(crate) fn key(&self, name: &str) -> Result<Option<Extra>, Failure> {
        let query = Query::new("DescribeKeyPairs").with("KeyName.1", name);
        let all = found(self.ask::<KeyPairs>(&query))?.map(|all| all.keys.item);
        let found = all.into_iter().flatten().find(|key| key.key_name == name);
        Ok(found.map(|found| key(name, by_name(&found.tag_set), self.region)))
    }
}
