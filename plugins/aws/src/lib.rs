//! Instances of Amazon EC2, made for one lease and terminated with it.
//!
//! `create` says what is asked for where there is room, with what `site` finds in a region; `api` knows the service's
//! questions and errors; `instance` turns an instance into a machine of a lease. Keys are the host's business: they
//! never get here.

mod api;
mod catalog;
mod config;
mod create;
mod doctor;
mod instance;
mod site;
mod system;

use std::collections::BTreeMap;

use crabbox_plugin_sdk::cloud::{
    self, At, Classes, Cloud, Extra, Look, Machine, Market, Offers, Order, Page,
};
use crabbox_plugin_sdk::{
    BoxRequest, Call, CatalogParams, Check, ErrorKind, Failure, LeaseId, Offer, Plugin, Price,
    found, settings_with_defaults,
};

use api::{Api, Query};
use config::Settings;
use create::Region;
use instance::{Instances, ours};
use system::System;

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), |instance| {
        let schema = include_str!("../config.schema.json");
        let settings: Settings = settings_with_defaults(schema, instance)?;
        cloud::check_networks(&settings.ssh_cidrs)?;
        Ok(Aws { settings })
    })
}

crabbox_plugin_sdk::component!(plugin);

/// The provider.
struct Aws {
    settings: Settings,
}

impl Aws {
    fn api<'a>(&'a self, call: &'a Call, region: &'a str) -> Api<'a> {
        Api { call, endpoint: self.settings.endpoint_url.as_deref(), region }
    }

    fn at<'a>(&'a self, at: At<'a>) -> Api<'a> {
        self.api(at.call, at.place)
    }

    fn home<'a>(&'a self, call: &'a Call) -> Api<'a> {
        self.api(call, &self.settings.region)
    }
}

impl Cloud for Aws {
    const NAME: &'static str = "aws";
    const MACHINE: &'static str = "instance";
    const ELSEWHERE: &'static str = "more of capacity.regions";
    const CLASSES: Classes = config::CLASSES;
    const TARGETS: &'static [&'static str] = &["linux", "macos", "windows", "wsl2"];

    fn classes(request: &BoxRequest) -> Classes {
        System::of(request).classes()
    }

    fn places<'a>(&'a self, likely: &[&'a str]) -> Vec<&'a str> {
        self.settings.regions(likely)
    }

    fn machines_of(&self, at: At<'_>, id: &LeaseId) -> Result<Vec<Machine>, Failure> {
        self.at(at).instances_of(id)
    }

    fn page(&self, at: At<'_>, cursor: Option<&str>) -> Result<Page, Failure> {
        let (all, next) = self.at(at).page::<Instances>(ours(), cursor)?;
        Ok((all.into_iter().map(|one| one.machine(at.place)).collect(), next))
    }

    fn machine(&self, at: At<'_>, id: &str) -> Result<Option<(Machine, Option<u64>)>, Failure> {
        let found = self.at(at).instance(id)?;
        Ok(found.map(|(instance, now)| (instance.machine(at.place), now)))
    }

    fn label(
        &self,
        at: At<'_>,
        machine: &Machine,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        let query = Query::new("CreateTags").with("ResourceId.1", &machine.id);
        self.at(at).tell(&query.pairs("Tag", labels))
    }

    fn delete(&self, at: At<'_>, machines: &[Machine]) -> Result<(), Failure> {
        let ids = machines.iter().map(|one| &one.id);
        let query = Query::new("TerminateInstances").each("InstanceId", ids);
        found(self.at(at).tell(&query)).map(drop)
    }

    fn extras_of(&self, at: At<'_>, id: &LeaseId) -> Result<Vec<Extra>, Failure> {
        let found = self.at(at).key(&cloud::key_name(id))?;
        Ok(found.into_iter().filter(|key| cloud::is_of(&key.labels, id)).collect())
    }

    fn delete_extra(&self, at: At<'_>, key: &Extra) -> Result<(), Failure> {
        let (api, query) = (self.at(at), Query::new("DeleteKeyPair").with("KeyName", &key.name));
        match found(api.tell(&query)) {
            // What is gone has no tag any more by which deleting it may be allowed.
            Err(failure) if failure.kind() == ErrorKind::Permission => {
                api.key(&key.name)?.map_or(Ok(()), |_| Err(failure))
            }
            answer => answer.map(drop),
        }
    }

    fn tour<'a>(&'a self, order: &Order<'_>) -> Vec<&'a str> {
        let (settings, request) = (&self.settings, &order.params.request);
        let all = settings.regions(&[]);
        if settings.is_bound() || System::of(request) == System::Mac {
            return vec![&settings.region];
        }
        if all.len() < 2 || !settings.markets(request).contains(&Market::Spot) {
            return all;
        }
        let classes = Self::classes(request);
        let machines = classes.machines(request);
        site::likeliest_first(&self.home(order.call), all, &machines)
    }

    fn has(&self, at: At<'_>, machine: &str) -> Result<bool, Failure> {
        match catalog::offers(&self.at(at), &[machine]) {
            Err(failure) if failure.kind() == ErrorKind::Permission => Ok(true),
            found => Ok(!found?.is_empty()),
        }
    }

    /// A wrong image, subnet or security group, and a Mac without a host, are found before anything is made.
    fn look<'a>(&'a self, order: &'a Order<'a>, place: &'a str) -> Result<impl Look + 'a, Failure> {
        let (api, system) = (self.api(order.call, place), System::of(&order.params.request));
        self.settings.host(system)?;
        let image = site::image(&api, &self.settings, system)?;
        let network = site::network(&api, &self.settings)?;
        Ok(move || Region::prepare(api, &self.settings, order, image, &network))
    }

    fn others(&self, call: &Call, request: &BoxRequest) -> Result<Vec<String>, Failure> {
        catalog::others(&self.home(call), System::of(request))
    }

    fn sizes(&self, call: &Call, params: &CatalogParams) -> Result<Offers, Failure> {
        let region = params.region.as_deref().unwrap_or(&self.settings.region);
        catalog::sizes(&self.api(call, region), params.cursor.as_deref())
    }

    fn regions(&self, call: &Call) -> Result<Vec<Offer>, Failure> {
        catalog::regions(&self.home(call))
    }

    fn price(&self, call: &Call, request: &BoxRequest, machine: &str) -> Result<Price, Failure> {
        catalog::price(&self.home(call), request, machine)
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        doctor::checks(self, call)
    }
}
