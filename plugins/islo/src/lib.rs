//! Sandboxes of Islo: made, listed and removed through its web API, and commands run in them by it.
//!
//! Everything goes through the host, so that the key and the session's token are never seen here.

mod api;
mod config;
mod exec;
mod run;
mod sandboxes;
mod tree;

use crabbox_plugin_sdk::sandbox::{self, foreign};
use crabbox_plugin_sdk::{
    AcquireParams, Attempt, Call, Check, CheckStatus, DelegatedRun, Failure, Lease, ListParams,
    ListResult, Output, Plugin, ReleaseOutcome, ReleaseParams, Repeat, ResolveParams,
    RunStartParams, RunStartResult, check, judged,
};
use serde_json::{Value, json};

use api::Api;
use config::Config;
use sandboxes::{Ours, Sandbox, identity, name_of};

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::delegated_run(include_str!("../crabbox-plugin.toml"), |instance| {
        Config::read(&instance).map(|config| Islo(Api::new(config)))
    })
}

crabbox_plugin_sdk::component!(plugin);

/// The provider.
struct Islo(Api);

impl DelegatedRun for Islo {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn warmup(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        let name = self.wanted(&params)?;
        if call.dry_run() {
            let planned = Sandbox::planned(&name);
            return planned.lease(call).ok_or_else(|| Failure::internal("no lease is planned"));
        }
        let made = self.make(call, &name, &params)?;
        let strange = || Failure::internal(format!("{name} is no sandbox of ours"));
        made.lease(call).ok_or_else(strange)
    }

    fn run(
        &self,
        call: &Call,
        params: RunStartParams,
        output: &Output<'_>,
    ) -> Result<RunStartResult, Failure> {
        let ours = identity(&params.lease.cloud_id);
        if ours.is_none_or(|ours| ours.lease_id != params.lease.lease_id) {
            return Err(foreign(&params.lease.cloud_id, &params.lease.lease_id));
        }
        run::run(&self.0, call, &params, output)
    }

    fn list(&self, call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        sandbox::list(&self.ours(call))
    }

    fn status(&self, call: &Call, mut params: ResolveParams) -> Result<Lease, Failure> {
        // A sandbox's own name is what the trail would have of it.
        params.resources.extend(identity(&params.id).map(|_| sandbox::resource(&params.id)));
        sandbox::status(&self.ours(call), &params)
    }

    fn stop(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let (lease, expected) = (&params.lease, &params.expected);
        let name = expected.cloud_id.as_deref().unwrap_or(&lease.cloud_id);
        // Islo has no labels: only what the name says and what is claimed here make a sandbox ours.
        let ours = identity(name).is_some_and(|ours| ours.lease_id == expected.lease_id);
        if !ours || lease.cloud_id != name {
            return Err(foreign(name, &expected.lease_id));
        }
        sandbox::stop(&self.ours(call), &params)
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        let key = self.0.session(call);
        let may = key.is_ok().then(|| self.0.sandboxes(call));
        let good = |_| Ok("the key is good for a session".to_owned());
        let mut checks = vec![judged("islo.key", key, good)];
        let id = "islo.sandboxes";
        checks.push(match may {
            Some(listed) => judged(id, listed, |(ours, _)| {
                Ok(format!("{} of ours at {}", ours.len(), self.0.config.compute()))
            }),
            None => check(id, CheckStatus::Skip, "not asked without a session", ""),
        });
        Ok(checks)
    }
}

impl Islo {
    fn ours<'a>(&'a self, call: &'a Call) -> Ours<'a> {
        Ours { api: &self.0, call }
    }

    /// The name of the sandbox; an error when it is asked for what Islo does not have.
    fn wanted(&self, params: &AcquireParams) -> Result<String, Failure> {
        let request = &params.request;
        if !matches!(&*request.target, "" | "linux") {
            let what = format!("Islo has no sandboxes with {}", request.target);
            return Err(Failure::unsupported(what));
        }
        if let Some(wanted) = &request.machine_type {
            let what = format!("Islo has no machine type {wanted}");
            return Err(Failure::unsupported(what).hint(
                "say how big the sandbox is with islo.vcpus, islo.memoryMB and islo.diskGB",
            ));
        }
        name_of(&params.desired)
    }

    /// Makes the sandbox, and waits until commands can be run in it.
    fn make(&self, call: &Call, name: &str, params: &AcquireParams) -> Result<Sandbox, Failure> {
        let id = &params.desired.lease_id;
        let config = &self.0.config;
        let mut body = json!({
            "name": name, "image": config.image, "workdir": config.tree(), "vcpus": config.vcpus,
            "memory_mb": config.memory_mb, "disk_gb": config.disk_gb, "request_id": call.idem(),
        });
        let optional = [
            ("gateway_profile", &config.gateway_profile),
            ("snapshot_name", &config.snapshot_name),
        ];
        for (member, value) in optional {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                body[member] = Value::from(value);
            }
        }
        let size = config.size();
        let tried = Attempt { server_type: Some(&size), ..Attempt::default() };
        sandbox::make(&self.ours(call), name, id, tried, || {
            sandboxes::note_labels(call, id, &params.labels)?;
            let asked = self
                .0
                .ask(call, "POST", "/sandboxes", Repeat::Never, |request| request.json(&body));
            asked.map(drop)
        })
    }
}
