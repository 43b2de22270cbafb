//! Boxes from an adapter of the user's own: the original's `provider: external`, version 1, in both its modes.
//!
//! The kernel speaks its own protocol with this plugin; the plugin runs the adapter once for each question, through
//! the kernel, which runs only what the user's own settings name.

mod adapter;
mod lifecycle;
mod template;
mod v1;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crabbox_plugin_sdk::{
    AcquireParams, Call, Check, CheckStatus, Failure, Instance, Lease, ListParams, ListResult,
    Outcome, Plugin, ReleaseOutcome, ReleaseParams, ResolveParams, Resource, SshLease, TouchParams,
    settings,
};

use adapter::Adapter;
use lifecycle::Lifecycle;
use v1::Base;

/// What both modes do.
trait Backend: Send + Sync {
    /// Whether two acquires of one lease id make one box.
    fn idempotent(&self) -> bool;
    /// Makes a box.
    fn acquire(&self, call: &Call, params: &AcquireParams, base: &Base) -> Result<Lease, Failure>;
    /// Looks a box up; nothing is proof that it does not exist.
    fn resolve(&self, call: &Call, params: &ResolveParams) -> Result<Option<Lease>, Failure>;
    /// All boxes.
    fn list(&self, call: &Call) -> Result<Vec<Lease>, Failure>;
    /// Ends a box.
    fn release(&self, call: &Call, params: &ReleaseParams) -> Result<(), Failure>;
    /// Notes a use; nothing when nothing new is known.
    fn touch(&self, call: &Call, params: &TouchParams) -> Result<Option<Lease>, Failure>;
    /// Whether the platform answers, and with what words.
    fn doctor(&self, call: &Call) -> Result<String, Failure>;
}

/// The block `providers.external`, or `external`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Settings {
    command: String,
    args: Vec<String>,
    config: Map<String, Value>,
    capabilities: Capabilities,
    lifecycle: Map<String, Value>,
    connection: Map<String, Value>,
    work_root: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Capabilities {
    idempotent_lease_id: bool,
}

/// The plugin, ready to serve; `variable` reads the user's environment.
pub fn plugin(variable: fn(&str) -> Option<String>) -> Plugin {
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), move |instance| {
        External::open(&instance, variable)
    })
}

/// The provider: an adapter, commands, or nothing yet.
struct External {
    backend: Option<Box<dyn Backend>>,
    work_root: Option<String>,
}

impl External {
    fn open(instance: &Instance, variable: fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let said: Settings = settings(instance)?;
        let backend: Option<Box<dyn Backend>> =
            match (said.command.is_empty(), said.lifecycle.is_empty()) {
                (false, false) => {
                    let message = "both external.command and external.lifecycle are set";
                    return Err(
                        Failure::invalid_config("/lifecycle", message).hint("keep one of them")
                    );
                }
                (false, true) => Some(Box::new(Adapter {
                    command: said.command,
                    args: said.args,
                    config: said.config,
                    idempotent: said.capabilities.idempotent_lease_id,
                })),
                (true, false) => Some(Box::new(Lifecycle::new(
                    table("lifecycle", said.lifecycle)?,
                    table("connection", said.connection)?,
                    said.config,
                    variable,
                )?)),
                (true, true) => None,
            };
        Ok(Self { backend, work_root: said.work_root })
    }

    fn backend(&self) -> Result<&dyn Backend, Failure> {
        self.backend.as_deref().ok_or_else(|| {
            Failure::invalid_config("/command", "no adapter is configured")
                .hint("set external.command in your own configuration, or give --external-command PROGRAM")
        })
    }
}

fn table<T: DeserializeOwned>(name: &str, table: Map<String, Value>) -> Result<T, Failure> {
    serde_json::from_value(Value::Object(table)).map_err(|error| {
        Failure::invalid_config(format!("/{name}"), format!("external.{name} does not fit"))
            .because(&error)
    })
}

/// Whether a person, or the journal, means this box by a name.
fn answers_to(lease: &Lease, name: &str) -> bool {
    [lease.lease_id.as_str(), &*lease.slug, &*lease.name, &*lease.cloud_id].contains(&name)
}

fn resource(lease: &Lease) -> Resource {
    Resource {
        kind: "external".to_owned(),
        cloud_id: lease.cloud_id.clone(),
        region: None,
        billable: true,
    }
}

impl SshLease for External {
    fn idempotent_acquire(&self) -> bool {
        self.backend.as_ref().is_some_and(|backend| backend.idempotent())
    }

    fn acquire(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        let backend = self.backend()?;
        call.check().map_err(|failure| failure.outcome(Outcome::NotStarted))?;
        let base = Base {
            identity: Some(params.desired.clone()),
            labels: params.labels.clone(),
            target: params.request.target.clone(),
            work_root: self.work_root.clone().or(params.request.work_root.clone()),
        };
        let lease = backend.acquire(call, &params, &base).map_err(|failure| {
            match failure.data().outcome {
                Some(_) => failure,
                None => failure.outcome(Outcome::Uncertain),
            }
        })?;
        call.record(&resource(&lease))?;
        Ok(lease)
    }

    fn resolve(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        let found = self.backend()?.resolve(call, &params)?;
        found.ok_or_else(|| Failure::not_found(format!("no external box {}", params.id)))
    }

    fn list(&self, call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        let leases = match &self.backend {
            Some(backend) => backend.list(call)?,
            None => Vec::new(),
        };
        Ok(ListResult { leases, next_cursor: None, complete: true })
    }

    fn release(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let expected = &params.expected;
        let wrong = |what: &str| {
            Failure::precondition(format!("{what} is not the box of {}", expected.lease_id))
        };
        let same_id = |id: &str| expected.cloud_id.as_deref().is_none_or(|expected| expected == id);
        if params.lease.lease_id != expected.lease_id {
            return Err(wrong(params.lease.lease_id.as_str()));
        }
        let backend = self.backend()?;
        let listed = backend.list(call);
        let ids = [expected.cloud_id.as_deref(), Some(&*params.lease.cloud_id)];
        let named = |lease: &&Lease| {
            let id = !lease.cloud_id.is_empty() && ids.contains(&Some(&*lease.cloud_id));
            id || lease.lease_id == expected.lease_id
        };
        let found = listed.as_ref().ok().and_then(|leases| leases.iter().find(named));
        let known = found.unwrap_or(&params.lease);
        if known.lease_id != expected.lease_id {
            return Err(wrong(&known.cloud_id));
        }
        if !known.cloud_id.is_empty() && !same_id(&known.cloud_id) {
            return Err(wrong(&known.cloud_id));
        }
        if call.dry_run() {
            return Ok(ReleaseOutcome::Retained);
        }
        // What is not listed is released all the same: a list may be behind.
        let gone = listed.is_ok() && found.is_none();
        match backend.release(call, &params) {
            Ok(()) => {}
            Err(_) if gone => {}
            Err(failure) => return Err(failure),
        }
        let _ = call.forget(&resource(known));
        Ok(if gone { ReleaseOutcome::AlreadyGone } else { ReleaseOutcome::Released })
    }

    fn touch(&self, call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        let noted = self.backend()?.touch(call, &params)?;
        let mut lease = noted.unwrap_or(params.lease);
        lease.labels.insert("state".to_owned(), params.state);
        Ok(lease)
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        let (status, message, hint) = match self.backend().and_then(|backend| backend.doctor(call))
        {
            Ok(message) => (CheckStatus::Ok, message, None),
            Err(failure) => {
                (CheckStatus::Fail, failure.message().to_owned(), failure.data().hint.clone())
            }
        };
        Ok(vec![Check { id: "external.adapter".to_owned(), status, message, hint }])
    }
}
