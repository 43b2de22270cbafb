//! Servers of Hetzner Cloud: leased by class, found by label, deleted with their key.
//!
//! Every request is made by the host, which puts the token in; this provider never sees it.

mod api;
mod catalog;
mod config;
mod create;
mod doctor;
mod server;

use std::time::Duration;

use crabbox_plugin_sdk::{
    AcquireParams, Call, CatalogParams, CatalogResult, Check, EvidenceParams, EvidenceResult,
    Failure, Instance, Lease, LeaseId, ListParams, ListResult, Plugin, Purpose, QuoteParams,
    QuoteResult, ReleaseOutcome, ReleaseParams, ResolveParams, SshLease, TouchParams, Woken,
    settings, touched_labels,
};
use serde_json::json;

use api::{Api, Server, SshKey};
use config::Settings;
use create::Order;
use server::{Reached, is_of, key_name, key_resource, only_key, selector, server_resource};

/// Between two looks whether a deleted server is gone, and how many there are: half a minute together.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: usize = 60;

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), |instance| Hetzner::open(&instance))
}

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

    /// The server a name means, among those that are ours.
    fn find(&self, call: &Call, params: &ResolveParams) -> Result<Option<Server>, Failure> {
        let api = self.api(call);
        let Some(id) = LeaseId::parse(&params.id).filter(LeaseId::is_canonical) else {
            return Ok(create::ours(&api)?.into_iter().find(|one| one.answers_to(&params.id)));
        };
        let found: Vec<Server> = api.all("servers", &[("label_selector", &selector(&id))])?;
        if let Some(found) = found.into_iter().find(|server| is_of(&server.labels, &id)) {
            return Ok(Some(found));
        }
        // A listing may lag behind; what was recorded is asked for by its number.
        let recorded =
            params.resources.iter().filter_map(|resource| resource.cloud_id.parse().ok());
        for number in recorded {
            if let Some((found, _)) = api.server(number)?
                && is_of(&found.labels, &id)
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
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
        catalog::quote(&self.api(call), &self.settings, &params)
    }

    fn evidence(&self, call: &Call, params: EvidenceParams) -> Result<EvidenceResult, Failure> {
        catalog::evidence(&self.api(call), &params)
    }

    fn acquire(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        config::check_request(&params.request)?;
        let bootstrap = params.bootstrap.as_ref().ok_or_else(|| {
            Failure::unsupported("this crabbox does not say how a server becomes a box")
                .hint("use a newer crabbox")
        })?;
        if call.dry_run() {
            return Ok(planned(&params));
        }
        Order { api: self.api(call), settings: &self.settings, params: &params, bootstrap }.fill()
    }

    fn resolve(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        let id = &params.id;
        let Some(found) = self.find(call, &params)? else {
            let over = matches!(params.purpose, Purpose::Reconcile | Purpose::Release);
            if let Some(id) = LeaseId::parse(id).filter(|_| over)
                && let Some(key) = key_of(&self.api(call), &id)?
            {
                return Ok(only_key(&key, &id));
            }
            return Err(Failure::not_found(format!("no server {id}")));
        };
        if params.purpose == Purpose::Use && !found.is_alive() {
            let what = format!("server {} of {id} is {}", found.id, found.status);
            return Err(Failure::expired(what)
                .hint("stop it, and take a new one: it costs money as long as it is there"));
        }
        found.lease(&Reached::Known(params.known.as_ref()))
    }

    fn list(&self, call: &Call, params: ListParams) -> Result<ListResult, Failure> {
        let page = params.cursor.as_deref().unwrap_or("1").parse();
        let page = page.map_err(|_| Failure::invalid_request("no such page"))?;
        let page =
            self.api(call).page::<Server>("servers", &[("label_selector", server::OURS)], page)?;
        let leases = page.items.iter().filter_map(|one| one.lease(&Reached::Known(None)).ok());
        let next_cursor = page.next.map(|next| next.to_string());
        Ok(ListResult { leases: leases.collect(), next_cursor, complete: true })
    }

    fn release(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let (api, expected) = (self.api(call), &params.expected);
        let number = expected.cloud_id.as_ref().unwrap_or(&params.lease.cloud_id).parse();
        if let Ok(number) = number
            && let Some((found, _)) = api.server(number)?
            && !is_of(&found.labels, &expected.lease_id)
        {
            let what = format!("server {number} is not the one of {}", expected.lease_id);
            return Err(Failure::precondition(what));
        }
        if call.dry_run() {
            return Ok(ReleaseOutcome::Retained);
        }
        Ok(match remove(&api, &expected.lease_id)? {
            Removed::Nothing => ReleaseOutcome::AlreadyGone,
            Removed::All => ReleaseOutcome::Released,
            Removed::NotYet => ReleaseOutcome::Pending,
        })
    }

    fn touch(&self, call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        let (api, known) = (self.api(call), &params.lease);
        let gone = || Failure::not_found(format!("no server of {}", known.lease_id));
        let number = known.cloud_id.parse().map_err(|_| gone())?;
        let (found, now) = api.server(number)?.ok_or_else(gone)?;
        if !is_of(&found.labels, &known.lease_id) {
            let what = format!("server {number} is not the one of {}", known.lease_id);
            return Err(Failure::precondition(what));
        }
        let labels = touched_labels(&found.labels, &params.state, now);
        api.label_server(number, &json!(labels))?.lease(&Reached::Known(Some(known)))
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        doctor::checks(&self.api(call), &self.settings)
    }
}

/// What an acquire would make.
fn planned(params: &AcquireParams) -> Lease {
    let desired = params.desired.clone();
    let machine = config::machines(&params.request).first().copied().unwrap_or_default();
    Lease {
        lease_id: desired.lease_id,
        slug: desired.slug,
        name: desired.name,
        cloud_id: "planned".to_owned(),
        status: "planned".to_owned(),
        server_type: machine.to_owned(),
        labels: server::labels(params, Some(machine)),
        work_root: None,
        ssh: None,
    }
}

/// The key that was made for a lease. One of the same name that is labelled for another is not it.
fn key_of(api: &Api<'_>, id: &LeaseId) -> Result<Option<SshKey>, Failure> {
    if !id.is_canonical() {
        return Ok(None);
    }
    let name = key_name(id);
    let found: Vec<SshKey> = api.all("ssh_keys", &[("name", &name)])?;
    Ok(found.into_iter().find(|key| key.name == name && is_of(&key.labels, id)))
}

/// How far a removal came.
enum Removed {
    Nothing,
    All,
    NotYet,
}

impl Removed {
    fn is_done(&self) -> bool {
        !matches!(self, Self::NotYet)
    }
}

/// Removes everything that was made for a lease: servers first, then, once they are gone, its key.
fn remove(api: &Api<'_>, id: &LeaseId) -> Result<Removed, Failure> {
    let selector = selector(id);
    let servers = || api.all::<Server>("servers", &[("label_selector", &selector)]);
    let ours =
        |all: Vec<Server>| all.into_iter().filter(|one| is_of(&one.labels, id)).collect::<Vec<_>>();
    let found = ours(servers()?);
    for server in &found {
        api.delete(&format!("/servers/{}", server.id))?;
    }
    if !found.is_empty() && !is_gone(api, || Ok(ours(servers()?).is_empty()))? {
        return Ok(Removed::NotYet);
    }
    let key = key_of(api, id)?;
    if let Some(key) = &key {
        api.delete(&format!("/ssh_keys/{}", key.id))?;
    }
    // The journal may be about another lease by now; what is gone needs no entry either way.
    found.iter().for_each(|server| drop(api.call.forget(&server_resource(server))));
    key.iter().for_each(|key| drop(api.call.forget(&key_resource(key))));
    Ok(if found.is_empty() && key.is_none() { Removed::Nothing } else { Removed::All })
}

/// Looks until nothing is there any more. Who is in a hurry does not wait for it, and nothing is proven then.
fn is_gone(api: &Api<'_>, gone: impl Fn() -> Result<bool, Failure>) -> Result<bool, Failure> {
    for _ in 0..LOOKS {
        if gone()? {
            return Ok(true);
        }
        if api.call.sleep(LOOK)? == Woken::Cancel {
            break;
        }
    }
    Ok(false)
}

crabbox_plugin_sdk::component!(plugin);
