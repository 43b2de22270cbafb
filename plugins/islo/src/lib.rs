//! Sandboxes of Islo: made, listed and removed through its web API, and commands run in them by it.
//!
//! Everything goes through the host, so that the key and the session's token are never seen here.

mod api;
mod config;
mod exec;
mod run;
mod sandbox;
mod tree;

use std::time::Duration;

use crabbox_plugin_sdk::{
    AcquireParams, Attempt, Call, Check, CheckStatus, DelegatedRun, ErrorKind, Failure, Lease,
    ListParams, ListResult, Outcome, Output, Plugin, Progress, Purpose, ReleaseOutcome,
    ReleaseParams, Repeat, ResolveParams, RunStartParams, RunStartResult, Woken,
};
use serde_json::{Value, json};

use api::Api;
use config::Config;
use sandbox::{Sandbox, State, identity, name_of, path, resource};

/// How often a sandbox that comes or goes is looked at.
const POLL: Duration = Duration::from_secs(2);
/// How long a deletion that was accepted is watched.
const WATCHED: u32 = 30;

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
        // Before anything is made: whatever happens from here on, the name leads to it.
        call.record(&resource(&name))?;
        sandbox::note_labels(call, &params.desired.lease_id, &params.labels)?;
        self.create(call, &name)?;
        match self.awaited(call, &name) {
            Ok(sandbox) => sandbox.lease(call).ok_or_else(|| {
                Failure::internal(format!("{} is no sandbox of ours", sandbox.name))
            }),
            Err(failure) => Err(self.undone(call, &name, failure)),
        }
    }

    fn run(
        &self,
        call: &Call,
        params: RunStartParams,
        output: &Output<'_>,
    ) -> Result<RunStartResult, Failure> {
        let ours = identity(&params.lease.cloud_id);
        if ours.is_none_or(|ours| ours.lease_id != params.lease.lease_id) {
            return Err(foreign(&params.lease.cloud_id, params.lease.lease_id.as_str()));
        }
        run::run(&self.0, call, &params, output)
    }

    fn list(&self, call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        let (ours, complete) = self.0.sandboxes(call)?;
        let leases = ours.iter().filter_map(|sandbox| sandbox.lease(call)).collect();
        Ok(ListResult { leases, next_cursor: None, complete })
    }

    fn status(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        let known = params.known.as_ref().map(|known| known.cloud_id.clone());
        let noted = params.resources.iter().map(|resource| resource.cloud_id.clone());
        let typed = identity(&params.id).map(|_| params.id.clone());
        for name in known.into_iter().chain(noted).chain(typed).filter(|name| !name.is_empty()) {
            let found = self.0.sandbox(call, &name)?;
            if let Some(lease) = found.and_then(|sandbox| sandbox.lease(call)) {
                return Ok(lease);
            }
        }
        let absent = || Failure::not_found(format!("Islo has no sandbox {}", params.id));
        if params.known.is_some() && params.purpose != Purpose::Reconcile {
            return Err(absent());
        }
        self.searched(call, &params.id)?.ok_or_else(absent)
    }

    fn stop(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let (lease, expected) = (&params.lease, &params.expected);
        let name = expected.cloud_id.as_deref().unwrap_or(&lease.cloud_id);
        // Islo has no labels: only what the name says and what is claimed here make a sandbox ours.
        let ours = identity(name).is_some_and(|ours| ours.lease_id == expected.lease_id);
        if !ours || lease.lease_id != expected.lease_id || lease.cloud_id != name {
            return Err(foreign(name, expected.lease_id.as_str()));
        }
        if self.0.sandbox(call, name)?.is_none() {
            self.forget(call, name);
            return Ok(ReleaseOutcome::AlreadyGone);
        }
        if call.dry_run() {
            return Ok(ReleaseOutcome::Retained);
        }
        self.delete(call, name)
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        let key = self.0.session(call);
        let may = key.is_ok().then(|| self.0.sandboxes(call));
        let mut checks =
            vec![told("islo.key", key, |_| "the key is good for a session".to_owned())];
        checks.push(match may {
            Some(listed) => told("islo.sandboxes", listed, |(ours, _)| {
                format!("{} of ours at {}", ours.len(), self.0.config.compute())
            }),
            None => check("islo.sandboxes", CheckStatus::Skip, "not asked without a session"),
        });
        Ok(checks)
    }
}

impl Islo {
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

    /// Asks for the sandbox. One that exists already is the one: its name holds the lease's id.
    fn create(&self, call: &Call, name: &str) -> Result<(), Failure> {
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
        let asked =
            self.0.ask(call, "POST", "/sandboxes", Repeat::Never, |request| request.json(&body));
        let Err(failure) = asked else { return Ok(()) };
        let size = config.size();
        call.attempt(&Attempt {
            server_type: Some(&size),
            category: Some(failure.kind()),
            message: failure.message(),
            ..Attempt::default()
        });
        let there = match failure.kind() {
            ErrorKind::Conflict
            | ErrorKind::Transient
            | ErrorKind::Timeout
            | ErrorKind::Cancelled => self.0.sandbox(call, name),
            _ => Ok(None),
        };
        match (failure.kind(), there) {
            (ErrorKind::Cancelled, Ok(Some(_))) => Err(self.undone(call, name, failure)),
            (_, Ok(Some(_))) => Ok(()),
            // What was refused outright was not made.
            (ErrorKind::Transient | ErrorKind::Timeout | ErrorKind::Cancelled, _) | (_, Err(_)) => {
                Err(failure.outcome(Outcome::Uncertain).left_behind(resource(name)))
            }
            _ => {
                self.forget(call, name);
                Err(failure.outcome(Outcome::NotStarted))
            }
        }
    }

    /// Waits until commands can be run in it.
    fn awaited(&self, call: &Call, name: &str) -> Result<Sandbox, Failure> {
        loop {
            call.check()?;
            let sandbox = self.0.sandbox(call, name)?;
            let sandbox = sandbox.ok_or_else(|| {
                Failure::bootstrap(format!("the sandbox {name} went away while it was made"))
            })?;
            match sandbox.state() {
                State::Ready => return Ok(sandbox),
                State::Coming => {}
                State::Failed | State::Paused | State::Leaving | State::Gone => {
                    let status = &sandbox.status;
                    return Err(Failure::bootstrap(format!("Islo says it is {status}: {name}")));
                }
            }
            let phase = sandbox.creation_phase.as_deref().unwrap_or(&sandbox.status);
            call.progress(&Progress { phase, ..Progress::default() });
            if call.sleep(POLL)? == Woken::Cancel {
                call.check()?;
            }
        }
    }

    /// Takes back what was begun.
    fn undone(&self, call: &Call, name: &str, failure: Failure) -> Failure {
        match self.delete(call, name) {
            Ok(ReleaseOutcome::Released | ReleaseOutcome::AlreadyGone) => {
                failure.outcome(Outcome::RolledBack)
            }
            Ok(_) | Err(_) => failure.outcome(Outcome::Uncertain).left_behind(resource(name)),
        }
    }

    /// Deletes a sandbox that is ours, and watches until Islo says that it is gone.
    fn delete(&self, call: &Call, name: &str) -> Result<ReleaseOutcome, Failure> {
        let asked = self.0.ask(call, "DELETE", &path(name), Repeat::Safe, |request| request);
        match asked {
            Err(failure) if failure.kind() == ErrorKind::NotFound => {
                self.forget(call, name);
                return Ok(ReleaseOutcome::AlreadyGone);
            }
            asked => drop(asked?),
        }
        for _ in 0..WATCHED {
            if self.0.sandbox(call, name)?.is_none() {
                self.forget(call, name);
                return Ok(ReleaseOutcome::Released);
            }
            if call.sleep(POLL)? == Woken::Cancel {
                break;
            }
        }
        Ok(ReleaseOutcome::Pending)
    }

    /// Nothing is left to be found.
    fn forget(&self, call: &Call, name: &str) {
        // A trail that still names it leads to nothing, which is no harm.
        let _ = call.forget(&resource(name));
        if let Some(desired) = identity(name) {
            sandbox::forget_labels(call, &desired.lease_id);
        }
    }

    /// Looks through all our sandboxes. Only a complete list proves that something is not there.
    fn searched(&self, call: &Call, id: &str) -> Result<Option<Lease>, Failure> {
        let (ours, complete) = self.0.sandboxes(call)?;
        let named = |lease: &Lease| {
            [lease.lease_id.as_str(), &lease.slug, &lease.name, &lease.cloud_id].contains(&id)
        };
        match ours.iter().filter_map(|sandbox| sandbox.lease(call)).find(named) {
            None if !complete => {
                let what = format!("{id} was not seen, but the list of sandboxes kept changing");
                Err(Failure::transient(what).hint("try again"))
            }
            found => Ok(found),
        }
    }
}

fn foreign(name: &str, lease: &str) -> Failure {
    Failure::precondition(format!("{name:?} is not the sandbox of {lease}; nothing was touched"))
}

fn check(id: &str, status: CheckStatus, message: impl Into<String>) -> Check {
    Check { id: id.to_owned(), status, message: message.into(), hint: None }
}

/// How a question went, as a finding.
fn told<T>(id: &str, asked: Result<T, Failure>, good: impl FnOnce(T) -> String) -> Check {
    match asked {
        Ok(answer) => check(id, CheckStatus::Ok, good(answer)),
        Err(failure) => Check {
            hint: failure.data().hint.clone(),
            ..check(id, CheckStatus::Fail, failure.message())
        },
    }
}
