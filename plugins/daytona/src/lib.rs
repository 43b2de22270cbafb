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
mod sandboxes;
mod toolbox;

use crabbox_plugin_sdk::{
    AccessParams, AccessResult, AcquireParams, Call, Check, DelegatedRun, ErrorKind, Failure,
    Lease, ListParams, ListResult, Output, Plugin, ReleaseOutcome, ReleaseParams, ResolveParams,
    RunStartParams, RunStartResult, TouchParams, sandbox,
};

use api::Api;
use config::Config;
use sandboxes::Sandbox;

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
        let name = sandbox::name_of(&params.desired)?;
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
        let (api, lease) = (self.api(call), &params.lease);
        let sandbox = api.wake(sandbox::standing(&api, lease)?, &lease.lease_id)?;
        run::run(api, &sandbox, &params, output)
    }

    fn list(&self, call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        sandbox::list(&self.api(call))
    }

    fn status(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        sandbox::status(&self.api(call), &params)
    }

    fn stop(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        sandbox::stop(&self.api(call), &params)
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
}
