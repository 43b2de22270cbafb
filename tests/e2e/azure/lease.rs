//! A machine's life: leased, used, kept, touched, given back; and what is never seen of it.

use std::fs;

use serde_json::json;

use super::Sky;

#[test]
fn a_run_leases_a_machine_works_on_it_and_gives_it_back() {
    let sky = Sky::new();
    fs::write(sky.repo.join("dirty.txt"), "not committed\n").unwrap();
    let ran =
        sky.crabbox(&["run", "--", "sh", "-c", "cat hello.txt dirty.txt; exit 3"]).run().expect(3);
    assert_eq!(ran.out(), "hello\nnot committed\n", "{ran}");
    assert_eq!(sky.names(), [""; 0], "{ran}");
    assert_eq!(sky.count("PUT virtualMachines"), 1, "{:?}", sky.asked());
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
    let rules = &sky.all("networkSecurityGroups")[0]["properties"]["securityRules"];
    assert_eq!(rules.as_array().unwrap().len(), 1);
    assert_eq!(
        rules[0]["properties"]["sourceAddressPrefix"], "198.51.100.7/32",
        "only we may log in"
    );
}
