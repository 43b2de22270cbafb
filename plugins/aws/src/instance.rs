//! An instance as a lease: whose it is, how it is reached, and what its tags say.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::{
    AcquireParams, Bootstrap, Failure, Lease, LeaseId, Resource, SshEndpoint, label_value,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::api::{Api, Page, Query, found};
use crate::config::Market;

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
    pub(crate) instance_type: String,
    #[serde(rename = "instanceState", default)]
    state: State,
    #[serde(default)]
    ip_address: Option<String>,
    #[serde(default)]
    ipv6_address: Option<String>,
    #[serde(default)]
    tag_set: Set<Tag>,
    #[serde(default)]
    pub(crate) state_reason: Reason,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct State {
    name: String,
}

/// Why an instance is what it is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Reason {
    pub(crate) code: String,
    pub(crate) message: String,
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
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeyPair {
    pub(crate) key_name: String,
    #[serde(default)]
    tag_set: Set<Tag>,
}

#[derive(Deserialize)]
struct KeyPairs {
    #[serde(rename = "keySet", default)]
    keys: Set<KeyPair>,
}

/// The name of a lease's key in a region.
pub(crate) fn key_name(id: &LeaseId) -> String {
    format!("crabbox-{}", id.as_str().replace('_', "-"))
}

/// Whether tags say that something was made for this lease.
pub(crate) fn is_of(tags: &BTreeMap<String, String>, id: &LeaseId) -> bool {
    tag(tags, "crabbox") == "true" && tag(tags, "lease") == id.as_str()
}

fn tag<'a>(tags: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    tags.get(name).map(String::as_str).unwrap_or_default()
}

impl Instance {
    pub(crate) fn tags(&self) -> BTreeMap<String, String> {
        by_name(&self.tag_set)
    }

    pub(crate) fn is_of(&self, id: &LeaseId) -> bool {
        is_of(&self.tags(), id)
    }

    /// Whether a name the user typed means this instance.
    pub(crate) fn answers_to(&self, name: &str) -> bool {
        let tags = self.tags();
        self.instance_id == name || ["lease", "slug", "Name"].iter().any(|t| tag(&tags, t) == name)
    }

    /// Whether it is on its way to run, or runs.
    pub(crate) fn is_up(&self) -> bool {
        matches!(&*self.state.name, "pending" | "running")
    }

    /// Whether it still counts as there.
    pub(crate) fn is_there(&self) -> bool {
        ALIVE.contains(&&*self.state.name)
    }

    pub(crate) fn state(&self) -> &str {
        &self.state.name
    }

    /// Its public address, once it has one.
    pub(crate) fn host(&self) -> Option<&str> {
        let all = [&self.ip_address, &self.ipv6_address];
        all.into_iter().flatten().map(String::as_str).find(|host| !host.is_empty())
    }

    fn status(&self, tags: &BTreeMap<String, String>) -> String {
        let word = match &*self.state.name {
            "running" => match tag(tags, "state") {
                "" => "ready",
                state => state,
            },
            "pending" => "leased",
            "stopping" | "stopped" => "expired",
            _ => "released",
        };
        word.to_owned()
    }

    /// The lease it is tagged with. How it is reached comes from whoever made it or knows it.
    pub(crate) fn lease(&self, reached: &Reached<'_>, region: &str) -> Result<Lease, Failure> {
        let mut labels = self.tags();
        let id = LeaseId::parse(tag(&labels, "lease")).ok_or_else(|| {
            Failure::not_found(format!("instance {} is tagged with no lease", self.instance_id))
        })?;
        labels.entry("region".to_owned()).or_insert_with(|| region.to_owned());
        Ok(Lease {
            lease_id: id,
            slug: tag(&labels, "slug").to_owned(),
            name: tag(&labels, "Name").to_owned(),
            cloud_id: self.instance_id.clone(),
            status: self.status(&labels),
            server_type: self.instance_type.clone(),
            work_root: reached.work_root(),
            ssh: self.host().map(|host| reached.endpoint(host)),
            labels,
        })
    }

    pub(crate) fn resource(&self, region: &str) -> Resource {
        Resource {
            kind: "instance".to_owned(),
            cloud_id: self.instance_id.clone(),
            region: Some(region.to_owned()),
            billable: true,
        }
    }
}

/// Who says how an instance is reached.
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

/// The tags of everything that is made for a lease: what the kernel wants, and what we search by.
pub(crate) fn tags(
    params: &AcquireParams,
    region: &str,
    made: Option<(&str, Market)>,
) -> BTreeMap<String, String> {
    let desired = &params.desired;
    let own = [
        ("crabbox", "true"),
        ("provider", "aws"),
        ("lease", desired.lease_id.as_str()),
        ("slug", &desired.slug),
        ("region", region),
        ("Name", &desired.name),
    ];
    let made = made.map(|(machine, market)| [("server_type", machine), ("market", market.word())]);
    let given = params.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let all = given.chain(own).chain(made.into_iter().flatten());
    all.map(|(name, value)| (name.to_owned(), label_value(value))).collect()
}

impl KeyPair {
    pub(crate) fn is_of(&self, id: &LeaseId) -> bool {
        is_of(&by_name(&self.tag_set), id)
    }

    pub(crate) fn resource(&self, region: &str) -> Resource {
        key_resource(&self.key_name, region)
    }

    /// What is left of a lease when only its key is: enough to give that back.
    pub(crate) fn lease(&self, id: &LeaseId, region: &str) -> Lease {
        let mut labels = by_name(&self.tag_set);
        labels.insert("region".to_owned(), region.to_owned());
        Lease {
            lease_id: id.clone(),
            slug: tag(&labels, "slug").to_owned(),
            name: self.key_name.clone(),
            cloud_id: self.resource(region).cloud_id,
            status: "failed".to_owned(),
            server_type: String::new(),
            labels,
            work_root: None,
            ssh: None,
        }
    }
}

/// A key's name exists once in a region.
pub(crate) fn key_resource(name: &str, region: &str) -> Resource {
    Resource {
        kind: "key-pair".to_owned(),
        cloud_id: format!("{region}/{name}"),
        region: Some(region.to_owned()),
        billable: false,
    }
}

/// Asks for what crabbox made and is still there.
pub(crate) fn ours() -> Query {
    Query::new("DescribeInstances")
        .filter("tag:crabbox", &["true"])
        .filter("instance-state-name", ALIVE)
}

impl Api<'_> {
    /// What was made for one lease and is still there.
    pub(crate) fn instances_of(&self, id: &LeaseId) -> Result<Vec<Instance>, Failure> {
        let query = || ours().filter("tag:lease", &[id.as_str()]);
        let mut all = self.all::<Instances>(query)?;
        all.retain(|one| one.is_of(id) && one.is_there());
        Ok(all)
    }

    /// One instance, and the service's own clock; nothing when it does not exist.
    pub(crate) fn instance(&self, id: &str) -> Result<Option<(Instance, Option<u64>)>, Failure> {
        let query = Query::new("DescribeInstances").with("InstanceId.1", id);
        let Some((all, now)) = found(self.timed::<Instances>(&query))? else { return Ok(None) };
        Ok(all.open().0.into_iter().find(|one| one.instance_id == id).map(|one| (one, now)))
    }

    /// The key of this name.
    pub(crate) fn key(&self, name: &str) -> Result<Option<KeyPair>, Failure> {
        let query = Query::new("DescribeKeyPairs").with("KeyName.1", name);
        let found = found(self.ask::<KeyPairs>(&query))?;
        Ok(found.and_then(|found| found.keys.item.into_iter().find(|key| key.key_name == name)))
    }
}
