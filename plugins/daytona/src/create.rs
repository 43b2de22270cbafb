//! How a sandbox is asked for and woken.

use crabbox_plugin_sdk::sandbox::{self, State};
use crabbox_plugin_sdk::{AcquireParams, Attempt, ErrorKind, Failure, LeaseId, Repeat};
use serde_json::{Value, json};

use crate::api::Api;
use crate::config::{labels, minutes};
use crate::sandboxes::{Sandbox, path};

impl Api<'_> {
    /// Makes the sandbox of a lease and waits until commands can be run in it.
    pub(crate) fn make(&self, params: &AcquireParams, name: &str) -> Result<Sandbox, Failure> {
        let (config, request) = (self.config, &params.request);
        let snapshot = config.snapshot()?;
        let mut body = json!({
            "name": name, "snapshot": snapshot, "user": config.user, "labels": labels(params),
            // Should nobody ever come back for it, it stops, and what has stopped is deleted.
            "autoStopInterval": minutes(request.idle_timeout_secs), "autoDeleteInterval": 0,
            "ttlMinutes": minutes(request.ttl_secs),
        });
        if let Some(target) = &config.target {
            body["target"] = Value::from(target.as_str());
        }
        let (region, server_type) = (config.target.as_deref(), Some(snapshot));
        let tried = Attempt { region, server_type, ..Attempt::default() };
        sandbox::make(self, name, &params.desired.lease_id, tried, || {
            let asked = self.ask("POST", "/sandbox", Repeat::Never, |request| request.json(&body));
            asked.map(drop).map_err(|failure| unmade(failure, snapshot))
        })
    }

    /// Starts a sandbox that was stopped.
    pub(crate) fn wake(&self, sandbox: Sandbox, id: &LeaseId) -> Result<Sandbox, Failure> {
        if sandbox.state() != State::Asleep {
            return Ok(sandbox);
        }
        let start = format!("{}/start", path(&sandbox.id));
        self.ask("POST", &start, Repeat::Safe, |request| request)?;
        sandbox::awaited(self, &sandbox.id, id)
    }
}

/// Why it was not made, and what to do about it.
fn unmade(failure: Failure, snapshot: &str) -> Failure {
    let about = failure.message().to_ascii_lowercase().contains("snapshot");
    match failure.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidRequest if about => {
            Failure::invalid_config("/snapshot", format!("{snapshot}: {}", failure.message()))
                .hint("set daytona.snapshot to the name of an active snapshot")
        }
        ErrorKind::NotFound => Failure::invalid_request(failure.message()),
        _ => failure,
    }
}
