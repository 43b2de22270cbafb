//! Microsoft's own clients as second users of the cloud of these tests: what the plugin is tested against is no fancy of
//! ours.

use std::time::Duration;

use crabbox_tests::{binaries, gone_without, plugin_folder};
use serde_json::json;

use super::{SECRET, Sky};

#[test]
fn the_vendors_own_clients_see_make_and_delete_in_the_same_cloud() {
    if gone_without("CRABBOX_TEST_SDK", "Microsoft's clients for Python") {
        return;
    }
    let python = binaries().join("../clients/bin/python");
    assert!(python.is_file(), "{} is missing: ./test.sh installs it", python.display());
    let sky = Sky::new();
    let _ = sky.crabbox(&["warmup", "--slug", "some"]).ok();
    let call = sky
        .room
        .call(python)
        .arg(plugin_folder("azure").join("fake/second_client.py"))
        .arg(&sky.url);
    let call = call.args(sky.ids()).arg(SECRET).env("PYTHONDONTWRITEBYTECODE", "1");
    let told = call.limit(Duration::from_secs(120)).ok().json();
    assert_eq!(told["ours"], json!(["some"]), "{told}");
    assert_eq!(told["power"][1], "PowerState/running", "{told}");
    assert_eq!(
        (&told["state"], &told["held"]),
        (&json!("Succeeded"), &json!("NicInUse")),
        "{told}"
    );
    assert_eq!(told["error"], "ResourceNotFound", "{told}");
    // Their models are made from the documents Microsoft publishes: what we ask and what this cloud answers is in them.
    assert_eq!(told["strange"], json!([]), "{told}");
    assert_eq!(told["judged"].as_array().unwrap().len(), 6, "{told}");
    let _ = sky.crabbox(&["stop", "some"]).ok();
    assert_eq!(sky.names(), [""; 0]);
}
