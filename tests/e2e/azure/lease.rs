//! A machine's life: leased, used, kept, touched, given back; and what is never seen of it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crabbox_tests::{eventually, holders, holds};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{SECRET, Sky};
use crate::clouds::goes_through_the_component;

#[test]
fn a_run_leases_a_machine_works_on_it_and_gives_it_back() {
    let sky = Sky::new();
    fs::write(sky.repo.join("dirty.txt"), "not committed\n").unwrap();
    let ran =
        sky.crabbox(&["run", "--", "sh", "-c", "cat hello.txt dirty.txt; exit 3"]).run().expect(3);
    assert_eq!(ran.out(), "hello\nnot committed\n", "{ran}");
    assert_eq!(sky.names(), [""; 0], "{ran}");
    assert_eq!(sky.count("PUT virtualMachines"), 1, "{:?}", sky.asked());
    assert_eq!(sky.count("POST token"), 1);
    sky.room.assert_no_claims();
    for (kind, name) in [
        ("resourceGroups", "crabbox-leases"),
        ("virtualNetworks", "crabbox-vnet"),
        ("networkSecurityGroups", "crabbox-nsg"),
    ] {
        let shared = &sky.all(kind)[0];
        assert_eq!(
            (&shared["name"], &shared["tags"]),
            (&json!(name), &json!({"managed_by": "crabbox"}))
        );
    }
    let rules = sky.all("networkSecurityGroups")[0]["properties"]["securityRules"].clone();
    assert_eq!(rules.as_array().unwrap().len(), 1);
    assert_eq!(
        rules[0]["properties"]["sourceAddressPrefix"], "198.51.100.7/32",
        "only we may log in"
    );
    // The next lease finds all of it there.
    let _ = sky.crabbox(&["run", "--", "true"]).ok();
    for what in ["PUT crabbox-leases", "PUT virtualNetworks", "PUT networkSecurityGroups"] {
        assert!(sky.count(what) <= 1, "{what}: {:?}", sky.asked());
    }
    let told = sky.crabbox(&["doctor", "--debug"]).run().expect(0);
    let said = format!("{}{}{}{}", ran.out(), ran.err(), told.out(), told.err());
    let tokens: Vec<String> = serde_json::from_value(sky.state()["tokens"].clone()).unwrap();
    for secret in tokens.iter().map(String::as_str).chain([SECRET]) {
        assert!(!said.contains(secret) && !said.contains("BEGIN OPENSSH"), "{said}");
        for folder in ["state", "config", "cache", "data", "tmp", "home"] {
            assert_eq!(holders(&sky.room.at(folder), secret), [] as [PathBuf; 0], "{folder}");
        }
    }
}

#[test]
fn the_same_run_goes_through_the_component() {
    let sky = Sky::new();
    goes_through_the_component(&sky, || sky.as_component("azure"));
}

#[test]
fn a_kept_machine_is_found_listed_touched_used_and_stopped() {
    let sky = Sky::new();
    sky.set(&json!({"page": 1, "foreign": [
        {"kind": "resourceGroups", "group": "crabbox-leases", "tags": {"managed_by": "crabbox"}},
        {"name": "theirs", "tags": {"team": "other"}},
    ]}));
    let _ = sky.crabbox(&["warmup", "--slug", "first"]).ok();
    let _ = sky.crabbox(&["warmup", "--slug", "second", "--market", "on-demand"]).ok();
    let listed = sky.crabbox(&["list", "--json"]).ok().json();
    let all = listed["leases"].as_array().or(listed.as_array()).cloned().unwrap_or_default();
    let mut slugs: Vec<_> = all.iter().map(|one| one["slug"].as_str().unwrap()).collect();
    slugs.sort_unstable();
    assert_eq!(slugs, ["first", "second"], "every page of ours and nothing of others: {listed}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let first =
        sky.all("virtualMachines").into_iter().find(|one| one["tags"]["slug"] == "first").unwrap();
    let (id, name, lease) =
        (text(&first["id"]), text(&first["name"]), text(&first["tags"]["lease"]));
    for kind in ["networkInterfaces", "publicIPAddresses", "disks"] {
        let all = sky.all(kind);
        let part = all.iter().find(|one| text(&one["name"]).starts_with(&name)).unwrap();
        assert_eq!(part["tags"]["lease"], *lease, "{kind}");
        assert_eq!(part["tags"]["crabbox"], "true", "{kind}");
    }
    let made = &first["properties"];
    assert_eq!((&made["priority"], &made["evictionPolicy"]), (&json!("Spot"), &json!("Delete")));
    assert_eq!(made["storageProfile"]["osDisk"]["diffDiskSettings"]["placement"], "NvmeDisk");
    assert_eq!(
        made["networkProfile"]["networkInterfaces"][0]["properties"]["deleteOption"],
        "Delete"
    );
    let door = &sky.all("networkInterfaces")[0]["properties"];
    assert_eq!(door["enableAcceleratedNetworking"], true);
    for name in ["first", &lease, &name, &id] {
        let _ = sky.crabbox(&["status", name]).ok();
    }
    let ran = sky.crabbox(&["run", "--id", "first", "--", "cat", "hello.txt"]).ok();
    assert_eq!(ran.out(), "hello\n");
    let now = sky.all("virtualMachines").into_iter().find(|one| one["id"] == *id).unwrap();
    assert_eq!((&now["tags"]["state"], &now["tags"]["lease"]), (&json!("ready"), &json!(lease)));
    let theirs = text(&sky.all("virtualMachines")[0]["id"]);
    assert!(theirs.ends_with("/theirs"), "{theirs}");
    let _ = sky.crabbox(&["stop", &theirs]).ok().says(&["already gone"]);
    for name in ["first", "second"] {
        let _ = sky.crabbox(&["stop", name]).ok();
    }
    assert_eq!(sky.names(), ["theirs"], "theirs is untouched");
}

/// Why a machine ended.
fn cause_of(sky: &Sky, machine: &Value) -> Value {
    let lease = json!({"leaseId": machine["tags"]["lease"], "cloudId": machine["id"]});
    let asked = json!({ "lease": lease }).to_string();
    let told = sky.crabbox(&["plugin", "run", "azure", "evidence.collect", &asked]).ok();
    told.json()["cause"].clone()
}

#[test]
fn what_is_left_of_a_machine_that_azure_took_away_is_found_and_removed() {
    let sky = Sky::new();
    let _ = sky.crabbox(&["warmup", "--slug", "some"]).ok();
    let machine = sky.all("virtualMachines")[0].clone();
    // With all that Azure may leave of it.
    sky.set(&json!({"vanish": [machine["name"]]}));
    assert_eq!(sky.names().len(), 3);
    assert_eq!(cause_of(&sky, &machine), "gone");
    let _ = sky.crabbox(&["stop", "some"]).ok();
    assert_eq!(sky.names(), [""; 0]);
    sky.assert_forgotten();
    // Parts that nobody here remembers, of leases that are over; the last one is not.
    let part = |kind: &str, lease: &str, until: &str| {
        let tags = json!({"crabbox": "true", "lease": lease, "slug": "lost", "state": "leased", "expires_at": until});
        json!({"name": format!("{lease}-{kind}"), "kind": kind, "tags": tags})
    };
    sky.set(&json!({"foreign": [
        part("publicIPAddresses", "cbx_000000000001", "1000"),
        part("networkInterfaces", "cbx_000000000002", "1000"),
        part("disks", "cbx_000000000003", "1000"),
        part("virtualMachines", "cbx_000000000004", "1000"),
        part("disks", "cbx_000000000005", "4000000000"),
    ]}));
    let dry = sky.crabbox(&["cleanup", "--dry-run"]).ok();
    assert_eq!(sky.names().len(), 5, "{dry}");
    let cleaned = sky.crabbox(&["cleanup"]).ok();
    assert_eq!(sky.names(), ["cbx_000000000005-disks"], "{cleaned}");
}

#[test]
fn a_machine_that_was_switched_off_is_no_box_and_is_told_why() {
    let sky = Sky::new();
    let _ = sky.crabbox(&["warmup", "--slug", "some"]).ok();
    let machine = sky.all("virtualMachines")[0].clone();
    sky.set(&json!({"change": {(machine["name"].as_str().unwrap()): {"power": "stopped"}}}));
    let asked = json!({"id": machine["tags"]["lease"], "purpose": "use"}).to_string();
    let told = sky.crabbox(&["plugin", "run", "azure", "lease.resolve", &asked]).run();
    assert_ne!(told.code, 0, "{told}");
    assert!(format!("{told}").contains("is stopped"), "{told}");
    assert_eq!(cause_of(&sky, &machine), "expired");
    let _ = sky.crabbox(&["stop", "some"]).ok();
    assert_eq!(sky.names(), [""; 0]);
}

#[test]
fn ctrl_c_while_a_machine_is_made_gives_it_back() {
    let sky = Sky::new();
    for slow in [
        json!({"seconds": 1.5}),
        json!({"seconds": 0.05, "faults": [{"on": "PUT virtualMachines", "delay": 1.5}]}),
    ] {
        sky.set(&slow);
        let before = sky.count("PUT virtualMachines");
        let running = sky.crabbox(&["run", "--", "true"]).start();
        eventually("a machine on its way", Duration::from_secs(30), || {
            sky.count("PUT virtualMachines") > before
        });
        sky.set(&json!({"seconds": 0.05}));
        running.signal(Signal::INT);
        let ended = running.wait().expect(130);
        assert_eq!(sky.names(), [""; 0], "{ended}");
        sky.assert_forgotten();
    }
}

#[test]
fn the_plugin_has_neither_the_secret_nor_a_token_in_arguments_or_environment() {
    let sky = Sky::new();
    sky.faults(json!([{"on": "PUT virtualMachines", "delay": 2}]));
    let running = sky.crabbox(&["run", "--", "true"]).start();
    eventually("a request", Duration::from_secs(30), || sky.count("PUT virtualMachines") > 0);
    let all = sky.room.processes();
    let (pid, line) = all.iter().find(|(_, line)| line.contains("provider-azure")).unwrap();
    let environ = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap();
    let tokens: Vec<String> = serde_json::from_value(sky.state()["tokens"].clone()).unwrap();
    for secret in tokens.iter().map(String::as_str).chain([SECRET]) {
        assert!(!line.contains(secret) && !holds(&environ, secret));
    }
    let _ = running.wait().expect(0);
}

#[test]
fn what_can_be_had_and_for_how_much_can_be_asked() {
    let sky = Sky::new();
    sky.set(&json!({"blocked": {"Standard_F16s_v2": "NotAvailableForSubscription"}}));
    let ask = |method: &str, params: &Value| {
        sky.crabbox(&["plugin", "run", "azure", method, &params.to_string()]).ok().json()
    };
    let sizes = ask("catalog.sizes", &json!({}));
    let all = sizes["offers"].as_array().unwrap();
    let one = |name: &str| all.iter().find(|offer| offer["name"] == name).cloned();
    let arm = one("Standard_D2ps_v5").unwrap();
    assert_eq!(
        (&arm["cpus"], &arm["memoryMib"], &arm["arch"]),
        (&json!(2), &json!(8192), &json!("aarch64"))
    );
    assert_eq!(one("Standard_D192ds_v6").unwrap()["class"], "beast");
    assert_eq!(one("Standard_F16s_v2"), None, "the subscription may not have it");
    assert_eq!(ask("catalog.regions", &json!({}))["offers"][1]["name"], "westus2");
    for (market, micros) in [("spot", 100_000), ("on-demand", 500_000)] {
        let quote = ask("pricing.quote", &json!({"request": {"class": "fast", "market": market}}));
        assert_eq!(
            (&quote["price"]["hourlyMicros"], &quote["price"]["basis"]),
            (&json!(micros), &json!(market))
        );
    }
}
