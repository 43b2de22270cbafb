//! Virtual machines of Microsoft Azure, each made for one lease, with an address, an interface and a disk of its own, and
//! deleted with it.
//!
//! `create` says what is asked for where there is room, in the network that `site` sees to; `api` knows the resource
//! manager's ways and errors; `machine` turns what Azure shows into machines of leases. Secrets and tokens are the host's
//! business: they never get here.

mod api;
mod catalog;
mod config;
mod create;
mod doctor;
mod machine;
mod site;
mod system;

use std::collections::BTreeMap;

use crabbox_plugin_sdk::cloud::{
    At, Classes, Cloud, Extra, Look, Machine, Market, Offers, Order, Page,
};
use crabbox_plugin_sdk::{
    BoxRequest, Call, CatalogParams, Check, Failure, LeaseId, Offer, Plugin, Price,
};
use serde_json::json;

use api::{Api, Thing};
use catalog::Known;
use config::Settings;
use create::Location;
use machine::{ADDRESS, DISK, INTERFACE, MACHINE, PARTS, as_tags, group_of};
use system::System;

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), |instance| {
        let settings = Settings::read(instance)?;
        Ok(Azure { group: settings.group(), settings, known: Known::default() })
    })
}

crabbox_plugin_sdk::component!(plugin);

/// The provider.
struct Azure {
    settings: Settings,
    /// The id of the resource group that everything is made in.
    group: String,
    known: Known,
}

impl Azure {
    /// The resource manager, once it is known who asks and who pays.
    fn api<'a>(&'a self, call: &'a Call) -> Result<Api<'a>, Failure> {
        self.settings.complete()?;
        Ok(Api { call, settings: &self.settings })
    }

    /// The same, and the resource group that a place is: where a location is meant, our own.
    fn at<'a>(&'a self, at: At<'a>) -> Result<(Api<'a>, &'a str), Failure> {
        Ok((self.api(at.call)?, group_of(at.place).unwrap_or(&self.group)))
    }
}

/// Where things are found is a resource group, whatever their locations: settings may name another one than they did.
impl Cloud for Azure {
    const NAME: &'static str = "azure";
    const MACHINE: &'static str = MACHINE.2;
    const ELSEWHERE: &'static str = "more of capacity.regions";
    const CLASSES: Classes = system::LINUX;
    const TARGETS: &'static [&'static str] = &["linux", "windows"];

    fn classes(request: &BoxRequest) -> Classes {
        System::of(request).classes()
    }

    const GONE: &'static str = "; a spot machine is deleted when Azure needs its place";
    /// It says neither the address of a machine nor whether it runs.
    const LISTS_ALL: bool = false;

    fn places<'a>(&'a self, likely: &[&'a str]) -> Vec<&'a str> {
        let mut all: Vec<&str> = Vec::new();
        for group in likely.iter().filter_map(|place| group_of(place)).chain([&*self.group]) {
            if !all.iter().any(|known| known.eq_ignore_ascii_case(group)) {
                all.push(group);
            }
        }
        all
    }

    fn place_of<'a>(&self, id: &'a str) -> Option<&'a str> {
        group_of(id)
    }

    fn machines_of(&self, at: At<'_>, _id: &LeaseId) -> Result<Vec<Machine>, Failure> {
        let (api, group) = self.at(at)?;
        Ok(api.ours(group, MACHINE)?.into_iter().map(|one| one.machine(None)).collect())
    }

    /// Everything there is of each lease, also where only a part of it is left.
    fn page(&self, at: At<'_>, _cursor: Option<&str>) -> Result<Page, Failure> {
        let (api, group) = self.at(at)?;
        let addresses = api.ours(group, ADDRESS)?;
        let mut all = api.ours(group, MACHINE)?;
        for kind in [INTERFACE, DISK] {
            all.extend(api.ours(group, kind)?);
        }
        all.extend(addresses.iter().cloned());
        let address = |name: &str| addresses.iter().find(|one| one.name == ADDRESS.name(name));
        let machine = |one: Thing| {
            let address = address(&one.name);
            one.machine(address)
        };
        Ok((all.into_iter().map(machine).collect(), None))
    }

    fn machine(&self, at: At<'_>, id: &str) -> Result<Option<(Machine, Option<u64>)>, Failure> {
        self.api(at.call)?.machine(id)
    }

    fn label(
        &self,
        at: At<'_>,
        machine: &Machine,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        self.api(at.call)?.retag(&machine.id, &json!({"tags": as_tags(labels)}))
    }

    fn delete(&self, at: At<'_>, machines: &[Machine]) -> Result<(), Failure> {
        let api = self.api(at.call)?;
        machines.iter().try_for_each(|one| api.end(&one.id))
    }

    fn extras_of(&self, at: At<'_>, _id: &LeaseId) -> Result<Vec<Extra>, Failure> {
        let (api, group) = self.at(at)?;
        let mut all = Vec::new();
        for kind in PARTS {
            all.extend(api.ours(group, kind)?.into_iter().map(|one| kind.extra(one)));
        }
        Ok(all)
    }

    fn delete_extra(&self, at: At<'_>, extra: &Extra) -> Result<(), Failure> {
        self.api(at.call)?.delete(&extra.resource.cloud_id)
    }

    fn has(&self, at: At<'_>, machine: &str) -> Result<bool, Failure> {
        let sizes = self.known.at(&self.api(at.call)?, at.place);
        Ok(sizes.is_none_or(|all| all.iter().any(|size| size.is(machine))))
    }

    fn tour<'a>(&'a self, _order: &Order<'_>) -> Vec<&'a str> {
        self.settings.locations()
    }

    /// What others made is refused here, before anything is made.
    fn look<'a>(&'a self, order: &'a Order<'a>, place: &'a str) -> Result<impl Look + 'a, Failure> {
        let api = self.api(order.call)?;
        let seen = site::look(&api, place, System::of(&order.params.request))?;
        Ok(move || Location::prepare(self, api, order, seen))
    }

    fn others(&self, call: &Call, request: &BoxRequest) -> Result<Vec<String>, Failure> {
        Ok(catalog::others(&self.api(call)?, &self.known, System::of(request)))
    }

    fn sizes(&self, call: &Call, params: &CatalogParams) -> Result<Offers, Failure> {
        let location = params.region.as_deref().unwrap_or(&self.settings.location);
        Ok((catalog::sizes(&self.api(call)?, location)?, None))
    }

    fn regions(&self, call: &Call) -> Result<Vec<Offer>, Failure> {
        catalog::regions(&self.api(call)?)
    }

    fn price(&self, call: &Call, request: &BoxRequest, machine: &str) -> Result<Price, Failure> {
        let market = Market::order_of(request, &self.settings.fallback)[0];
        let api = Api { call, settings: &self.settings };
        catalog::price(&api, market, machine, System::of(request))
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        doctor::checks(&Api { call, settings: &self.settings })
    }
}
