//! Virtual machines of Microsoft Azure, each made for one lease, with an address, an interface and a disk of its own, and
//! deleted with it.
//!
//! `create` walks through sizes, markets and locations until one of them has room, in the network that `site` sees to;
//! `api` knows the resource manager's ways and errors; `machine` turns machines into leases and removes what belongs to
//! one. Secrets and tokens are the host's business: they never get here.

mod api;
mod catalog;
mod config;
mod create;
mod doctor;
mod machine;
mod site;

use std::collections::BTreeSet;

use crabbox_plugin_sdk::cloud::Reached;
use crabbox_plugin_sdk::{
    AcquireParams, Call, CatalogParams, CatalogResult, Check, EvidenceParams, EvidenceResult,
    Failure, Lease, LeaseId, ListParams, ListResult, Plugin, Purpose, QuoteParams, QuoteResult,
    ReleaseOutcome, ReleaseParams, ResolveParams, SshLease, TouchParams, touched_labels,
};
use serde_json::json;

use api::{Api, Thing, name_of};
use config::Settings;
use create::Order;
use machine::{Kind, as_tags, group_of, labels, tags};

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), |instance| {
        Ok(Azure { settings: Settings::read(&instance)? })
    })
}

/// The provider.
struct Azure {
    settings: Settings,
}

impl Azure {
    /// The resource manager, once it is known who asks and who pays.
    fn api<'a>(&'a self, call: &'a Call) -> Result<Api<'a>, Failure> {
        self.settings.complete()?;
        Ok(Api { call, settings: &self.settings })
    }

    /// Resource groups in which something of a lease may be, the likeliest first: settings may have changed since.
    fn groups<'a>(&self, likely: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let likely = likely.into_iter().filter_map(group_of).map(str::to_owned);
        for group in likely.chain([self.settings.group()]) {
            if !all.iter().any(|known| known.eq_ignore_ascii_case(&group)) {
                all.push(group);
            }
        }
        all
    }

    /// The machine a name means, among those that are ours.
    fn find(&self, api: &Api<'_>, params: &ResolveParams) -> Result<Option<Thing>, Failure> {
        for group in self.groups(likely(params)) {
            let all = api.ours(&group, Kind::Machine)?;
            if let Some(one) = all.into_iter().find(|one| one.answers_to(&params.id)) {
                return Ok(Some(one));
            }
        }
        Ok(None)
    }

    /// What is left of a lease without a machine: enough to give that back.
    fn leftover(
        &self,
        api: &Api<'_>,
        id: &LeaseId,
        params: &ResolveParams,
    ) -> Result<Option<Lease>, Failure> {
        for group in self.groups(likely(params)) {
            if let Some((_, one)) = api.left(&group, id)?.into_iter().next() {
                let lease = one.lease(&Reached::Known(params.known.as_ref()), None);
                return Ok(lease.map(|lease| Lease { status: "failed".to_owned(), ..lease }));
            }
        }
        Ok(None)
    }

    /// A machine that must be the one of a lease, and the time there; nothing when it does not exist.
    fn owned(
        &self,
        api: &Api<'_>,
        cloud_id: &str,
        id: &LeaseId,
        more: &str,
    ) -> Result<Option<(Thing, Option<u64>)>, Failure> {
        if group_of(cloud_id).is_none() {
            return Ok(None);
        }
        match api.get::<Thing>(&format!("{cloud_id}{more}"))? {
            Some((thing, _)) if !thing.is_of(id) => {
                let what = format!("{} is not the machine of {id}", name_of(cloud_id));
                Err(Failure::precondition(what))
            }
            found => Ok(found),
        }
    }

    /// What an acquire would make.
    fn planned(&self, params: &AcquireParams) -> Lease {
        let desired = params.desired.clone();
        let machine = config::machines(&params.request).first().copied();
        Lease {
            lease_id: desired.lease_id,
            slug: desired.slug,
            name: desired.name,
            cloud_id: "planned".to_owned(),
            status: "planned".to_owned(),
            server_type: machine.unwrap_or_default().to_owned(),
            labels: labels(&tags(params, machine, None)),
            work_root: None,
            ssh: None,
        }
    }
}

impl SshLease for Azure {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn facts(&self) -> &'static [&'static str] {
        &["catalog.sizes", "catalog.regions", "pricing.quote", "evidence.collect"]
    }

    fn sizes(&self, call: &Call, params: CatalogParams) -> Result<CatalogResult, Failure> {
        let location = params.region.as_deref().unwrap_or(&self.settings.location);
        catalog::sizes(&self.api(call)?, location)
    }

    fn regions(&self, call: &Call, _params: CatalogParams) -> Result<CatalogResult, Failure> {
        catalog::regions(&self.api(call)?)
    }

    fn quote(&self, call: &Call, params: QuoteParams) -> Result<QuoteResult, Failure> {
        catalog::quote(&Api { call, settings: &self.settings }, &params)
    }

    fn evidence(&self, call: &Call, params: EvidenceParams) -> Result<EvidenceResult, Failure> {
        let (api, lease) = (self.api(call)?, &params.lease);
        let view = "?$expand=instanceView";
        let found = self.owned(&api, &lease.cloud_id, &lease.lease_id, view)?;
        Ok(catalog::evidence(&lease.cloud_id, found.map(|(found, _)| found)))
    }

    fn acquire(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        config::check_request(&params.request)?;
        let bootstrap = params.bootstrap.as_ref().ok_or_else(|| {
            Failure::unsupported("this crabbox does not say how a machine becomes a box")
                .hint("use a newer crabbox")
        })?;
        if call.dry_run() {
            return Ok(self.planned(&params));
        }
        Order { api: self.api(call)?, params: &params, bootstrap }.fill()
    }

    fn resolve(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        let (api, id) = (self.api(call)?, &params.id);
        let gone = || Failure::not_found(format!("no machine {id}"));
        let Some(mut machine) = self.find(&api, &params)? else {
            let over = matches!(params.purpose, Purpose::Reconcile | Purpose::Release);
            let id = LeaseId::parse(id).filter(|id| over && id.is_canonical());
            let left = id.map(|id| self.leftover(&api, &id, &params)).transpose()?.flatten();
            return left.ok_or_else(gone);
        };
        if params.purpose == Purpose::Use {
            // A listing does not say whether a machine runs.
            let view = api.get::<Thing>(&format!("{}?$expand=instanceView", machine.id))?;
            machine = view.ok_or_else(gone)?.0;
            if !machine.is_up() {
                let state = machine.power().unwrap_or(machine.provisioning());
                let what = format!("machine {} of {id} is {state}", machine.name);
                return Err(Failure::expired(what)
                    .hint("stop it, and take a new one: it costs money as long as it is there"));
            }
        }
        let host = api.address_of(&machine)?;
        machine.lease(&Reached::Known(params.known.as_ref()), Some(&host)).ok_or_else(gone)
    }

    /// Everything there is of each lease, also where only a part of it is left.
    fn list(&self, call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        let (api, group) = (self.api(call)?, self.settings.group());
        let addresses = api.ours(&group, Kind::Address)?;
        let (mut leases, mut seen) = (Vec::new(), BTreeSet::new());
        for kind in Kind::ALL {
            let all = match kind {
                Kind::Address => addresses.clone(),
                kind => api.ours(&group, kind)?,
            };
            for one in all {
                let address = addresses.iter().find(|a| a.name == format!("{}-pip", one.name));
                let Some(lease) = one.lease(&Reached::Known(None), address.map(Thing::host)) else {
                    continue;
                };
                if seen.insert(lease.lease_id.clone()) {
                    leases.push(lease);
                }
            }
        }
        Ok(ListResult { leases, next_cursor: None, complete: true })
    }

    fn release(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let (api, expected) = (self.api(call)?, &params.expected);
        let cloud_id = expected.cloud_id.as_ref().unwrap_or(&params.lease.cloud_id);
        self.owned(&api, cloud_id, &expected.lease_id, "")?;
        if call.dry_run() {
            return Ok(ReleaseOutcome::Retained);
        }
        let mut outcome = ReleaseOutcome::AlreadyGone;
        for group in self.groups([cloud_id.as_str()]) {
            match api.remove(&group, &expected.lease_id)? {
                ReleaseOutcome::AlreadyGone => {}
                ReleaseOutcome::Pending => return Ok(ReleaseOutcome::Pending),
                other => outcome = other,
            }
        }
        Ok(outcome)
    }

    fn touch(&self, call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        let (api, known) = (self.api(call)?, &params.lease);
        let gone = || Failure::not_found(format!("no machine of {}", known.lease_id));
        let found = self.owned(&api, &known.cloud_id, &known.lease_id, "")?;
        let (mut machine, now) = found.ok_or_else(gone)?;
        let touched = touched_labels(&labels(&machine.tags), &params.state, now);
        machine.tags = as_tags(&touched);
        api.retag(&machine.id, &json!({"tags": machine.tags}))?;
        let host = known.ssh.as_ref().map(|ssh| ssh.host.as_str());
        machine.lease(&Reached::Known(Some(known)), host).ok_or_else(gone)
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        doctor::checks(&Api { call, settings: &self.settings })
    }
}

/// Ids that are known of a lease.
fn likely(params: &ResolveParams) -> impl Iterator<Item = &str> {
    let recorded = params.resources.iter().map(|resource| resource.cloud_id.as_str());
    params.known.iter().map(|known| known.cloud_id.as_str()).chain(recorded)
}

crabbox_plugin_sdk::component!(plugin);
