//! Existing hosts reached over SSH: the lease is the host, and nothing is ever created or deleted.
//!
//! This provider does no network I/O; it says where the host is, and the kernel connects.

mod host;
mod settings;

use crabbox_plugin_sdk::{
    AcquireParams, Call, Check, CheckStatus, Failure, Lease, ListParams, ListResult, Plugin,
    Purpose, ReleaseOutcome, ReleaseParams, ResolveParams, SshLease, TouchParams,
};

use host::Host;

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), |instance| {
        Host::open(&instance).map(Ssh)
    })
}

/// The provider: one configured host.
struct Ssh(Host);

impl SshLease for Ssh {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn acquire(&self, _call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        self.0.lease(Some(&params.request.target))
    }

    fn resolve(&self, _call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        if self.0.answers_to(&params.id) {
            return self.0.lease(params.known.as_ref().and_then(target));
        }
        match params.known {
            // A host that is no longer configured can still be let go: there is nothing to delete.
            Some(known) if params.purpose == Purpose::Release => Ok(known),
            _ => Err(Failure::not_found(format!(
                "{:?} is not the configured host {} (lease {})",
                params.id,
                self.0.host(),
                self.0.id()
            ))
            .hint("set static.host to the host you mean")),
        }
    }

    fn list(&self, _call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        Ok(ListResult { leases: vec![self.0.lease(None)?], next_cursor: None, complete: true })
    }

    fn release(&self, _call: &Call, _params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        Ok(ReleaseOutcome::Retained)
    }

    fn touch(&self, _call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        let mut lease = params.lease;
        lease.labels.insert("state".to_owned(), params.state);
        Ok(lease)
    }

    fn doctor(&self, _call: &Call) -> Result<Vec<Check>, Failure> {
        Ok(vec![Check {
            id: "ssh.host".to_owned(),
            status: CheckStatus::Ok,
            message: format!("{}, lease {}; not contacted", self.0.destination(), self.0.id()),
            hint: None,
        }])
    }
}

fn target(lease: &Lease) -> Option<&str> {
    lease.labels.get("target").map(String::as_str)
}
