//! Killed at any moment, command or plugin: after `cleanup` nothing of ours is left, and nothing of others is touched.

use crabbox_tests::{Call, Room};
use serde_json::{Value, json};

use super::Sky;
use crate::clouds::Cloud;
use crate::kills::survive;

impl Cloud for Sky {
    const PROVIDER: &str = "aws";
    /// Each takes some seconds: moto is slow.
    const ROUNDS: u64 = 20;

    fn room(&self) -> &Room {
        &self.room
    }

    fn crabbox(&self, words: &[&str]) -> Call {
        self.crabbox(words)
    }

    fn foreign(&self) -> Vec<Value> {
        let keys = self.state()["keys"].as_array().unwrap().clone();
        let all = self.instances().into_iter().chain(keys);
        all.filter(|one| one["tags"]["crabbox"] != "true" || one["tags"]["Name"] == "their-box")
            .collect()
    }

    fn names(&self) -> Vec<String> {
        self.names()
    }
}

#[test]
fn killed_at_any_moment_a_lease_leaves_no_instance_and_no_key_and_nothing_of_others_is_touched() {
    let Some(sky) = Sky::new() else { return };
    // The second is another user's box, which is in use.
    sky.set(&json!({"foreign": [
        {"team": "other", "Name": "theirs"},
        {"Name": "their-box", "crabbox": "true", "lease": "cbx_ffffffffffff", "slug": "their-box", "expires_at": "4000000000"},
    ]}));
    assert_eq!(sky.foreign().len(), 4);
    survive(&sky);
}
