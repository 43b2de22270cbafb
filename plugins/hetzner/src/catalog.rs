//! What can be asked for, and what it costs; all of it only reads.

use crabbox_plugin_sdk::cloud::{self, Offers};
use crabbox_plugin_sdk::{Failure, Offer, Price};
use serde::Deserialize;

use crate::api::{Api, MachineType};
use crate::config::Settings;

/// What Hetzner bills in; an answer about machine types does not say.
const CURRENCY: &str = "EUR";

/// Locations that there were when this was written.
const LOCATIONS: &[&str] = &["fsn1", "nbg1", "hel1", "ash", "hil", "sin"];

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
    region: Option<&str>,
) -> Result<Offers, Failure> {
    let all: Vec<MachineType> = api.all("server_types", &[])?;
    let there = all.iter().filter(|one| region.is_none_or(|region| one.is_at(region)));
    let place = region.unwrap_or(&settings.location);
    Ok((there.map(|one| offer(one, place)).collect(), None))
}

pub(crate) fn regions(api: &Api<'_>) -> Result<Vec<Offer>, Failure> {
    let all: Vec<Location> = api.all("locations", &[])?;
    let offer = |one: Location| {
        let description = format!("{}, {}", one.city, one.country);
        Offer { name: one.name, description, ..Offer::default() }
    };
    Ok(all.into_iter().map(offer).collect())
}

/// Refuses locations that there are not. Those that are known to be there are not asked for.
pub(crate) fn check_locations(api: &Api<'_>, settings: &Settings) -> Result<(), Failure> {
    let mut strange = settings.locations();
    strange.retain(|location| !LOCATIONS.contains(location));
    if strange.is_empty() {
        return Ok(());
    }
    let known = regions(api)?;
    let Some(wrong) = strange.into_iter().find(|one| known.iter().all(|k| k.name != **one)) else {
        return Ok(());
    };
    let field = if *wrong == *settings.location { "/location" } else { "/fallback-locations" };
    let names: Vec<&str> = known.iter().map(|location| location.name.as_str()).collect();
    Err(Failure::invalid_config(field, format!("there is no location {wrong}"))
        .hint(format!("choose one of {}", names.join(", "))))
}

pub(crate) fn quote(api: &Api<'_>, settings: &Settings, machine: &str) -> Result<Price, Failure> {
    let all: Vec<MachineType> = api.all("server_types", &[("name", machine)])?;
    let found = all.iter().find(|one| one.name == machine);
    found.and_then(|one| price(one, &settings.location)).ok_or_else(|| {
        Failure::not_found(format!("{machine} has no price in {}", settings.location))
    })
}

/// Machine types that the service says it has where we look, the largest first.
pub(crate) fn others(api: &Api<'_>, settings: &Settings) -> Result<Vec<String>, Failure> {
    let mut all: Vec<MachineType> = api.all("server_types", &[])?;
    let places = settings.locations();
    all.retain(|machine| {
        machine.architecture != "arm" && places.iter().any(|place| machine.is_at(place))
    });
    all.sort_by(|a, b| b.cores.cmp(&a.cores).then_with(|| a.name.cmp(&b.name)));
    Ok(all.into_iter().map(|machine| machine.name).collect())
}

fn offer(one: &MachineType, place: &str) -> Offer {
    Offer {
        name: one.name.clone(),
        description: one.description.clone(),
        cpus: Some(one.cores),
        memory_mib: Some(cloud::whole(one.memory * 1024.0)),
        disk_gib: Some(cloud::whole(one.disk)),
        arch: cloud::arch(one.architecture == "arm"),
        price: price(one, place),
        ..Offer::default()
    }
}

fn price(one: &MachineType, place: &str) -> Option<Price> {
    let tariff = one.prices.iter().find(|tariff| tariff.location == place)?;
    Some(cloud::price(tariff.price_hourly.net.parse().ok()?, CURRENCY, "list"))
}
