//! What all boxes share: a resource group, and in each location a network and who may enter it. Made once, used by every
//! lease, and left alone when somebody else made it.

use std::time::Duration;

use crabbox_plugin_sdk::cloud::{admitted, short};
use crabbox_plugin_sdk::{ErrorKind, Failure};
use serde_json::{Value, json};

use crate::api::{Api, Thing, is_same};
use crate::system::System;

/// The tag of what crabbox made for all leases.
const MANAGED: &str = "managed_by";
/// The network, and the part of it boxes are in.
const NETWORK: &str = "10.42.0.0/16";
const SUBNET: &str = "10.42.0.0/24";
/// The numbers rules may have.
const PRIORITIES: std::ops::Range<u64> = 100..4097;
/// How often a number for a rule is looked for that nobody else takes meanwhile.
const RULES: usize = 5;
const AGAIN: Duration = Duration::from_secs(1);

/// What is there in a location, and what is not; nothing was made yet.
pub(crate) struct Seen<'a> {
    pub(crate) location: &'a str,
    cidrs: Vec<String>,
    group: Option<Thing>,
    guard: Place,
    network: Place,
}

/// Something by its id, if it is there.
struct Place {
    id: String,
    there: Option<Thing>,
}

/// What a box is put into.
pub(crate) struct Network<'a> {
    pub(crate) location: &'a str,
    pub(crate) subnet: String,
    pub(crate) guard: String,
}

/// Looks; what others made is refused here, before anything is made.
pub(crate) fn look<'a>(
    api: &Api<'_>,
    location: &'a str,
    system: System,
) -> Result<Seen<'a>, Failure> {
    image(api, location, api.settings.image(system))?;
    let settings = api.settings;
    let group = ours(api, &settings.group(), "resourceGroup")?;
    let guard = place(api, "networkSecurityGroups", &settings.nsg, "nsg", location)?;
    let network = place(api, "virtualNetworks", &settings.vnet, "vnet", location)?;
    let cidrs = admitted(api.call, "azure", &settings.ssh_cidrs, &settings.address_url)?;
    Ok(Seen { location, cidrs, group, guard, network })
}

/// Something that all leases share, if it is there.
fn ours(api: &Api<'_>, id: &str, key: &str) -> Result<Option<Thing>, Failure> {
    match api.get::<Thing>(id)? {
        Some(thing) if thing.tag(MANAGED) != "crabbox" => {
            let what = format!("{} exists and was not made by crabbox", short(id));
            Err(Failure::precondition(what).hint(format!(
                "tag it managed_by=crabbox to let crabbox use it, or set azure.{key} to another name"
            )))
        }
        found => Ok(found),
    }
}

/// A part of the network in a location: under its plain name, or that of the location where the plain one is elsewhere.
fn place(
    api: &Api<'_>,
    kind: &str,
    name: &str,
    key: &str,
    location: &str,
) -> Result<Place, Failure> {
    let id =
        |name: &str| format!("{}/providers/Microsoft.Network/{kind}/{name}", api.settings.group());
    let plain = Place { id: id(name), there: ours(api, &id(name), key)? };
    if plain.there.as_ref().is_none_or(|thing| is_same(&thing.location, location)) {
        return Ok(plain);
    }
    let id = id(&format!("{name}-{location}"));
    Ok(Place { there: ours(api, &id, key)?, id })
}

impl<'a> Seen<'a> {
    /// Makes what is missing, and lets in who may log in.
    pub(crate) fn prepare(self, api: &Api<'_>, ports: &[u16]) -> Result<Network<'a>, Failure> {
        let (location, settings) = (self.location, api.settings);
        let shared = |properties: Value| json!({"location": location, "tags": {MANAGED: "crabbox"}, "properties": properties});
        if self.group.is_none() {
            api.put(&settings.group(), &shared(json!({})))?;
        }
        if self.guard.there.is_none() {
            api.put(&self.guard.id, &shared(json!({})))?;
        }
        let part = json!({"addressPrefix": SUBNET});
        let subnet = format!("{}/subnets/{}", self.network.id, settings.subnet);
        match self.network.there {
            None => {
                let parts = json!([{"name": settings.subnet, "properties": part}]);
                let space = json!({"addressPrefixes": [NETWORK]});
                let body = shared(json!({"addressSpace": space, "subnets": parts}));
                api.put(&self.network.id, &body)?;
            }
            Some(there) if !names(&there, "/subnets").any(|name| name == settings.subnet) => {
                api.put(&subnet, &json!({"properties": part}))?;
            }
            Some(_) => {}
        }
        let gone = || Failure::transient(format!("{} is gone again", short(&self.guard.id)));
        let guard = match self.guard.there {
            Some(there) => there,
            // Whoever makes it at the same time takes rules away; late is when nobody does any more.
            None => api.settled(&self.guard.id)?.ok_or_else(gone)?,
        };
        open(api, guard, ports, &self.cidrs)?;
        Ok(Network { location, subnet, guard: self.guard.id })
    }
}

fn names<'t>(thing: &'t Thing, list: &str) -> impl Iterator<Item = &'t str> {
    thing.list(list).filter_map(|one| one["name"].as_str())
}

/// Lets networks in that are not let in yet: a rule for each, which says by its name what it is for.
fn open(api: &Api<'_>, mut guard: Thing, ports: &[u16], cidrs: &[String]) -> Result<(), Failure> {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    for cidr in cidrs {
        let plain = cidr.replace([':', '/'], "-");
        let name = format!("crabbox-ssh-{}-from-{plain}", ports.join("-"));
        for turn in 1..=RULES {
            if names(&guard, "/securityRules").any(|known| known == name) {
                break;
            }
            let body = json!({"properties": {
                "priority": free(&guard)?, "direction": "Inbound", "access": "Allow", "protocol": "Tcp",
                "sourceAddressPrefix": cidr, "sourcePortRange": "*",
                "destinationAddressPrefix": "*", "destinationPortRanges": ports,
            }});
            match api.put(&format!("{}/securityRules/{name}", guard.id), &body) {
                // Somebody else took the number.
                Err(failure) if turn == RULES || !is_taken(&failure) => return Err(failure),
                Err(_) => drop(api.call.sleep(AGAIN)?),
                Ok(_) => {}
            }
            let now = api.get::<Thing>(&guard.id)?;
            guard = now.unwrap_or(guard);
        }
    }
    Ok(())
}

fn is_taken(failure: &Failure) -> bool {
    failure.kind() == ErrorKind::Conflict || failure.message().ends_with("(SecurityRuleConflict)")
}

/// The lowest number no rule has.
fn free(guard: &Thing) -> Result<u64, Failure> {
    let inward = |rule: &&Value| rule["properties"]["direction"] != "Outbound";
    let rules = guard.list("/securityRules").filter(inward);
    let taken: Vec<_> = rules.filter_map(|rule| rule["properties"]["priority"].as_u64()).collect();
    PRIORITIES.into_iter().find(|number| !taken.contains(number)).ok_or_else(|| {
        Failure::quota(format!("{} has no room for a rule", guard.name))
            .hint("remove old rules from it")
    })
}

/// Whether there is the image in a location; a wrong one is found before anything is made.
pub(crate) fn image(api: &Api<'_>, location: &str, image: &str) -> Result<(), Failure> {
    let path = match parts(image) {
        None => image.to_owned(),
        Some([publisher, offer, sku, version]) => {
            let list = format!(
                "{}/providers/Microsoft.Compute/locations/{location}/publishers/{publisher}/artifacttypes/vmimage/offers/{offer}/skus/{sku}/versions",
                api.settings.subscription()
            );
            if version == "latest" { format!("{list}?$top=1") } else { format!("{list}/{version}") }
        }
    };
    // A list in which nothing is says the same as none.
    let there = api.get::<Value>(&path)?.is_some_and(|found| found != json!([]));
    if there {
        return Ok(());
    }
    let what = format!("there is no image {image} in {location}");
    Err(Failure::invalid_config("/image", what)
        .hint("set azure.image to one that starts with cloud-init, or to one of Windows; `az vm image list` knows them"))
}

/// Publisher, offer, SKU and version; nothing when it is an id.
fn parts(image: &str) -> Option<[&str; 4]> {
    image.split(':').collect::<Vec<_>>().try_into().ok()
}

/// How a machine names its image.
pub(crate) fn reference(image: &str) -> Value {
    match parts(image) {
        Some([publisher, offer, sku, version]) => {
            json!({"publisher": publisher, "offer": offer, "sku": sku, "version": version})
        }
        None => json!({ "id": image }),
    }
}
