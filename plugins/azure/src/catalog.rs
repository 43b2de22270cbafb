//! What can be asked for, what it costs, and how a machine ended; all of it only reads.

use std::time::Duration;

use crabbox_plugin_sdk::{
    CatalogResult, EvidenceResult, Failure, Level, Next, Offer, Price, QuoteParams, QuoteResult,
};
use serde::Deserialize;
use serde_json::Value;

use crate::api::{Api, Thing, is_same, name_of};
use crate::config::{self, all_machines};

/// How long a list of offers may be kept.
const KEEP_MS: u64 = 3_600_000;
/// Most other sizes that are suggested.
const SUGGESTIONS: usize = 8;
/// Most bytes of the list of everything a location has, and how long some of it may take.
const MOST: usize = 16 << 20;
const QUIET: Duration = Duration::from_secs(30);
/// Where a machine's own disk can hold the system, the fastest first.
const PLACES: &[&str] = &["NvmeDisk", "ResourceDisk", "CacheDisk"];

/// A size, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Size {
    pub(crate) name: String,
    cpus: Option<u32>,
    memory_mib: Option<u64>,
    arm: bool,
    pub(crate) spot: bool,
    pub(crate) only_nvme: bool,
    /// Its interface can go around the host.
    pub(crate) fast_net: bool,
    /// Its own disk can hold the system, at this place when that has a name.
    pub(crate) local: Option<String>,
    /// Why this subscription cannot have it.
    pub(crate) blocked: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Sku {
    resource_type: String,
    name: String,
    capabilities: Vec<Capability>,
    restrictions: Vec<Restriction>,
}

#[derive(Deserialize)]
struct Capability {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Restriction {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    reason_code: String,
}

#[derive(Deserialize)]
struct Skus {
    value: Vec<Sku>,
}

impl From<Sku> for Size {
    fn from(sku: Sku) -> Self {
        let said = |name: &str| {
            let found = sku.capabilities.iter().find(|one| one.name == name);
            found.map(|one| one.value.as_str()).unwrap_or_default()
        };
        let is = |name: &str| said(name).eq_ignore_ascii_case("true");
        let places = said("SupportedEphemeralOSDiskPlacements");
        let place = PLACES.iter().find(|place| places.split(',').any(|one| one.trim() == **place));
        let controllers = said("DiskControllerTypes");
        let everywhere = sku.restrictions.iter().find(|one| one.kind == "Location");
        Self {
            cpus: said("vCPUs").parse().ok(),
            memory_mib: said("MemoryGB").parse::<f64>().ok().map(|gib| whole(gib * 1024.0)),
            arm: said("CpuArchitectureType").eq_ignore_ascii_case("arm64"),
            spot: is("LowPriorityCapable"),
            only_nvme: controllers.contains("NVMe") && !controllers.contains("SCSI"),
            fast_net: is("AcceleratedNetworkingEnabled"),
            local: is("EphemeralOSDiskSupported")
                .then(|| place.map(|place| (*place).to_owned()).unwrap_or_default()),
            blocked: everywhere.map(|one| one.reason_code.clone()),
            name: sku.name,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "memory and prices are small and positive"
)]
fn whole(number: f64) -> u64 {
    number.round().max(0.0) as u64
}

/// Every size of a location. The list is larger than an answer of the host may be, so it is read bit by bit.
fn all_sizes(api: &Api<'_>, location: &str) -> Result<Vec<Size>, Failure> {
    let subscription = api.settings.subscription();
    let path = format!(
        "{subscription}/providers/Microsoft.Compute/skus?$filter=location%20eq%20'{location}'"
    );
    let mut stream = api.request("GET", &path).open()?;
    if stream.status() != 200 {
        drop(stream);
        // An answer that says no is short, and means what it means everywhere.
        return api.get::<Value>(&path).and_then(|_| {
            Err(Failure::transient(format!("the sizes of {location} could not be read")))
        });
    }
    let mut text = Vec::new();
    while let Next::Item(bytes) = stream.bytes(QUIET)? {
        text.extend(bytes);
        if text.len() > MOST {
            return Err(Failure::quota(format!("the list of sizes of {location} is too long")));
        }
    }
    let skus: Skus = serde_json::from_slice(&text).map_err(|error| {
        Failure::transient(format!("the sizes of {location} cannot be read")).because(&error)
    })?;
    let machines = skus.value.into_iter().filter(|sku| sku.resource_type == "virtualMachines");
    Ok(machines.map(Size::from).collect())
}

/// The sizes of a location, if they may be asked for: without, every candidate is just tried.
pub(crate) fn known(api: &Api<'_>, location: &str) -> Option<Vec<Size>> {
    let told = |failure: Failure| api.call.log(Level::Debug, &format!("no sizes: {failure}"));
    all_sizes(api, location).map_err(told).ok()
}

pub(crate) fn sizes(api: &Api<'_>, location: &str) -> Result<CatalogResult, Failure> {
    let had = all_sizes(api, location)?.into_iter().filter(|size| size.blocked.is_none());
    let offers = had.map(|size| Offer {
        cpus: size.cpus,
        memory_mib: size.memory_mib,
        arch: Some(if size.arm { "aarch64" } else { "x86_64" }.to_owned()),
        class: config::class_of(&size.name).map(str::to_owned),
        name: size.name,
        ..Offer::default()
    });
    Ok(CatalogResult { offers: offers.collect(), next_cursor: None, ttl_ms: KEEP_MS })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    name: String,
    #[serde(default)]
    display_name: String,
}

/// The locations the subscription may use.
pub(crate) fn regions(api: &Api<'_>) -> Result<CatalogResult, Failure> {
    let all: Vec<Location> = api.all(&format!("{}/locations", api.settings.subscription()))?;
    let offers = all.into_iter().map(|location| Offer {
        name: location.name,
        description: location.display_name,
        ..Offer::default()
    });
    Ok(CatalogResult { offers: offers.collect(), next_cursor: None, ttl_ms: KEEP_MS })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Prices {
    items: Vec<Tariff>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tariff {
    retail_price: f64,
    currency_code: String,
    #[serde(default)]
    product_name: String,
    #[serde(default)]
    sku_name: String,
}

/// What the machine that would be tried first costs, as Azure's public list has it.
pub(crate) fn quote(api: &Api<'_>, params: &QuoteParams) -> Result<QuoteResult, Failure> {
    config::check_request(&params.request)?;
    let (settings, request) = (api.settings, &params.request);
    let wanted = config::machines(request).first().copied().unwrap_or_default();
    let market = settings.markets(request)[0];
    let location = &settings.location;
    let filter = format!(
        "serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and armRegionName eq '{location}' and armSkuName eq '{wanted}'"
    );
    let asked = api.call.http("GET", &settings.prices_url).query("$filter", filter);
    let all: Prices = asked.send()?.ok()?.json()?;
    let kind = |tariff: &&Tariff| {
        let spot = tariff.sku_name.ends_with(" Spot");
        let linux = !tariff.product_name.ends_with("Windows");
        let odd = tariff.sku_name.ends_with(" Low Priority");
        linux && !odd && spot == (market == config::Market::Spot)
    };
    let least =
        all.items.iter().filter(kind).min_by(|a, b| a.retail_price.total_cmp(&b.retail_price));
    let least = least.ok_or_else(|| {
        Failure::not_found(format!("{wanted} has no {} price in {location}", market.word()))
    })?;
    let (currency, basis) = (least.currency_code.clone(), market.word().to_owned());
    let price = Price { hourly_micros: whole(least.retail_price * 1e6), currency, basis };
    Ok(QuoteResult { price, server_type: wanted.to_owned() })
}

/// How a machine ended, as far as Azure still knows.
pub(crate) fn evidence(id: &str, found: Option<Thing>) -> EvidenceResult {
    let told = |cause: &str, message: String| EvidenceResult { cause: cause.to_owned(), message };
    let name = name_of(id);
    let Some(found) = found else {
        return told(
            "gone",
            format!(
                "machine {name} does not exist any more; a spot machine is deleted when Azure needs its place"
            ),
        );
    };
    let statuses = found.properties.pointer("/instanceView/statuses").and_then(Value::as_array);
    let said = |status: &Value| {
        let text = |name: &str| status.get(name)?.as_str().map(str::to_owned);
        text("message").or_else(|| text("displayStatus"))
    };
    let all: Vec<String> = statuses.into_iter().flatten().filter_map(said).collect();
    let what = format!("machine {name}: {}", all.join(", "));
    match found.power() {
        // Only the timer on the machine switches it off from within; by hand it is deallocated too.
        Some("stopped") => told("expired", what),
        _ if found.provisioning() == "Deleting" => told("gone", what),
        _ => told("unknown", what),
    }
}

/// Sizes of any class that a location has and that were not tried, the largest first.
pub(crate) fn others(api: &Api<'_>, tried: &[&str]) -> Vec<String> {
    let sizes = known(api, &api.settings.location).unwrap_or_default();
    let had = |machine: &&str| {
        let mut open = sizes.iter().filter(|size| size.blocked.is_none());
        !tried.contains(machine) && open.any(|size| is_same(&size.name, machine))
    };
    let all = all_machines().into_iter().filter(had).take(SUGGESTIONS);
    all.map(str::to_owned).collect()
}
