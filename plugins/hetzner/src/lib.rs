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

use crabbox_plugin_sdk::cloud::{self, At, Classes, Cloud, Extra, Machine, Order, Page};
use crabbox_plugin_sdk::{
    AcquireParams, Call, CatalogParams, CatalogResult, Check, EvidenceParams, EvidenceResult,
    Failure, Instance, Lease, LeaseId, ListParams, ListResult, Plugin, QuoteParams, QuoteResult,
    ReleaseOutcome, ReleaseParams, ResolveParams, SshLease, TouchParams, settings,
};

use api::{Api, IMAGE};
use config::Settings;
use create::Project;
use server::Server;

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), |instance| Hetzner::open(&instance))
}

crabbox_plugin_sdk::component!(plugin);

/// The provider.
struct Hetzner {
    settings: Settings,
}

impl Hetzner {
    fn open(instance: &Instance) -> Result<Self, Failure> {
        let settings: Settings = settings(instance)?;
        settings.check()?;
        Ok(Self { settings })
    }

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

    /// A wrong image is found before anything is made.
    fn precheck(&self, order: &Order<'_>) -> Result<(), Failure> {
        let image = &self.settings.image;
        match self.api(order.call).has_image(image)? {
            true => Ok(()),
            false => {
                let what = format!("there is no image {image}");
                Err(Failure::invalid_config("/image", what).hint(IMAGE))
            }
        }
    }

    fn site<'a>(
        &'a self,
        order: &'a Order<'a>,
        _place: &'a str,
    ) -> Result<impl cloud::Site + 'a, Failure> {
        Project::prepare(self.api(order.call), &self.settings, order)
    }

    fn others(&self, order: &Order<'_>, tried: &[&str]) -> Result<Vec<String>, Failure> {
        catalog::others(&self.api(order.call), &self.settings, tried)
    }
}

impl SshLease for Hetzner {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn facts(&self) -> &'static [&'static str] {
        &["catalog.sizes", "catalog.regions", "pricing.quote", "evidence.collect"]
    }

    fn sizes(&self, call: &Call, params: CatalogParams) -> Result<CatalogResult, Failure> {
        catalog::sizes(&self.api(call), &self.settings, &params)
    }

    fn regions(&self, call: &Call, _params: CatalogParams) -> Result<CatalogResult, Failure> {
        catalog::regions(&self.api(call))
    }

    fn quote(&self, call: &Call, params: QuoteParams) -> Result<QuoteResult, Failure> {
        self.check(&params.request)?;
        catalog::quote(&self.api(call), &self.settings, &params)
    }

    fn evidence(&self, call: &Call, params: EvidenceParams) -> Result<EvidenceResult, Failure> {
        catalog::evidence(&self.api(call), &params)
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
        doctor::checks(&self.api(call), &self.settings)
    }
}
