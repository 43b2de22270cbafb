//! Instances of EC2, from moto on loopback whose instances are real SSH servers.

mod kills;
mod lease;
mod walk;

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;

use crabbox_tests::rights_on_page;
use crabbox_tests::{Call, Cloud, Room, binaries, binary, gone_without, plugin_folder};
use serde_json::Value;

/// A cloud, a room that is configured for it, and a checkout in it.
pub(crate) struct Sky(Cloud);

impl Deref for Sky {
    type Target = Cloud;

    fn deref(&self) -> &Cloud {
        &self.0
    }
}

/// The policy that the provider's page tells people to use.
fn policy() -> Value {
    rights_on_page("aws", "Statement")
}

/// The vendors' clients, unless somebody went without them.
pub(crate) fn python() -> Option<PathBuf> {
    if gone_without("CRABBOX_TEST_MOTO", "moto") {
        return None;
    }
    let python = binaries().join("../clients/bin/python");
    assert!(python.is_file(), "{} is missing: ./test.sh installs it", python.display());
    Some(python)
}

impl Sky {
    /// A cloud whose user has the rights of the page; none where nobody has moto.
    pub(crate) fn new() -> Option<Self> {
        Self::with(&policy())
    }

    pub(crate) fn with(policy: &Value) -> Option<Self> {
        let python = python()?;
        let room = Room::new();
        let (cloud, file) = (room.at("cloud"), room.at("policy.json"));
        fs::write(&file, policy.to_string()).unwrap();
        let script = plugin_folder("aws").join("fake/server.py");
        let args = [script, cloud, file, binary("fake-machine")];
        let sky = Self(Cloud::start(room, &python, args));
        sky.configure("");
        Some(sky)
    }

    /// Id and text of a key: that of crabbox, `keys`, or that of somebody who may do everything, `admin`.
    pub(crate) fn key(&self, whose: &str) -> [&str; 2] {
        [0, 1].map(|part| self.told[whose][part].as_str().unwrap())
    }

    /// Configures crabbox for this cloud.
    pub(crate) fn configure(&self, more: &str) {
        let block = format!("  endpointUrl: {0}\n  addressUrl: {0}/address\n{more}", self.url);
        self.0.configure("aws", &block);
    }

    pub(crate) fn crabbox(&self, words: &[&str]) -> Call {
        let [id, key] = self.key("keys");
        let call = self.room.crabbox(&self.repo, words);
        call.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", key)
    }

    /// The instances that are not on their way out.
    pub(crate) fn instances(&self) -> Vec<Value> {
        let all = self.state()["instances"].as_array().unwrap().clone();
        let over = |one: &Value| ["shutting-down", "terminated"].iter().any(|s| one["state"] == *s);
        all.into_iter().filter(|one| !over(one)).collect()
    }

    /// Names of instances and keys.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut all: Vec<_> =
            self.instances().iter().map(|one| name(&one["tags"]["Name"])).collect();
        let keys = self.state()["keys"].as_array().unwrap().clone();
        all.extend(keys.iter().map(|key| name(&key["name"])));
        all
    }
}
