//! Sandboxes of Daytona: made, listed and removed through its API, and commands run in them by their toolboxes.
//!
//! Every request is made by the host, which puts the key in; this provider never sees it.

mod access;
mod api;
mod config;
mod create;
mod doctor;
mod frames;
mod run;
mod sandbox;
mod toolbox;

use crabbox_plugin_sdk::{
    AccessParams, AccessResult, AcquireParams, Call, Check, DelegatedRun, ErrorKind, Failure,
    Lease, ListParams, ListResult, Output, Plugin, Purpose, ReleaseOutcome, ReleaseParams,
    ResolveParams, RunStartParams, RunStartResult, TouchParams,
};

use api::Api;
use config::Config;
use sandbox::{Sandbox, foreign, name_of, resource_of};

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::delegated_run(include_str!("../crabbox-plugin.toml"), |instance| {
        Config::read(&instance).map(Daytona)
    })
}

crabbox_plugin_sdk::component!(plugin);

/// The provider.
struct Daytona(Config);

impl DelegatedRun for Daytona {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn warmup(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        self.0.check(&params)?;
        let name = name_of(&params.desired)?;
        let sandbox = match call.dry_run() {
            true => Sandbox {
                id: "planned".to_owned(),
                name,
                labels: config::labels(&params),
                ..Sandbox::default()
            },
            false => self.api(call).make(&params, &name)?,
        };
        self.lease(&sandbox)
    }

    fn run(
        &self,
        call: &Call,
        params: RunStartParams,
        output: &Output<'_>,
    ) -> Result<RunStartResult, Failure> {
        let (api, id) = (self.api(call), &params.lease.lease_id);
        let name = &params.lease.cloud_id;
        let found = api.own(name, id)?;
        let found = found.ok_or_else(|| Failure::expired(format!("sandbox {name} is gone")))?;
        run::run(api, &api.wake(found, id)?, &params, output)
    }

    fn list(&self, call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        let (ours, complete) = self.api(call).sandboxes()?;
        let leases = ours.iter().filter_map(|one| one.lease(self.0.work_root())).collect();
        Ok(ListResult { leases, next_cursor: None, complete })
    }

    fn status(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        let api = self.api(call);
        let known = params.known.as_ref().map(|known| known.cloud_id.clone());
        let noted = params.resources.iter().map(|resource| resource.cloud_id.clone());
        for name in known.into_iter().chain(noted).filter(|name| !name.is_empty()) {
            if let Some(lease) = api.sandbox(&name)?.and_then(|one| one.lease(self.0.work_root())) {
                return Ok(lease);
            }
        }
        let absent = || Failure::not_found(format!("Daytona has no sandbox {}", params.id));
        if params.known.is_some() && params.purpose != Purpose::Reconcile {
            return Err(absent());
        }
        self.searched(api, &params.id)?.ok_or_else(absent)
    }

    fn stop(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let (api, lease, expected) = (self.api(call), &params.lease, &params.expected);
        let name = expected.cloud_id.as_deref().unwrap_or(&lease.cloud_id);
        if lease.lease_id != expected.lease_id || name.is_empty() {
            return Err(foreign(name, &expected.lease_id));
        }
        let outcome = match call.dry_run() && api.own(name, &expected.lease_id)?.is_some() {
            true => return Ok(ReleaseOutcome::Retained),
            false => api.delete(name, &expected.lease_id)?,
        };
        if matches!(outcome, ReleaseOutcome::Released | ReleaseOutcome::AlreadyGone) {
            api.forget(&resource_of(lease).cloud_id);
        }
        Ok(outcome)
    }

    fn facts(&self) -> &'static [&'static str] {
        &["lease.touch", "access.grant", "access.revoke"]
    }

    fn touch(&self, call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        self.lease(&self.api(call).touch(&params.lease, &params.state)?)
    }

    fn access(&self, call: &Call, params: AccessParams) -> Result<AccessResult, Failure> {
        access::grant(self.api(call), &params)
    }

    fn revoke(&self, call: &Call, params: AccessParams) -> Result<(), Failure> {
        access::revoke(self.api(call), &params)
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        Ok(doctor::checks(self.api(call)))
    }
}

impl Daytona {
    fn api<'a>(&'a self, call: &'a Call) -> Api<'a> {
        Api { config: &self.0, call }
    }

    fn lease(&self, sandbox: &Sandbox) -> Result<Lease, Failure> {
        sandbox.lease(self.0.work_root()).ok_or_else(|| {
            Failure::new(ErrorKind::Internal, format!("{} is no sandbox of ours", sandbox.name))
        })
    }

    /// Looks through all our sandboxes. Only a complete list proves that something is not there.
    fn searched(&self, api: Api<'_>, id: &str) -> Result<Option<Lease>, Failure> {
        let (ours, complete) = api.sandboxes()?;
        let named = |lease: &Lease| {
            [lease.lease_id.as_str(), &lease.slug, &lease.name, &lease.cloud_id].contains(&id)
        };
        match ours.iter().filter_map(|one| one.lease(self.0.work_root())).find(named) {
            None if !complete => {
                let what = format!("{id} was not seen, but the list of sandboxes had no end");
                Err(Failure::transient(what).hint("try again"))
            }
            found => Ok(found),
        }
    }
}
