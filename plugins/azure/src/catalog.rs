//! What can be asked for, and what it costs; all of it only reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crabbox_plugin_sdk::cloud::{self, Market};
use crabbox_plugin_sdk::{Failure, Level, Offer, Price};
use serde_json::Value;

use crate::api::{Api, is_same};
use crate::system::System;

/// Most bytes of the list of everything a location has, and how long some of it may take.
const MOST: usize = 16 << 20;
const QUIET: Duration = Duration::from_secs(30);
/// Where a machine's own disk can hold the system, the fastest first.
const PLACES: &[&str] = &["NvmeDisk", "ResourceDisk", "CacheDisk"];

/// A size, as far as it matters.
#[derive(Debug, Clone)]
pub(crate) struct Size {
    pub(crate) offer: Offer,
    pub(crate) spot: bool,
    pub(crate) only_nvme: bool,
    /// Its interface can go around the host.
    pub(crate) fast_net: bool,
    /// Its own disk can hold the system, at this place when that has a name.
    pub(crate) local: Option<String>,
    /// Why this subscription cannot have it.
    pub(crate) blocked: Option<String>,
}

impl Size {
    pub(crate) fn is(&self, machine: &str) -> bool {
        is_same(&self.offer.name, machine)
    }

    fn read(sku: &Value) -> Option<Self> {
        if sku["resourceType"] != "virtualMachines" {
            return None;
        }
        let among = |list: &str, key: &str, word: &str| {
            sku[list].as_array()?.iter().find(|one| one[key] == word)
        };
        let said = |name: &str| {
            let found = among("capabilities", "name", name);
            found.and_then(|one| one["value"].as_str()).unwrap_or_default()
        };
        let is = |name: &str| said(name).eq_ignore_ascii_case("true");
        let places = said("SupportedEphemeralOSDiskPlacements");
        let place = PLACES.iter().find(|place| places.split(',').any(|one| one.trim() == **place));
        let controllers = said("DiskControllerTypes");
        let blocked = among("restrictions", "type", "Location");
        Some(Self {
            offer: Offer {
                name: sku["name"].as_str()?.to_owned(),
                cpus: said("vCPUs").parse().ok(),
                memory_mib: said("MemoryGB")
                    .parse()
                    .ok()
                    .map(|gib: f64| cloud::whole(gib * 1024.0)),
                arch: cloud::arch(said("CpuArchitectureType").eq_ignore_ascii_case("arm64")),
                ..Offer::default()
            },
            spot: is("LowPriorityCapable"),
            only_nvme: controllers.contains("NVMe") && !controllers.contains("SCSI"),
            fast_net: is("AcceleratedNetworkingEnabled"),
            local: is("EphemeralOSDiskSupported")
                .then(|| place.map(|place| (*place).to_owned()).unwrap_or_default()),
            blocked: blocked.map(|one| one["reasonCode"].as_str().unwrap_or_default().to_owned()),
        })
    }
}

/// Every size of a location. The list is larger than an answer of the host may be, so it is read bit by bit.
fn all_sizes(api: &Api<'_>, location: &str) -> Result<Vec<Size>, Failure> {
    let subscription = api.settings.subscription();
    let path = format!(
        "{subscription}/providers/Microsoft.Compute/skus?$filter=location%20eq%20'{location}'"
    );
    let stream = api.request("GET", &path).open()?;
    if stream.status() != 200 {
        drop(stream);
        // An answer that says no is short, and means what it means everywhere.
        let unread = || Failure::transient(format!("the sizes of {location} could not be read"));
        return api.get::<Value>(&path).and_then(|_| Err(unread()));
    }
    let all: Value = stream.json(QUIET, MOST)?;
    let skus = all["value"].as_array().into_iter().flatten();
    Ok(skus.filter_map(Size::read).collect())
}

/// The sizes of locations, each list read once.
#[derive(Default)]
pub(crate) struct Known(Mutex<BTreeMap<String, Arc<[Size]>>>);

impl Known {
    /// Those of a location, if they may be asked for: without, every candidate is just tried.
    pub(crate) fn at(&self, api: &Api<'_>, location: &str) -> Option<Arc<[Size]>> {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = read.get(location) {
            return Some(Arc::clone(known));
        }
        let told = |failure: Failure| api.call.log(Level::Debug, &format!("no sizes: {failure}"));
        let all: Arc<[Size]> = all_sizes(api, location).map_err(told).ok()?.into();
        read.insert(location.to_owned(), Arc::clone(&all));
        Some(all)
    }
}

pub(crate) fn sizes(api: &Api<'_>, location: &str) -> Result<Vec<Offer>, Failure> {
    let had = all_sizes(api, location)?.into_iter().filter(|size| size.blocked.is_none());
    Ok(had.map(|size| size.offer).collect())
}

/// The locations the subscription may use.
pub(crate) fn regions(api: &Api<'_>) -> Result<Vec<Offer>, Failure> {
    let all: Vec<Value> = api.all(&format!("{}/locations", api.settings.subscription()))?;
    let offer = |one: &Value| {
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        Offer { name: text("name"), description: text("displayName"), ..Offer::default() }
    };
    Ok(all.iter().map(offer).collect())
}

/// What a machine costs, as Azure's public list has it.
pub(crate) fn price(
    api: &Api<'_>,
    market: Market,
    machine: &str,
    system: System,
) -> Result<Price, Failure> {
    let (location, word) = (&api.settings.location, market.word());
    let filter = format!(
        "serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and armRegionName eq '{location}' and armSkuName eq '{machine}'"
    );
    let asked = api.call.http("GET", &api.settings.prices_url).query("$filter", filter);
    let all: Value = asked.send()?.ok()?.json()?;
    let fits = |one: &&Value| {
        let ends = |key: &str, end: &str| one[key].as_str().is_some_and(|said| said.ends_with(end));
        let other = ends("productName", "Windows") != (system == System::Windows);
        let odd = ends("skuName", " Low Priority") || other;
        !odd && ends("skuName", " Spot") == (market == Market::Spot)
    };
    let items = all["Items"].as_array().into_iter().flatten().filter(fits);
    let priced =
        items.filter_map(|one| Some((one["retailPrice"].as_f64()?, one["currencyCode"].as_str()?)));
    let least = priced.min_by(|(a, _), (b, _)| a.total_cmp(b));
    let none = || Failure::not_found(format!("{machine} has no {word} price in {location}"));
    let (hourly, currency) = least.ok_or_else(none)?;
    Ok(cloud::price(hourly, currency, word))
}

/// Sizes of any class that the first location has, the largest first.
pub(crate) fn others(api: &Api<'_>, known: &Known, system: System) -> Vec<String> {
    let sizes = known.at(api, &api.settings.location);
    let had = |machine: &&str| {
        let mut open =
            sizes.iter().flat_map(|all| all.iter()).filter(|size| size.blocked.is_none());
        open.any(|size| size.is(machine))
    };
    system.classes().all().into_iter().filter(had).map(str::to_owned).collect()
}
