//! What can be asked for, and what it costs; all of it only reads.

use crabbox_plugin_sdk::cloud::{self, Offers};
use crabbox_plugin_sdk::{BoxRequest, Failure, Offer, Price};
use serde::Deserialize;

use crate::api::{Api, Page, Query};
use crate::instance::Set;
use crate::system::System;

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
    const SIZE: u32 = 100;
    fn open(self) -> (Vec<Kind>, Option<String>) {
        (self.instance_type_set.item, self.next_token)
    }
}

/// One page of the instance types of a region.
pub(crate) fn sizes(api: &Api<'_>, cursor: Option<&str>) -> Result<Offers, Failure> {
    let (kinds, next) = api.page::<Kinds>(Query::new("DescribeInstanceTypes"), cursor)?;
    let arm = |kind: &Kind| {
        kind.processor.supported_architectures.item.iter().any(|a| a.starts_with("arm64"))
    };
    let offers = kinds.into_iter().map(|kind| Offer {
        cpus: kind.cpus.default_v_cpus,
        memory_mib: kind.memory.mib,
        arch: cloud::arch(arm(&kind)),
        name: kind.instance_type,
        ..Offer::default()
    });
    Ok((offers.collect(), next))
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
pub(crate) fn regions(api: &Api<'_>) -> Result<Vec<Offer>, Failure> {
    let all: Regions = api.ask(&Query::new("DescribeRegions"))?;
    let offers = all.region_info.item.into_iter().map(|region| Offer {
        name: region.region_name,
        description: region.opt_in_status,
        ..Offer::default()
    });
    Ok(offers.collect())
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

/// What a spot instance costs now.
pub(crate) fn price(api: &Api<'_>, request: &BoxRequest, machine: &str) -> Result<Price, Failure> {
    if request.market.as_deref() == Some("on-demand") {
        return Err(Failure::unsupported("EC2 tells the price of spot instances only")
            .hint("look at https://aws.amazon.com/ec2/pricing/on-demand/"));
    }
    let query = Query::new("DescribeSpotPriceHistory")
        .with("InstanceType.1", machine)
        .with("ProductDescription.1", "Linux/UNIX")
        .with("MaxResults", 20);
    let all: Spots = api.ask(&query)?;
    let prices = all.spot_price_history_set.item.iter().filter_map(|p| p.spot_price.parse().ok());
    let least = prices.min_by(f64::total_cmp);
    let none = || Failure::not_found(format!("{machine} has no spot price in {}", api.region));
    Ok(cloud::price(least.ok_or_else(none)?, "USD", "spot"))
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

/// Instance types of any class that a region has, the largest first.
pub(crate) fn others(api: &Api<'_>, system: System) -> Result<Vec<String>, Failure> {
    let all = system.classes().all();
    let there = offers(api, &all)?;
    let has = |machine: &&str| there.iter().any(|one| one == machine);
    Ok(all.into_iter().filter(has).map(str::to_owned).collect())
}

/// Which of these instance types a region has.
pub(crate) fn offers(api: &Api<'_>, machines: &[&str]) -> Result<Vec<String>, Failure> {
    let query = || Query::new("DescribeInstanceTypeOfferings").filter("instance-type", machines);
    Ok(api.all::<Offerings>(query)?.into_iter().map(|one| one.instance_type).collect())
}
