//! Machines of Azure, from a cloud on loopback whose machines are real SSH servers.

mod client;
mod kills;
mod lease;
mod walk;

use std::fs;
use std::ops::Deref;

use crabbox_tests::{Call, Cloud, Room, binary, plugin_folder, rights_on_page};
use serde_json::Value;

/// What must appear nowhere.
pub(crate) const SECRET: &str = "s3cret-c4n4ry-5b2e";

/// A cloud, a room that is configured for it, and a checkout in it.
pub(crate) struct Sky(Cloud);

impl Deref for Sky {
    type Target = Cloud;

    fn deref(&self) -> &Cloud {
        &self.0
    }
}

/// The role that the provider's page tells people to make.
pub(crate) fn role() -> Value {
    rights_on_page("azure", "Actions")
}

impl Sky {
    /// A cloud whose client has the rights of the page.
    pub(crate) fn new() -> Self {
        Self::with(&role())
    }

    pub(crate) fn with(role: &Value) -> Self {
        let room = Room::new();
        let (cloud, file) = (room.at("cloud"), room.at("role.json"));
        fs::write(&file, role.to_string()).unwrap();
        let script = plugin_folder("azure").join("fake/server.py");
        let args = [script, cloud, file, binary("fake-machine"), SECRET.into()];
        let sky = Self(Cloud::start(room, "python3".as_ref(), args));
        sky.configure("");
        sky
    }

    /// Subscription, tenant and client.
    pub(crate) fn ids(&self) -> [&str; 3] {
        ["subscription", "tenant", "client"].map(|name| self.told[name].as_str().unwrap())
    }

    /// Configures crabbox for this cloud.
    pub(crate) fn configure(&self, more: &str) {
        let [subscription, tenant, client] = self.ids();
        let block = format!(
            "  armUrl: {0}\n  loginUrl: {0}\n  addressUrl: {0}/address\n  pricesUrl: {0}/prices\n  \
             subscriptionId: {subscription}\n  tenantId: {tenant}\n  clientId: {client}\n{more}",
            self.url
        );
        self.0.configure("azure", &block);
    }

    pub(crate) fn crabbox(&self, words: &[&str]) -> Call {
        self.room.crabbox(&self.repo, words).env("AZURE_CLIENT_SECRET", SECRET)
    }

    /// Things of a kind.
    pub(crate) fn all(&self, kind: &str) -> Vec<Value> {
        let state = self.state();
        let all = state["things"].as_array().unwrap();
        all.iter().filter(|one| one["kind"] == kind).cloned().collect()
    }

    /// Names of everything that is there for one lease alone.
    pub(crate) fn names(&self) -> Vec<String> {
        let kinds = ["virtualMachines", "networkInterfaces", "publicIPAddresses", "disks"];
        let all = kinds.into_iter().flat_map(|kind| self.all(kind));
        all.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }
}
