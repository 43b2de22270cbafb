//! Servers of Hetzner Cloud: leased by class, found by label, deleted with their key.
//!
//! Every request is made by the host, which puts the token in; this provider never sees it.

mod api;
mod catalog;
mod config;
mod create;
mod doctor;
mod server;

use std::collections::BTreeMap;

use crabbox_plugin_sdk::cloud::{
    self, At, Classes, Cloud, Extra, Look, Machine, Offers, Order, Page,
};
use crabbox_plugin_sdk::{
    BoxRequest, Call, CatalogParams, Check, Failure, LeaseId, Offer, Plugin, Price,
    settings_with_defaults,
};

use api::{Api, IMAGE, MachineType};
use config::Settings;
use create::Project;
use server::Server;

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), |instance| {
        let schema = include_str!("../config.schema.json");
        let settings: Settings = settings_with_defaults(schema, instance)?;
        settings.check()?;
        Ok(Hetzner { settings })
    })
}

crabbox_plugin_sdk::component!(plugin);

/// The provider.
struct Hetzner {
    settings: Settings,
}

impl Hetzner {
    fn api<'a>(&'a self, call: &'a Call) -> Api<'a> {
        Api { call, url: &self.settings.api_url }
    }
}

/// A project is one place: its servers are listed together wherever they stand.
impl Cloud for Hetzner {
    const NAME: &'static str = "hetzner";
    const MACHINE: &'static str = "server";
    const ELSEWHERE: &'static str = "another hetzner.location";
    const CLASSES: Classes = config::CLASSES;

    fn places<'a>(&'a self, _likely: &[&'a str]) -> Vec<&'a str> {
        vec![""]
    }

    fn machines_of(&self, at: At<'_>, id: &LeaseId) -> Result<Vec<Machine>, Failure> {
        let found = self.api(at.call).all("servers", &[("label_selector", &server::selector(id))]);
        Ok(found?.into_iter().map(Server::machine).collect())
    }

    fn page(&self, at: At<'_>, cursor: Option<&str>) -> Result<Page, Failure> {
        let page = cursor.unwrap_or("1").parse();
        let page = page.map_err(|_| Failure::invalid_request("no such page"))?;
        let ours = [("label_selector", server::OURS)];
        let (all, next) = self.api(at.call).page("servers", &ours, page)?;
        Ok((all.into_iter().map(Server::machine).collect(), next.map(|next| next.to_string())))
    }

    fn machine(&self, at: At<'_>, id: &str) -> Result<Option<(Machine, Option<u64>)>, Failure> {
        let Ok(number) = id.parse() else { return Ok(None) };
        let found = self.api(at.call).server(number)?;
        Ok(found.map(|(server, now)| (server.machine(), now)))
    }

    fn label(
        &self,
        at: At<'_>,
        machine: &Machine,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        self.api(at.call).label_server(&machine.id, labels)
    }

    fn delete(&self, at: At<'_>, machines: &[Machine]) -> Result<(), Failure> {
        let api = self.api(at.call);
        machines.iter().try_for_each(|one| api.delete(&format!("/servers/{}", one.id)))
    }

    fn extras_of(&self, at: At<'_>, id: &LeaseId) -> Result<Vec<Extra>, Failure> {
        let found = self.api(at.call).key(&cloud::key_name(id))?;
        Ok(found.into_iter().filter(|key| cloud::is_of(&key.labels, id)).collect())
    }

    fn delete_extra(&self, at: At<'_>, key: &Extra) -> Result<(), Failure> {
        let number = key.resource.cloud_id.trim_start_matches("ssh-key-");
        self.api(at.call).delete(&format!("/ssh_keys/{number}"))
    }

    fn has(&self, at: At<'_>, machine: &str) -> Result<bool, Failure> {
        let found: Vec<MachineType> =
            self.api(at.call).all("server_types", &[("name", machine)])?;
        Ok(found.iter().any(|one| one.name == machine))
    }

    /// A wrong image or location is found before anything is made.
    fn look<'a>(
        &'a self,
        order: &'a Order<'a>,
        _place: &'a str,
    ) -> Result<impl Look + 'a, Failure> {
        let (api, image) = (self.api(order.call), &self.settings.image);
        catalog::check_locations(&api, &self.settings)?;
        if !api.has_image(image)? {
            let what = format!("there is no image {image}");
            return Err(Failure::invalid_config("/image", what).hint(IMAGE));
        }
        Ok(move || Project::prepare(api, &self.settings, order))
    }

    fn others(&self, call: &Call, _: &BoxRequest) -> Result<Vec<String>, Failure> {
        catalog::others(&self.api(call), &self.settings)
    }

    fn sizes(&self, call: &Call, params: &CatalogParams) -> Result<Offers, Failure> {
        catalog::sizes(&self.api(call), &self.settings, params.region.as_deref())
    }

    fn regions(&self, call: &Call) -> Result<Vec<Offer>, Failure> {
        catalog::regions(&self.api(call))
    }

    fn price(&self, call: &Call, _request: &BoxRequest, machine: &str) -> Result<Price, Failure> {
        catalog::quote(&self.api(call), &self.settings, machine)
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        doctor::checks(&self.api(call), &self.settings)
    }
}
