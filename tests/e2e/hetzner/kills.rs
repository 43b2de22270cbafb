//! Killed at any moment, command or plugin: after `cleanup` nothing of ours is left, and nothing of others is touched.

use crabbox_tests::{Call, Room};
use serde_json::{Value, json};

use super::Sky;
use crate::clouds::Cloud;
use crate::kills::survive;

impl Cloud for Sky {
    const PROVIDER: &str = "hetzner";

    fn room(&self) -> &Room {
        &self.room
    }

    fn crabbox(&self, words: &[&str]) -> Call {
        self.crabbox(words)
    }

    fn foreign(&self) -> Vec<Value> {
        let state = self.state();
        let all =
            ["servers", "ssh_keys"].into_iter().flat_map(|kind| state[kind].as_array().unwrap());
        all.filter(|one| one["labels"]["crabbox"] != "true" || one["name"] == "their-box")
            .cloned()
            .collect()
    }

    fn names(&self) -> Vec<String> {
        self.names()
    }
}

#[test]
fn killed_at_any_moment_a_lease_leaves_nothing_that_cleanup_does_not_find_and_nothing_of_others_is_touched()
 {
    let sky = Sky::new();
    sky.control("settings", &json!({"bootMs": 20}));
    sky.control("foreign", &json!({"name": "theirs", "labels": {"team": "other"}}));
    // Another user's box, which is in use.
    let labels = json!({"crabbox": "true", "lease": "cbx_ffffffffffff", "slug": "their-box", "expires_at": "4000000000"});
    sky.control("foreign", &json!({"name": "their-box", "labels": labels}));
    assert_eq!(sky.foreign().len(), 4);
    survive(&sky);
}
