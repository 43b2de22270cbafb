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

use crabbox_plugin_sdk::cloud::{self, At, Classes, Cloud, Extra, Machine, Order, Page};
use crabbox_plugin_sdk::{
    AcquireParams, BoxRequest, Call, CatalogParams, CatalogResult, Check, EvidenceParams,
    EvidenceResult, Failure, Lease, LeaseId, ListParams, ListResult, Plugin, QuoteParams,
    QuoteResult, ReleaseOutcome, ReleaseParams, ResolveParams, SshLease, TouchParams, found,
    settings,
};

use api::{Api, Query};
use config::{Market, Settings};
use create::Region;
use instance::{Instances, ours};
use system::System;

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), |instance| {
        let settings: Settings = settings(&instance)?;
        settings.check()?;
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
    const TARGETS: &'static [&'static str] = &["linux", "macos", "windows"];

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
        let query = Query::new("DeleteKeyPair").with("KeyName", &key.name);
        found(self.at(at).tell(&query)).map(drop)
    }

    /// A wrong image, and a Mac without a host, are found before anything is made.
    fn precheck(&self, order: &Order<'_>) -> Result<(), Failure> {
        let system = System::of(&order.params.request);
        self.settings.host(system)?;
        site::image(&self.home(order.call), &self.settings, system).map(drop)
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

    fn site<'a>(
        &'a self,
        order: &'a Order<'a>,
        place: &'a str,
    ) -> Result<impl cloud::Site + 'a, Failure> {
        Region::prepare(self.api(order.call, place), &self.settings, order)
    }

    fn others(&self, order: &Order<'_>, tried: &[&str]) -> Result<Vec<String>, Failure> {
        let system = System::of(&order.params.request);
        catalog::others(&self.home(order.call), system, tried)
    }
}

impl SshLease for Aws {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn facts(&self) -> &'static [&'static str] {
        &["catalog.sizes", "catalog.regions", "pricing.quote", "evidence.collect"]
    }

    fn sizes(&self, call: &Call, params: CatalogParams) -> Result<CatalogResult, Failure> {
        let region = params.region.as_deref().unwrap_or(&self.settings.region);
        catalog::sizes(&self.api(call, region), params.cursor.as_deref())
    }

    fn regions(&self, call: &Call, _params: CatalogParams) -> Result<CatalogResult, Failure> {
        catalog::regions(&self.home(call))
    }

    fn quote(&self, call: &Call, params: QuoteParams) -> Result<QuoteResult, Failure> {
        self.check(&params.request)?;
        catalog::quote(&self.home(call), &params)
    }

    fn evidence(&self, call: &Call, params: EvidenceParams) -> Result<EvidenceResult, Failure> {
        let lease = &params.lease;
        let region = lease.labels.get("region").map(String::as_str);
        for place in self.places(region.as_slice()) {
            let found = self.api(call, place).instance(&lease.cloud_id)?;
            if let Some((instance, _)) = found
                && cloud::is_of(&instance.tags(), &lease.lease_id)
            {
                return Ok(catalog::evidence(&instance));
            }
        }
        let message = format!("instance {} does not exist any more", lease.cloud_id);
        Ok(EvidenceResult { cause: "gone".to_owned(), message })
    }

    fn acquire(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        cloud::acquire(self, call, params)
    }

    fn resolve(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        cloud::resolve(self, call, params)
    }

    fn list(&self, call: &Call, params: ListParams) -> Result<ListResult, Failure> {
        cloud::list(self, call, params)
    }

    fn release(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        cloud::release(self, call, params)
    }

    fn touch(&self, call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        cloud::touch(self, call, params)
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        doctor::checks(self, call)
    }
}
