//! When the cloud says no: what is tried next, what is told, and that nothing is left.

use std::path::PathBuf;
use std::time::Duration;

use crabbox_tests::{Ended, eventually, holders, plugin_folder};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{SECRET, Sky};

const RUN: &[&str] = &["run", "--json", "--", "true"];

fn full(with: &str) -> Value {
    json!({"on": "PUT virtualMachines", "with": with, "code": "SkuNotAvailable", "message": "The requested size is not available."})
}

fn error(ended: &Ended) -> Value {
    ended.json()["error"].clone()
}

#[test]
fn when_nothing_can_be_had_every_try_is_told_and_what_could_be_had_instead() {
    let sky = Sky::new();
    sky.configure("  locations: [westus2]\n");
    let spot = json!({"on": "PUT virtualMachines", "with": "Spot", "code": "OperationNotAllowed", "message": "Operation could not be completed as it results in exceeding approved LowPriorityCores quota."});
    sky.set(&json!({"blocked": {"Standard_D48ads_v6": "NotAvailableForSubscription"}, "faults": [spot, full("")]}));
    let ran = sky.crabbox(&["run", "--class", "fast", "--json", "--", "true"]).run().expect(4);
    let error = error(&ran);
    assert_eq!(error["errorKind"], "capacity", "{ran}");
    let told = sky.attempts(&ran);
    assert_eq!(told.len(), 2 * 2 * 11, "{told:?}");
    assert!(told[0].contains("Standard_D64ads_v6") && told[0].contains("quota"), "{told:?}");
    assert!(told[0].contains("eastus") && told[43].contains("westus2"), "{told:?}");
    let causes: Vec<&str> =
        error["cause"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    assert!(causes[0].starts_with("Standard_D64ads_v6 spot in eastus: quota: "), "{causes:?}");
    assert!(
        causes[11].starts_with("Standard_D64ads_v6 on-demand in eastus: capacity: "),
        "{causes:?}"
    );
    assert_eq!(
        causes[5],
        "Standard_D48ads_v6 spot in eastus: capacity: Standard_D48ads_v6 is not offered to this subscription in eastus (NotAvailableForSubscription)"
    );
    // What the subscription may not have is not even asked for.
    assert_eq!(sky.count("PUT virtualMachines"), 2 * 2 * 10);
    assert_eq!(sky.count("PUT networkInterfaces"), 2, "one a location");
    let others = error["alternatives"].as_array().unwrap();
    assert!(others.contains(&json!("Standard_D192ds_v6")), "{others:?}");
    assert!(!others.contains(&json!("Standard_D64ads_v6")), "{others:?}");
    assert!(error["hint"].as_str().unwrap().contains("--type Standard_D192ds_v6"), "{ran}");
    assert_eq!(sky.names(), [""; 0], "{ran}");
    sky.assert_forgotten();
}

#[test]
fn the_next_size_market_or_location_is_taken_where_one_is_full() {
    let sky = Sky::new();
    sky.configure("  locations: [westus2]\n");
    let made = |words: &[&str]| {
        let _ = sky.crabbox(&[&["warmup", "--slug", "some"], words].concat()).ok();
        let one = sky.all("virtualMachines")[0].clone();
        let _ = sky.crabbox(&["stop", "some"]).ok();
        assert_eq!(sky.names(), [""; 0]);
        let made = &one["properties"];
        json!([made["hardwareProfile"]["vmSize"], made["priority"], one["location"]])
    };
    sky.faults(json!([full("D192ds_v6"), full("D128ds_v6")]));
    assert_eq!(made(&[]), json!(["Standard_D96ads_v6", "Spot", "eastus"]));
    sky.faults(json!([full("\"Spot\"")]));
    assert_eq!(made(&["--type", "Standard_D2s_v5"]), json!(["Standard_D2s_v5", null, "eastus"]));
    sky.faults(json!([full("\"location\":\"eastus\"")]));
    assert_eq!(made(&["--type", "Standard_B2s"]), json!(["Standard_B2s", null, "westus2"]));
    let mut networks: Vec<_> =
        sky.all("virtualNetworks").iter().map(|one| one["name"].clone()).collect();
    networks.sort_by_key(Value::to_string);
    assert_eq!(networks, ["crabbox-vnet", "crabbox-vnet-westus2"]);
    // Accepted first, and without room then: what was made of it goes before the next one is tried.
    let later = |with: &str| json!({"on": "PUT virtualMachines", "with": with, "later": true, "code": "AllocationFailed", "message": "Allocation failed."});
    sky.faults(json!([later("D192ds_v6"), later("D128ds_v6")]));
    assert_eq!(made(&[]), json!(["Standard_D96ads_v6", "Spot", "eastus"]));
}

#[test]
fn spot_alone_is_asked_for_where_the_user_wants_no_other_and_an_exact_size_alone() {
    let sky = Sky::new();
    sky.configure("  fallback: none\n");
    sky.faults(json!([full("")]));
    let words = ["run", "--type", "Standard_D2s_v5", "--json", "--", "true"];
    let ran = sky.crabbox(&words).run().expect(4);
    assert_eq!(sky.attempts(&ran).len(), 1, "{ran}");
    let asked = sky.asked().iter().filter(|asked| asked.starts_with("PUT")).count();
    let ran =
        sky.crabbox(&["run", "--type", "Standard_X1", "--json", "--", "true"]).run().expect(2);
    let said = error(&ran).to_string();
    assert!(said.contains("there is no machine type Standard_X1 in eastus"), "{ran}");
    assert!(said.contains("crabbox sizes --provider azure"), "{ran}");
    assert!(!ran.err().contains("provisioning"), "{ran}");
    let puts = sky.asked().iter().filter(|asked| asked.starts_with("PUT")).count();
    assert_eq!(puts, asked, "nothing was made");
}

#[test]
fn disks_are_local_where_the_size_can_do_that_and_rented_elsewhere_or_when_a_size_is_wanted() {
    let sky = Sky::new();
    let disk = |words: &[&str]| {
        let _ = sky.crabbox(&[&["warmup", "--slug", "some"], words].concat()).ok();
        let disk = sky.all("virtualMachines")[0]["properties"]["storageProfile"]["osDisk"].clone();
        let _ = sky.crabbox(&["stop", "some"]).ok();
        disk
    };
    let local = disk(&["--type", "Standard_D2ads_v5"]);
    assert_eq!(local["diffDiskSettings"]["placement"], "ResourceDisk");
    let rented = disk(&["--type", "Standard_D2s_v5"]);
    assert_eq!(rented["managedDisk"]["storageAccountType"], "StandardSSD_LRS");
    let sized = disk(&["--type", "Standard_D2ads_v5", "--azure-os-disk-gb", "200"]);
    assert_eq!((&sized["diskSizeGB"], &sized["diffDiskSettings"]), (&json!(200), &Value::Null));
    assert_eq!(sky.names(), [""; 0]);
}

#[test]
fn an_answer_that_is_lost_makes_no_second_machine_and_leaves_none() {
    let sky = Sky::new();
    for lost in [
        "PUT crabbox-leases",
        "PUT networkSecurityGroups",
        "PUT virtualNetworks",
        "PUT publicIPAddresses",
        "PUT networkInterfaces",
        "PUT virtualMachines",
        "DELETE virtualMachines",
        "GET operations",
    ] {
        sky.faults(json!([{"on": lost, "times": 1, "lose": true}]));
        let ran = sky.crabbox(&["run", "--", "true"]).run().expect(0);
        assert_eq!(sky.names(), [""; 0], "{lost}\n{ran}");
        sky.assert_forgotten();
    }
}

#[test]
fn a_service_that_is_busy_is_asked_later() {
    let sky = Sky::new();
    let slow = |on: &str, status: u16, code: &str| json!({"on": on, "times": 1, "status": status, "code": code, "message": "slow down", "headers": {"retry-after": "1"}});
    sky.faults(json!([
        slow("PUT virtualMachines", 429, "TooManyRequests"),
        slow("DELETE virtualMachines", 429, "TooManyRequests"),
        slow("GET virtualMachines", 503, "ServerTimeout"),
        slow("PUT networkInterfaces", 500, "InternalServerError"),
    ]));
    let _ = sky.crabbox(&["run", "--", "true"]).ok();
    assert_eq!(sky.names(), [""; 0]);
    // What still holds something is waited for.
    let held = json!({"on": "DELETE networkInterfaces", "times": 1, "status": 400, "code": "NicReservedForAnotherVm", "message": "reserved for 180 seconds"});
    sky.faults(json!([held, full("")]));
    let _ = sky.crabbox(RUN).run().expect(4);
    assert_eq!(sky.names(), [""; 0]);
    sky.faults(json!([{"on": "GET virtualMachines", "status": 429, "code": "TooManyRequests", "message": "slow down", "headers": {"retry-after": "600"}}]));
    let ran = sky.crabbox(RUN).run().expect(5);
    assert_eq!(error(&ran)["errorKind"], "rate_limited", "{ran}");
}

#[test]
fn wrong_secrets_missing_rights_and_wrong_settings_are_told_before_anything_is_made() {
    let mut role = super::role();
    let known = std::fs::read_to_string(plugin_folder("azure").join("role.json")).unwrap();
    assert_eq!(role, known.parse::<Value>().unwrap(), "the page has the role the doctor knows");
    let lacking = "Microsoft.Compute/virtualMachines/write";
    role["Actions"].as_array_mut().unwrap().retain(|action| action != lacking);
    let sky = Sky::with(&role);
    let wrong = sky.crabbox(RUN).env("AZURE_CLIENT_SECRET", "wr0ng-wr0ng").run().expect(3);
    assert_eq!(error(&wrong)["errorKind"], "auth", "{wrong}");
    assert!(!wrong.out().contains("wr0ng-wr0ng"), "{wrong}");
    let none = sky.room.crabbox(&sky.repo, RUN).run().expect(3);
    assert_eq!(error(&none)["errorKind"], "auth", "{none}");
    assert!(error(&none).to_string().contains("AZURE_CLIENT_SECRET"), "{none}");
    let refused = sky.crabbox(RUN).run().expect(3);
    assert_eq!(error(&refused)["errorKind"], "permission", "{refused}");
    assert!(error(&refused)["message"].as_str().unwrap().contains(lacking), "{refused}");
    let doctor = sky.crabbox(&["doctor"]).run().expect(1);
    for words in [format!("{lacking} is not allowed"), format!("allow {lacking}")] {
        assert!(doctor.out().contains(&words), "{doctor}");
    }
    assert_eq!(sky.names(), [""; 0]);
    let before = sky.asked().len();
    for (flag, value, words) in [
        ("--azure-image", "Canonical:none:none:latest", "there is no image"),
        ("--azure-subscription-id", "00000000-0000-0000-0000-000000000000", "could not be found"),
        ("--azure-location", "nowhere1", "nowhere1"),
    ] {
        let ran = sky.crabbox(&["run", "--json", flag, value, "--", "true"]).run().expect(2);
        assert!(error(&ran).to_string().contains(words), "{flag}\n{ran}");
    }
    let asked = sky.asked();
    assert!(!asked[before..].iter().any(|what| what.starts_with("PUT")), "{:?}", &asked[before..]);
    let before = sky.asked().len();
    for (words, says) in [
        (&["--target", "macos"][..], "azure has no macos boxes"),
        (&["--target", "windows"], "crabbox runs no commands in Windows itself"),
        (&["--target", "windows", "--windows-mode", "wsl2"], "run linux or windows here, not wsl2"),
    ] {
        let all = [&["run", "--json"], words, &["--", "true"]].concat();
        let ran = sky.crabbox(&all).run().expect(2);
        assert!(error(&ran).to_string().contains(says), "{ran}");
    }
    assert!(!sky.asked()[before..].iter().any(|what| what.starts_with("PUT")));
}

/// What its first start does with it was never seen: nothing here can run it.
#[test]
fn a_windows_machine_is_asked_for_as_azure_wants_it_and_its_password_is_known_to_nobody() {
    let sky = Sky::new();
    let warmup = ["warmup", "--target", "windows", "--plugin-transcript", "said", "--slug", "mine"];
    let running = sky.crabbox(&warmup).start();
    let told = || sky.all("extensions").into_iter().next();
    eventually("an extension", Duration::from_secs(40), || {
        told().is_some_and(|one| one["properties"]["provisioningState"] == "Succeeded")
    });
    let (machine, extension) = (sky.all("virtualMachines").remove(0), told().unwrap());
    let made = &machine["properties"];
    assert_eq!(made["hardwareProfile"]["vmSize"], "Standard_D16ads_v6");
    assert_eq!(made["storageProfile"]["imageReference"]["offer"], "windowsserver2022");
    let name = made["osProfile"]["computerName"].as_str().unwrap();
    assert_eq!(format!("cbx_{}", &name[3..]), machine["tags"]["lease"].as_str().unwrap());
    assert_eq!(machine["tags"]["crabbox_windows_mode"], "normal");
    assert!(machine["data"].as_str().unwrap().contains("setup-complete"), "{machine}");
    let command = extension["hidden"]["commandToExecute"].as_str().unwrap();
    assert!(command.contains(r"C:\AzureData\CustomData.bin"), "{command}");
    let word = machine["word"].as_str().unwrap();
    assert!(word.len() > 20, "{machine}");
    running.signal(Signal::INT);
    let ended = running.wait().expect(130);
    assert_eq!((sky.names(), sky.all("extensions")), (vec![], vec![]), "{ended}");
    for folder in ["config", "state", "cache", "data", "home", "tmp"] {
        assert_eq!(holders(&sky.room.at(folder), word), [] as [PathBuf; 0], "{folder}");
    }
    assert_eq!(holders(&sky.repo, word), [] as [PathBuf; 0], "not even what the plugin said");
}

#[test]
fn a_windows_machine_that_cannot_be_set_up_is_given_back_and_says_why() {
    let sky = Sky::new();
    let code = "VMExtensionProvisioningError";
    let message =
        "VM has reported a failure when processing extension 'crabbox-bootstrap': no sshd";
    sky.faults(json!([{"on": "PUT extensions", "later": true, "code": code, "message": message}]));
    let ran = sky.crabbox(&["warmup", "--json", "--target", "windows"]).run().expect(5);
    assert_eq!(error(&ran)["errorKind"], "bootstrap", "{ran}");
    assert!(error(&ran).to_string().contains("no sshd"), "{ran}");
    assert_eq!(sky.names(), [""; 0], "{ran}");
    sky.assert_forgotten();
}

#[test]
fn a_network_of_others_is_left_alone_and_nothing_is_made_in_it() {
    for (kind, name, key) in [
        ("resourceGroups", "crabbox-leases", "resourceGroup"),
        ("virtualNetworks", "crabbox-vnet", "vnet"),
        ("networkSecurityGroups", "crabbox-nsg", "nsg"),
    ] {
        let sky = Sky::new();
        let mine = json!({"managed_by": "crabbox"});
        let group = json!({"kind": "resourceGroups", "group": "crabbox-leases", "tags": mine});
        let theirs = json!({"kind": kind, "group": "crabbox-leases", "name": name, "tags": {}});
        sky.set(&json!({"foreign": [group, theirs]}));
        let ran = sky.crabbox(RUN).run();
        let error = error(&ran);
        assert_eq!(error["errorKind"], "precondition", "{ran}");
        let said = error.to_string();
        assert!(said.contains(&format!("{name} exists and was not made by crabbox")), "{ran}");
        assert!(said.contains(&format!("azure.{key}")) && said.contains("managed_by"), "{ran}");
        assert!(!sky.asked().iter().any(|what| what.starts_with("PUT")), "{:?}", sky.asked());
    }
}

#[test]
fn who_may_log_in_is_added_and_what_others_allowed_stays() {
    let sky = Sky::new();
    let rule = json!({"name": "theirs", "properties": {"priority": 100, "direction": "Inbound"}});
    let mine = json!({"managed_by": "crabbox"});
    sky.set(&json!({"foreign": [
        {"kind": "resourceGroups", "group": "crabbox-leases", "tags": mine},
        {"kind": "networkSecurityGroups", "name": "crabbox-nsg", "tags": mine, "properties": {"securityRules": [rule]}},
        {"kind": "virtualNetworks", "name": "crabbox-vnet", "tags": mine},
    ]}));
    sky.configure("  sshCIDRs: [203.0.113.0/24, \"2001:db8::/64\"]\n");
    let _ = sky.crabbox(&["run", "--", "true"]).ok();
    let _ = sky.crabbox(&["run", "--", "true"]).ok();
    let rules = sky.all("networkSecurityGroups")[0]["properties"]["securityRules"].clone();
    let told: Vec<Value> = rules
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| {
            json!([rule["properties"]["priority"], rule["properties"]["sourceAddressPrefix"]])
        })
        .collect();
    assert_eq!(
        told,
        [json!([100, null]), json!([101, "203.0.113.0/24"]), json!([102, "2001:db8::/64"])]
    );
    assert_eq!(sky.all("virtualNetworks")[0]["properties"]["subnets"][0]["name"], "crabbox-subnet");
}

#[test]
fn a_repository_chooses_neither_who_pays_nor_endpoints_nor_who_may_log_in() {
    let sky = Sky::new();
    for text in [
        "armUrl: http://127.0.0.1:1",
        "loginUrl: http://127.0.0.1:1",
        "addressUrl: http://127.0.0.1:1",
        "pricesUrl: http://127.0.0.1:1",
        "subscriptionId: theirs",
        "tenantId: theirs",
        "clientId: theirs",
        "clientSecret: cmd:id",
        "token: cmd:id",
        "sshCIDRs: [0.0.0.0/0]",
    ] {
        std::fs::write(sky.repo.join(".crabbox.yaml"), format!("azure:\n  {text}\n")).unwrap();
        let ran = sky.crabbox(RUN).run().expect(2);
        assert_eq!(error(&ran)["errorKind"], "config_untrusted", "{text}\n{ran}");
    }
    assert_eq!(sky.asked(), [""; 0]);
}

#[test]
fn a_token_that_another_tool_prints_does_instead_of_a_client() {
    let sky = Sky::new();
    sky.set(&json!({"accept": "printed-t0ken"}));
    let file = sky.room.at("printed");
    std::fs::write(&file, "printed-t0ken\n").unwrap();
    sky.configure(&format!("  token: \"cmd:cat {}\"\n", file.display()));
    let ran = sky.room.crabbox(&sky.repo, ["run", "--", "cat", "hello.txt"]).run().expect(0);
    assert_eq!((ran.out(), sky.names()), ("hello\n".to_owned(), vec![]), "{ran}");
    assert_eq!(sky.count("POST token"), 0);
    assert!(!SECRET.is_empty());
}

#[test]
fn a_machine_that_never_becomes_a_box_is_told_why_and_given_back() {
    let sky = Sky::new();
    sky.set(&json!({"broken": true}));
    let ran = sky.crabbox(RUN).run().expect(5);
    assert_eq!(error(&ran)["errorKind"], "bootstrap", "{ran}");
    assert_eq!(sky.names(), [""; 0], "{ran}");
    sky.set(&json!({"broken": false, "impostor": true}));
    let ran = sky.crabbox(RUN).run().expect(7);
    assert_eq!(error(&ran)["errorKind"], "ssh_host_key", "{ran}");
    assert_eq!(sky.names(), [""; 0], "{ran}");
}
