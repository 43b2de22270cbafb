//! Instances of Amazon EC2, made for one lease and terminated with it.
//!
//! `create` walks through types, markets, zones and regions until one of them has room, with what `site` finds there;
//! `api` knows the service's questions and errors; `instance` turns an instance into a lease. Keys are the host's
//! business: they never get here.

mod api;
mod catalog;
mod config;
mod create;
mod doctor;
mod instance;
mod site;

use std::time::Duration;

use crabbox_plugin_sdk::{
    AcquireParams, Call, CatalogParams, CatalogResult, Check, EvidenceParams, EvidenceResult,
    Failure, Lease, LeaseId, ListParams, ListResult, Plugin, Purpose, QuoteParams, QuoteResult,
    ReleaseOutcome, ReleaseParams, ResolveParams, SshLease, TouchParams, Woken, settings,
    touched_labels,
};

use api::{Api, Query, found};
use config::Settings;
use create::Order;
use instance::{Instance, Instances, KeyPair, Reached, key_name, key_resource, ours};

/// Between two looks whether a terminated instance is on its way out, and how many there are: half a minute together.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: usize = 60;

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), |instance| {
        let settings: Settings = settings(&instance)?;
        settings.check()?;
        Ok(Aws { settings })
    })
}

/// The provider.
struct Aws {
    settings: Settings,
}

/// An instance, where it is, and what time it is there.
struct Found {
    instance: Instance,
    region: String,
    now: Option<u64>,
}

impl Aws {
    fn api<'a>(&'a self, call: &'a Call, region: &'a str) -> Api<'a> {
        Api { call, endpoint: self.settings.endpoint_url.as_deref(), region }
    }

    fn home<'a>(&'a self, call: &'a Call) -> Api<'a> {
        self.api(call, &self.settings.region)
    }

    /// Where something of a lease may be, the likeliest region first.
    fn regions<'a>(&'a self, likely: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let mut all: Vec<&str> = Vec::new();
        for region in likely.into_iter().chain(self.settings.regions()) {
            if !region.is_empty() && !all.contains(&region) {
                all.push(region);
            }
        }
        all
    }

    /// The instance a name means, among those that are ours.
    fn find(&self, call: &Call, params: &ResolveParams) -> Result<Option<Found>, Failure> {
        let lease = LeaseId::parse(&params.id).filter(LeaseId::is_canonical);
        for region in self.regions(likely(params)) {
            let api = self.api(call, region);
            let found = match &lease {
                Some(id) => api.instances_of(id)?.into_iter().next(),
                None => {
                    let mut all = api.all::<Instances>(ours)?.into_iter();
                    all.find(|one| one.answers_to(&params.id))
                }
            };
            if let Some(instance) = found {
                return Ok(Some(Found { instance, region: region.to_owned(), now: None }));
            }
        }
        let Some(id) = lease else { return Ok(None) };
        // A listing may lag behind; what was recorded is asked for by its id.
        let recorded = params.resources.iter().filter(|resource| resource.kind == "instance");
        for resource in recorded {
            let region = resource.region.as_ref().unwrap_or(&self.settings.region);
            let found = self.api(call, region).instance(&resource.cloud_id)?;
            if let Some((instance, now)) = found
                && instance.is_of(&id)
                && instance.is_there()
            {
                return Ok(Some(Found { instance, region: region.clone(), now }));
            }
        }
        Ok(None)
    }

    /// The key that was made for a lease, and where.
    fn key_of(
        &self,
        call: &Call,
        id: &LeaseId,
        regions: &[&str],
    ) -> Result<Option<(KeyPair, String)>, Failure> {
        for region in regions {
            let found = self.api(call, region).key(&key_name(id))?;
            if let Some(key) = found.filter(|key| key.is_of(id)) {
                return Ok(Some((key, (*region).to_owned())));
            }
        }
        Ok(None)
    }

    /// Removes everything that was made for a lease: its instances first, then its keys.
    fn remove(
        &self,
        call: &Call,
        id: &LeaseId,
        regions: &[&str],
    ) -> Result<ReleaseOutcome, Failure> {
        let mut outcome = ReleaseOutcome::AlreadyGone;
        for region in regions {
            let api = self.api(call, region);
            let all = api.instances_of(id)?;
            if !all.is_empty() {
                let ids = all.iter().map(|one| &one.instance_id);
                found(api.tell(&Query::new("TerminateInstances").each("InstanceId", ids)))?;
                if !is_gone(&api, id)? {
                    return Ok(ReleaseOutcome::Pending);
                }
                outcome = ReleaseOutcome::Released;
            }
            if drop_key(&api, id)? {
                outcome = ReleaseOutcome::Released;
            }
            // The journal may be about another lease by now; what is gone needs no entry either way.
            all.iter().for_each(|one| drop(call.forget(&one.resource(region))));
        }
        Ok(outcome)
    }

    /// An instance that must be the one of a lease; nothing when there is none.
    fn owned(&self, call: &Call, lease: &Lease, id: &LeaseId) -> Result<Option<Found>, Failure> {
        if !lease.cloud_id.starts_with("i-") {
            return Ok(None);
        }
        for region in self.regions(region_of(lease)) {
            let found = self.api(call, region).instance(&lease.cloud_id)?;
            let Some((instance, now)) = found else { continue };
            if !instance.is_of(id) {
                let what = format!("instance {} is not the one of {id}", lease.cloud_id);
                return Err(Failure::precondition(what));
            }
            return Ok(Some(Found { instance, region: region.to_owned(), now }));
        }
        Ok(None)
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
        catalog::quote(&self.home(call), &params)
    }

    fn evidence(&self, call: &Call, params: EvidenceParams) -> Result<EvidenceResult, Failure> {
        let lease = &params.lease;
        let found = self.owned(call, lease, &lease.lease_id)?;
        Ok(catalog::evidence(&lease.cloud_id, found.map(|found| found.instance)))
    }

    fn acquire(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        config::check_request(&params.request)?;
        let bootstrap = params.bootstrap.as_ref().ok_or_else(|| {
            Failure::unsupported("this crabbox does not say how an instance becomes a box")
                .hint("use a newer crabbox")
        })?;
        if call.dry_run() {
            return Ok(self.planned(&params));
        }
        Order { aws: self, call, params: &params, bootstrap }.fill()
    }

    fn resolve(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        let id = &params.id;
        let Some(Found { instance, region, .. }) = self.find(call, &params)? else {
            let over = matches!(params.purpose, Purpose::Reconcile | Purpose::Release);
            if let Some(id) = LeaseId::parse(id).filter(|id| over && id.is_canonical()) {
                let regions = self.regions(likely(&params));
                if let Some((key, region)) = self.key_of(call, &id, &regions)? {
                    return Ok(key.lease(&id, &region));
                }
            }
            return Err(Failure::not_found(format!("no instance {id}")));
        };
        if params.purpose == Purpose::Use && !instance.is_up() {
            let what = format!("instance {} of {id} is {}", instance.instance_id, instance.state());
            return Err(Failure::expired(what).hint("stop it, and take a new one"));
        }
        instance.lease(&Reached::Known(params.known.as_ref()), &region)
    }

    fn list(&self, call: &Call, params: ListParams) -> Result<ListResult, Failure> {
        let regions = self.settings.regions();
        let cursor = params.cursor.as_deref().unwrap_or_default();
        let (region, token) = cursor.split_once(' ').unwrap_or((regions[0], ""));
        let token = Some(token).filter(|token| !token.is_empty());
        let (all, next) = self.api(call, region).page::<Instances>(ours(), token)?;
        let leases = all.iter().filter_map(|one| one.lease(&Reached::Known(None), region).ok());
        let after = regions.iter().skip_while(|one| **one != region).nth(1);
        let next_cursor = match next {
            Some(token) => Some(format!("{region} {token}")),
            None => after.map(|region| format!("{region} ")),
        };
        Ok(ListResult { leases: leases.collect(), next_cursor, complete: true })
    }

    fn release(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let expected = &params.expected;
        let mut lease = params.lease.clone();
        lease.cloud_id = expected.cloud_id.clone().unwrap_or(lease.cloud_id);
        self.owned(call, &lease, &expected.lease_id)?;
        if call.dry_run() {
            return Ok(ReleaseOutcome::Retained);
        }
        self.remove(call, &expected.lease_id, &self.regions(region_of(&lease)))
    }

    fn touch(&self, call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        let known = &params.lease;
        let gone = || Failure::not_found(format!("no instance of {}", known.lease_id));
        let Found { instance, region, now } =
            self.owned(call, known, &known.lease_id)?.ok_or_else(gone)?;
        let labels = touched_labels(&instance.tags(), &params.state, now);
        let query = Query::new("CreateTags").with("ResourceId.1", &instance.instance_id);
        self.api(call, &region).tell(&query.pairs("Tag", &labels))?;
        let lease = instance.lease(&Reached::Known(Some(known)), &region)?;
        Ok(Lease { labels, ..lease })
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        doctor::checks(self, call)
    }
}

impl Aws {
    /// What an acquire would make.
    fn planned(&self, params: &AcquireParams) -> Lease {
        let desired = params.desired.clone();
        let machine = config::machines(&params.request).first().copied().unwrap_or_default();
        Lease {
            lease_id: desired.lease_id,
            slug: desired.slug,
            name: desired.name,
            cloud_id: "planned".to_owned(),
            status: "planned".to_owned(),
            server_type: machine.to_owned(),
            labels: instance::tags(params, &self.settings.region, None),
            work_root: None,
            ssh: None,
        }
    }
}

/// Regions that what is known of a lease names.
fn likely(params: &ResolveParams) -> impl Iterator<Item = &str> {
    let recorded = params.resources.iter().filter_map(|resource| resource.region.as_deref());
    params.known.iter().flat_map(region_of).chain(recorded)
}

fn region_of(lease: &Lease) -> Option<&str> {
    lease.labels.get("region").map(String::as_str)
}

/// Deletes a lease's key in a region, if it is there. One of the same name that is tagged for another is not it.
fn drop_key(api: &Api<'_>, id: &LeaseId) -> Result<bool, Failure> {
    let name = key_name(id);
    let known = id.is_canonical() && api.key(&name)?.is_some_and(|key| key.is_of(id));
    if known {
        found(api.tell(&Query::new("DeleteKeyPair").with("KeyName", &name)))?;
    }
    let _ = api.call.forget(&key_resource(&name, api.region));
    Ok(known)
}

/// Looks until nothing is there any more. Who is in a hurry does not wait for it, and nothing is proven then.
fn is_gone(api: &Api<'_>, id: &LeaseId) -> Result<bool, Failure> {
    for _ in 0..LOOKS {
        if api.instances_of(id)?.is_empty() {
            return Ok(true);
        }
        if api.call.sleep(LOOK)? == Woken::Cancel {
            break;
        }
    }
    Ok(false)
}

crabbox_plugin_sdk::component!(plugin);
