//! What can be asked for, what it costs, and how a server ended; all of it only reads.

use crabbox_plugin_sdk::cloud::{Phase, is_of};
use crabbox_plugin_sdk::{
    CatalogParams, CatalogResult, EvidenceParams, EvidenceResult, Failure, Offer, Price,
    QuoteParams, QuoteResult,
};
use serde::Deserialize;

use crate::api::{Api, MachineType};
use crate::config::{CLASSES, Settings};

/// How long a list of offers may be kept: prices change rarely, and what is free is asked for anyway.
const KEEP_MS: u64 = 3_600_000;
/// Most other machine types that are suggested.
const SUGGESTIONS: usize = 8;
/// What Hetzner bills in; an answer about machine types does not say.
const CURRENCY: &str = "EUR";

#[derive(Deserialize)]
struct Location {
    name: String,
    #[serde(default)]
    city: String,
    #[serde(default)]
    country: String,
}

pub(crate) fn sizes(
    api: &Api<'_>,
    settings: &Settings,
    params: &CatalogParams,
) -> Result<CatalogResult, Failure> {
    let all: Vec<MachineType> = api.all("server_types", &[])?;
    let region = params.region.as_deref();
    let there = all.iter().filter(|one| region.is_none_or(|region| one.is_at(region)));
    let place = region.unwrap_or(&settings.location);
    Ok(result(there.map(|one| offer(one, place)).collect()))
}

pub(crate) fn regions(api: &Api<'_>) -> Result<CatalogResult, Failure> {
    let all: Vec<Location> = api.all("locations", &[])?;
    let offer = |one: Location| {
        let description = format!("{}, {}", one.city, one.country);
        Offer { name: one.name, description, ..Offer::default() }
    };
    Ok(result(all.into_iter().map(offer).collect()))
}

/// The price of the machine that would be tried first.
pub(crate) fn quote(
    api: &Api<'_>,
    settings: &Settings,
    params: &QuoteParams,
) -> Result<QuoteResult, Failure> {
    let wanted = CLASSES.machines(&params.request).first().copied().unwrap_or_default();
    let all: Vec<MachineType> = api.all("server_types", &[("name", wanted)])?;
    let found = all.iter().find(|one| one.name == wanted);
    let price = found.and_then(|one| price(one, &settings.location)).ok_or_else(|| {
        Failure::not_found(format!("{wanted} has no price in {}", settings.location))
    })?;
    Ok(QuoteResult { price, server_type: wanted.to_owned() })
}

/// Its end is known only from what it is now.
pub(crate) fn evidence(api: &Api<'_>, params: &EvidenceParams) -> Result<EvidenceResult, Failure> {
    let lease = &params.lease;
    let number = lease.cloud_id.parse().unwrap_or_default();
    let found = api.server(number)?.filter(|(one, _)| is_of(&one.labels, &lease.lease_id));
    let told = |cause: &str, message: String| EvidenceResult { cause: cause.to_owned(), message };
    let Some((server, now)) = found else {
        return Ok(told("gone", format!("server {} does not exist any more", lease.cloud_id)));
    };
    let label = |name: &str| server.labels.get(name)?.parse::<u64>().ok();
    let end = label("created_at").zip(label("ttl_secs")).map(|(from, secs)| from + secs);
    let over = end.zip(now).is_some_and(|(end, now)| end <= now);
    let what = format!("server {} is {}", server.id, server.status);
    Ok(match (server.phase(), over) {
        (Phase::Down | Phase::Leaving, true) => {
            told("expired", format!("{what}: its time was over"))
        }
        _ => told("unknown", what),
    })
}

/// Machine types that the service says it has where we look, the largest first.
pub(crate) fn others(
    api: &Api<'_>,
    settings: &Settings,
    tried: &[&str],
) -> Result<Vec<String>, Failure> {
    let mut all: Vec<MachineType> = api.all("server_types", &[])?;
    let places = settings.locations();
    all.retain(|machine| {
        machine.architecture != "arm"
            && !tried.contains(&machine.name.as_str())
            && places.iter().any(|place| machine.is_at(place))
    });
    all.sort_by(|a, b| b.cores.cmp(&a.cores).then_with(|| a.name.cmp(&b.name)));
    Ok(all.into_iter().take(SUGGESTIONS).map(|machine| machine.name).collect())
}

fn result(offers: Vec<Offer>) -> CatalogResult {
    CatalogResult { offers, next_cursor: None, ttl_ms: KEEP_MS }
}

fn offer(one: &MachineType, place: &str) -> Offer {
    let arch = if one.architecture == "arm" { "aarch64" } else { "x86_64" };
    Offer {
        name: one.name.clone(),
        description: one.description.clone(),
        cpus: Some(one.cores),
        memory_mib: Some(whole(one.memory * 1024.0)),
        disk_gib: Some(whole(one.disk)),
        arch: Some(arch.to_owned()),
        class: CLASSES.class_of(&one.name).map(str::to_owned),
        price: price(one, place),
    }
}

fn price(one: &MachineType, place: &str) -> Option<Price> {
    let tariff = one.prices.iter().find(|tariff| tariff.location == place)?;
    let hourly: f64 = tariff.price_hourly.net.parse().ok()?;
    let (currency, basis) = (CURRENCY.to_owned(), "list".to_owned());
    Some(Price { hourly_micros: whole(hourly * 1e6), currency, basis })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes and prices are small and positive"
)]
fn whole(number: f64) -> u64 {
    number.round().max(0.0) as u64
}
