//! Existing hosts reached over SSH: the lease is the host, and nothing is ever created or deleted.
//!
//! This provider does no network I/O; it says where the host is, and the kernel connects.

mod host;
mod settings;

use crabbox_plugin_sdk::{
    AcquireParams, Call, Check, CheckStatus, Failure, Lease, ListParams, ListResult, Outcome,
    Plugin, ReleaseOutcome, ReleaseParams, ResolveParams, SshLease, TouchParams,
};

use host::Host;

/// The plugin, ready to serve.
pub fn plugin() -> Plugin {
    Plugin::ssh_lease(include_str!("../crabbox-plugin.toml"), |instance| {
        Host::open(&instance).map(Ssh)
    })
}

/// The provider: one configured host, or none. A lease remembers its host, so it needs no settings later.
struct Ssh(Option<Host>);

impl Ssh {
    fn host(&self) -> Result<&Host, Failure> {
        self.0.as_ref().ok_or_else(|| {
            Failure::invalid_config("/host", "no host is configured")
                .outcome(Outcome::NotStarted)
                .hint("set static.host, or give --static-host HOST")
        })
    }
}

impl SshLease for Ssh {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn acquire(&self, _call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        self.host()?.lease(Some(&params.request.target), params.request.work_root)
    }

    fn resolve(&self, _call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        if let Some(host) = self.0.as_ref().filter(|host| host.answers_to(&params.id)) {
            let known = params.known.as_ref();
            let lease =
                host.lease(known.and_then(target), known.and_then(|k| k.work_root.clone()))?;
            return Ok(remember(lease, known));
        }
        match params.known {
            Some(known) if known.lease_id.as_str() == params.id => Ok(known),
            _ => Err(Failure::not_found(format!("{:?} is not a configured host", params.id))
                .hint("set static.host to the host you mean")),
        }
    }

    fn list(&self, _call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        let leases = self.0.iter().map(|host| host.lease(None, None)).collect::<Result<_, _>>()?;
        Ok(ListResult { leases, next_cursor: None, complete: true })
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
        let (status, message, hint) = match &self.0 {
            Some(host) => (
                CheckStatus::Ok,
                format!("{}, lease {}; not contacted", host.destination(), host.id()),
                None,
            ),
            None => {
                let hint = "set static.host, or give --static-host HOST".to_owned();
                (CheckStatus::Fail, "no host is configured".to_owned(), Some(hint))
            }
        };
        Ok(vec![Check { id: "ssh.host".to_owned(), status, message, hint }])
    }
}

/// Fills what the settings leave open with what the lease was made with, such as a key given by flag.
fn remember(mut lease: Lease, known: Option<&Lease>) -> Lease {
    let known =
        known.filter(|known| known.lease_id == lease.lease_id).and_then(|known| known.ssh.as_ref());
    if let (Some(ssh), Some(known)) = (lease.ssh.as_mut(), known) {
        if ssh.key_file.is_none() {
            ssh.key_file.clone_from(&known.key_file);
            ssh.auth = known.auth;
        }
        if ssh.user.is_empty() {
            ssh.user.clone_from(&known.user);
        }
        if ssh.port == 0 {
            ssh.port = known.port;
            ssh.fallback_ports.clone_from(&known.fallback_ports);
        }
    }
    lease
}

fn target(lease: &Lease) -> Option<&str> {
    lease.labels.get("target").map(String::as_str)
}

crabbox_plugin_sdk::component!(plugin);
crabbox_plugin_sdk::native!(plugin);
