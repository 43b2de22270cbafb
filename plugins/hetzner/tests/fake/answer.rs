//! The shapes of the API's answers, with every member the service's own description requires.

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub(crate) const NOW: &str = "2026-01-01T00:00:00Z";

pub(crate) fn location(name: &str) -> Option<Value> {
    let (id, city, country, zone) = match name {
        "fsn1" => (1, "Falkenstein", "DE", "eu-central"),
        "nbg1" => (2, "Nuremberg", "DE", "eu-central"),
        "hel1" => (3, "Helsinki", "FI", "eu-central"),
        "ash" => (4, "Ashburn, VA", "US", "us-east"),
        _ => return None,
    };
    Some(json!({
        "id": id, "name": name, "description": city, "city": city, "country": country,
        "latitude": 50.0, "longitude": 12.0, "network_zone": zone,
    }))
}

pub(crate) const LOCATIONS: &[&str] = &["fsn1", "nbg1", "hel1", "ash"];

/// Name, cores, memory, whether its cores are shared.
pub(crate) const TYPES: &[(&str, u32, u32, bool)] = &[
    ("cx23", 2, 4, true),
    ("cx53", 16, 32, true),
    ("cpx62", 16, 32, true),
    ("ccx33", 8, 32, false),
    ("ccx43", 16, 64, false),
    ("ccx53", 32, 128, false),
    ("ccx63", 48, 192, false),
    ("cax41", 16, 32, true),
];

pub(crate) fn machine_type(name: &str) -> Option<Value> {
    let (id, row) = TYPES.iter().enumerate().find(|(_, row)| row.0 == name)?;
    let price = || json!({"net": "0.0100000000", "gross": "0.0119000000"});
    let places = if name == "cx53" { &LOCATIONS[..3] } else { LOCATIONS };
    let locations = |name: &&str| json!({"id": location(name).unwrap()["id"], "name": name, "deprecation": null, "available": true, "recommended": false});
    let prices = |name: &&str| {
        json!({
            "location": name, "price_hourly": price(), "price_monthly": price(),
            "included_traffic": 20_000_000_000_000_u64, "price_per_tb_traffic": price(),
        })
    };
    Some(json!({
        "id": id + 1, "name": name, "description": name.to_uppercase(), "cores": row.1, "memory": row.2, "disk": 160,
        "deprecated": false, "deprecation": null, "storage_type": "local", "category": "any",
        "cpu_type": if row.3 { "shared" } else { "dedicated" },
        "architecture": if name.starts_with("cax") { "arm" } else { "x86" },
        "locations": places.iter().map(locations).collect::<Vec<_>>(),
        "prices": places.iter().map(prices).collect::<Vec<_>>(),
    }))
}

/// A system image by name, or the one snapshot there is by its number.
pub(crate) fn image(name: &str) -> Option<Value> {
    let (id, kind, name) = match name {
        "ubuntu-24.04" => (1, "system", json!(name)),
        "debian-13" => (2, "system", json!(name)),
        "4711" => (4711, "snapshot", Value::Null),
        _ => return None,
    };
    Some(json!({
        "id": id, "type": kind, "status": "available", "name": name, "description": "an image", "image_size": 1.0,
        "disk_size": 10, "created": NOW, "created_from": null, "bound_to": null, "os_flavor": "ubuntu",
        "os_version": "24.04", "architecture": "x86", "protection": {"delete": false}, "deprecated": null,
        "deleted": null, "labels": {}, "rapid_deploy": true,
    }))
}

pub(crate) fn action(id: u64, command: &str, server: u64) -> Value {
    json!({
        "id": id, "command": command, "status": "success", "progress": 100, "started": NOW, "finished": NOW,
        "resources": [{"id": server, "type": "server"}], "error": null,
    })
}

/// A server in the service's own words.
pub(crate) struct Facts<'a> {
    pub(crate) id: u64,
    pub(crate) name: &'a str,
    pub(crate) status: &'a str,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) machine: &'a str,
    pub(crate) location: &'a str,
    pub(crate) image: &'a str,
    pub(crate) ipv4: Option<&'a str>,
    pub(crate) ipv6: bool,
}

pub(crate) fn server(facts: &Facts<'_>) -> Value {
    let place = location(facts.location).unwrap();
    let ipv4 = facts
        .ipv4
        .map(|ip| json!({"id": facts.id, "ip": ip, "blocked": false, "dns_ptr": "a.example.dev"}));
    let ipv6 = facts
        .ipv6
        .then(|| json!({"id": facts.id, "ip": "2001:db8::/64", "blocked": false, "dns_ptr": []}));
    json!({
        "id": facts.id, "name": facts.name, "status": facts.status, "created": NOW, "labels": facts.labels,
        "server_type": machine_type(facts.machine), "image": image(facts.image), "location": place,
        "datacenter": {
            "id": 4, "name": format!("{}-dc14", facts.location), "description": "a hall", "location": place,
            "server_types": {"available": [1], "available_for_migration": [1], "supported": [1]},
        },
        "public_net": {"ipv4": ipv4, "ipv6": ipv6, "floating_ips": [], "firewalls": []},
        "private_net": [], "protection": {"delete": false, "rebuild": false}, "volumes": [], "load_balancers": [],
        "iso": null, "locked": false, "rescue_enabled": false, "backup_window": null, "primary_disk_size": 160,
        "included_traffic": 20_000_000_000_000_u64, "ingoing_traffic": 0, "outgoing_traffic": 0, "placement_group": null,
    })
}
