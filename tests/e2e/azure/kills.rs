//! Killed at any moment, command or plugin: after `cleanup` nothing of ours is left, and nothing of others is touched.

use crabbox_tests::{Call, Room};
use serde_json::{Value, json};

use super::Sky;
use crate::clouds::Cloud;
use crate::kills::survive;

impl Cloud for Sky {
    const PROVIDER: &str = "azure";
    const ROUNDS: u64 = 12;

    fn room(&self) -> &Room {
        &self.room
    }

    fn crabbox(&self, words: &[&str]) -> Call {
        self.crabbox(words)
    }

    fn foreign(&self) -> Vec<Value> {
        let all = self.state()["things"].as_array().unwrap().clone();
        all.into_iter().filter(|one| one["name"].as_str().unwrap().starts_with("their")).collect()
    }

    fn names(&self) -> Vec<String> {
        self.names()
    }
}

#[test]
fn killed_at_any_moment_a_lease_leaves_nothing_of_any_kind_and_nothing_of_others_is_touched() {
    let sky = Sky::new();
    // The last two are another user's box, which is in use.
    let tags = json!({"crabbox": "true", "lease": "cbx_ffffffffffff", "slug": "their-box", "expires_at": "4000000000"});
    sky.set(&json!({"foreign": [
        {"name": "theirs", "tags": {"team": "other"}},
        {"name": "theirs-nic", "kind": "networkInterfaces"},
        {"name": "their-box", "tags": tags},
        {"name": "their-box-pip", "kind": "publicIPAddresses", "tags": tags},
    ]}));
    assert_eq!(sky.foreign().len(), 4);
    survive(&sky);
}
