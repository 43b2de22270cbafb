//! What can be asked for, what it costs, and how an instance ended; all of it only reads.

use crabbox_plugin_sdk::{
    CatalogResult, EvidenceResult, Failure, Offer, Price, QuoteParams, QuoteResult,
};
use serde::Deserialize;

use crate::api::{Api, Page, Query};
use crate::config::CLASSES;
use crate::instance::{Instance, Set};
use crate::system::System;

/// How long a list of offers may be kept.
const KEEP_MS: u64 = 3_600_000;
/// Most other instance types that are suggested.
const SUGGESTIONS: usize = 8;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    instance_type: String,
    #[serde(default, rename = "vCpuInfo")]
    cpus: Cpus,
    #[serde(default, rename = "memoryInfo")]
    memory: Memory,
    #[serde(default, rename = "processorInfo")]
    processor: Processor,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpus {
    default_v_cpus: Option<u32>,
}

#[derive(Default, Deserialize)]
struct Memory {
    #[serde(rename = "sizeInMiB")]
    mib: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Processor {
    #[serde(default)]
    supported_architectures: Set<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kinds {
    #[serde(default)]
    instance_type_set: Set<Kind>,
    #[serde(default)]
    next_token: Option<String>,
}

impl Page for Kinds {
    type Item = Kind;
    const SIZE: u32 = 50;
    fn open(self) -> (Vec<Kind>, Option<String>) {
        (self.instance_type_set.item, self.next_token)
    }
}

/// One page of the instance types of a region.
pub(crate) fn sizes(api: &Api<'_>, cursor: Option<&str>) -> Result<CatalogResult, Failure> {
    let (kinds, next_cursor) = api.page::<Kinds>(Query::new("DescribeInstanceTypes"), cursor)?;
    let offers = kinds.into_iter().map(|kind| {
        let arm =
            kind.processor.supported_architectures.item.iter().any(|a| a.starts_with("arm64"));
        Offer {
            cpus: kind.cpus.default_v_cpus,
            memory_mib: kind.memory.mib,
            arch: Some(if arm { "aarch64" } else { "x86_64" }.to_owned()),
            class: CLASSES.class_of(&kind.instance_type).map(str::to_owned),
            name: kind.instance_type,
            ..Offer::default()
        }
    });
    Ok(CatalogResult { offers: offers.collect(), next_cursor, ttl_ms: KEEP_MS })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    region_name: String,
    #[serde(default)]
    opt_in_status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Regions {
    #[serde(default)]
    region_info: Set<Region>,
}

/// The regions the account may use.
pub(crate) fn regions(api: &Api<'_>) -> Result<CatalogResult, Failure> {
    let all: Regions = api.ask(&Query::new("DescribeRegions"))?;
    let offers = all.region_info.item.into_iter().map(|region| Offer {
        name: region.region_name,
        description: region.opt_in_status,
        ..Offer::default()
    });
    Ok(CatalogResult { offers: offers.collect(), next_cursor: None, ttl_ms: KEEP_MS })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spot {
    spot_price: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spots {
    #[serde(default)]
    spot_price_history_set: Set<Spot>,
}

/// What the spot instance that would be tried first costs now.
pub(crate) fn quote(api: &Api<'_>, params: &QuoteParams) -> Result<QuoteResult, Failure> {
    let classes = System::of(&params.request).classes();
    let wanted = classes.machines(&params.request).first().copied().unwrap_or_default();
    if params.request.market.as_deref() == Some("on-demand") {
        return Err(Failure::unsupported("EC2 tells the price of spot instances only")
            .hint("look at https://aws.amazon.com/ec2/pricing/on-demand/"));
    }
    let query = Query::new("DescribeSpotPriceHistory")
        .with("InstanceType.1", wanted)
        .with("ProductDescription.1", "Linux/UNIX")
        .with("MaxResults", 20);
    let all: Spots = api.ask(&query)?;
    let prices = all.spot_price_history_set.item.iter().filter_map(|p| p.spot_price.parse().ok());
    let least = prices.min_by(f64::total_cmp);
    let least = least.ok_or_else(|| {
        Failure::not_found(format!("{wanted} has no spot price in {}", api.region))
    })?;
    let (currency, basis) = ("USD".to_owned(), "spot".to_owned());
    let price = Price { hourly_micros: micros(least), currency, basis };
    Ok(QuoteResult { price, server_type: wanted.to_owned() })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "prices are small and positive"
)]
fn micros(price: f64) -> u64 {
    (price * 1e6).round().max(0.0) as u64
}

/// How an instance ended, as the service remembers it for an hour.
pub(crate) fn evidence(found: &Instance) -> EvidenceResult {
    let cause = match &*found.state_reason.code {
        "Server.SpotInstanceTermination" | "Server.SpotInstanceShutdown" => "preempted",
        // Only the timer on the machine switches it off from within.
        "Client.InstanceInitiatedShutdown" => "expired",
        _ if !found.is_there() => "gone",
        _ => "unknown",
    };
    let message = format!("instance {} is {}", found.instance_id, found.shown());
    EvidenceResult { cause: cause.to_owned(), message }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Offered {
    instance_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Offerings {
    #[serde(default)]
    instance_type_offering_set: Set<Offered>,
    #[serde(default)]
    next_token: Option<String>,
}

impl Page for Offerings {
    type Item = Offered;
    fn open(self) -> (Vec<Offered>, Option<String>) {
        (self.instance_type_offering_set.item, self.next_token)
    }
}

/// Instance types of any class that a region has and that were not tried, the largest first.
pub(crate) fn others(
    api: &Api<'_>,
    system: System,
    tried: &[&str],
) -> Result<Vec<String>, Failure> {
    let mut wanted = system.classes().all();
    wanted.retain(|machine| !tried.contains(machine));
    let query = || Query::new("DescribeInstanceTypeOfferings").filter("instance-type", &wanted);
    let there = api.all::<Offerings>(query)?;
    let has = |machine: &&&str| there.iter().any(|one| one.instance_type == ***machine);
    Ok(wanted.iter().filter(has).take(SUGGESTIONS).map(|&machine| machine.to_owned()).collect())
}
