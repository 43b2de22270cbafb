//! What is asked for in a project, and the requests that make a key and a server.

use crabbox_plugin_sdk::Failure;
use crabbox_plugin_sdk::cloud::{Candidate, Extra, Machine, Order, Site};
use serde_json::json;

use crate::api::Api;
use crate::config::{CLASSES, Settings};

/// A project with the key of an order.
pub(crate) struct Project<'a> {
    api: Api<'a>,
    settings: &'a Settings,
    order: &'a Order<'a>,
    key: Extra,
}

impl<'a> Project<'a> {
    pub(crate) fn prepare(
        api: Api<'a>,
        settings: &'a Settings,
        order: &'a Order<'a>,
    ) -> Result<Self, Failure> {
        let add = |name: &str| {
            let key = &order.params.ssh_public_key;
            api.create_key(&json!({"name": name, "public_key": key, "labels": order.labels([])}))
        };
        let key = order.key(|name| api.key(name), add)?;
        Ok(Self { api, settings, order, key })
    }
}

impl Site for Project<'_> {
    fn candidates(&self) -> Vec<Candidate> {
        let machines = CLASSES.machines(&self.order.params.request);
        Candidate::all(&[None], &machines, &self.settings.locations())
    }

    /// Makes one server. A name exists once in a project.
    fn make(&self, candidate: &Candidate) -> Result<Machine, Failure> {
        let (settings, order) = (self.settings, self.order);
        let keys = [&self.key.name].into_iter().chain(&settings.ssh_key);
        let body = json!({
            "name": order.params.desired.name,
            "server_type": candidate.machine,
            "image": settings.image,
            "location": candidate.place,
            "labels": order.labels([("server_type", candidate.machine.as_str())]),
            "ssh_keys": keys.collect::<Vec<_>>(),
            "user_data": order.bootstrap.user_data,
            "start_after_create": true,
            "public_net": {"enable_ipv4": settings.ipv4, "enable_ipv6": settings.ipv6},
        });
        Ok(self.api.create_server(&body)?.machine())
    }
}
