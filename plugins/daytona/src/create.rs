//! How a sandbox comes, wakes and goes.

use std::time::Duration;

use crabbox_plugin_sdk::{
    AcquireParams, Attempt, ErrorKind, Failure, LeaseId, Outcome, Progress, ReleaseOutcome, Repeat,
    Woken,
};
use serde_json::{Value, json};

use crate::api::Api;
use crate::config::{labels, minutes};
use crate::sandbox::{Sandbox, State, path, resource};

/// How often a sandbox that comes or goes is looked at.
const POLL: Duration = Duration::from_secs(1);
/// How often one that was deleted is looked at before it is left to Daytona.
const WATCHED: u32 = 60;

impl Api<'_> {
    /// Makes the sandbox of a lease and waits until commands can be run in it.
    pub(crate) fn make(&self, params: &AcquireParams, name: &str) -> Result<Sandbox, Failure> {
        // Before anything is made: whatever happens from here on, the name leads to it.
        self.call.record(&resource(name))?;
        let id = &params.desired.lease_id;
        self.create(params, name)?;
        self.awaited(name, id).map_err(|failure| self.undone(name, id, failure))
    }

    /// Asks for it. One that exists already is the one: its name and its label hold the lease's id.
    fn create(&self, params: &AcquireParams, name: &str) -> Result<(), Failure> {
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
        let asked = self.ask("POST", "/sandbox", Repeat::Never, |request| request.json(&body));
        let Err(failure) = asked else { return Ok(()) };
        self.call.attempt(&Attempt {
            region: config.target.as_deref(),
            server_type: Some(snapshot),
            category: Some(failure.kind()),
            message: failure.message(),
            ..Attempt::default()
        });
        let id = &params.desired.lease_id;
        let unsure = matches!(
            failure.kind(),
            ErrorKind::Transient | ErrorKind::Timeout | ErrorKind::Cancelled
        );
        let there = match unsure || failure.kind() == ErrorKind::Conflict {
            true => self.own(name, id),
            false => Ok(None),
        };
        match there {
            Ok(Some(_)) if failure.kind() == ErrorKind::Cancelled => {
                Err(self.undone(name, id, failure))
            }
            Ok(Some(_)) => Ok(()),
            // What was refused outright was not made.
            Ok(None) if !unsure => {
                self.forget(name);
                Err(unmade(failure, snapshot))
            }
            _ => Err(failure.outcome(Outcome::Uncertain).left_behind(resource(name))),
        }
    }

    /// Waits until commands can be run in it.
    pub(crate) fn awaited(&self, name: &str, id: &LeaseId) -> Result<Sandbox, Failure> {
        loop {
            self.call.check()?;
            let sandbox = self.own(name, id)?.ok_or_else(|| {
                Failure::bootstrap(format!("the sandbox {name} went away while it was made"))
            })?;
            match sandbox.state() {
                State::Ready => return Ok(sandbox),
                State::Coming => {}
                State::Asleep if sandbox.state.ends_with("ing") => {}
                _ => {
                    let why = sandbox.error_reason.as_deref().unwrap_or("it does not say why");
                    let what = format!("Daytona says {name} is {}: {why}", sandbox.state);
                    return Err(Failure::bootstrap(what));
                }
            }
            self.call.progress(&Progress { phase: &sandbox.state, ..Progress::default() });
            self.call.sleep(POLL)?;
        }
    }

    /// Starts a sandbox that was stopped.
    pub(crate) fn wake(&self, sandbox: Sandbox, id: &LeaseId) -> Result<Sandbox, Failure> {
        if sandbox.state() != State::Asleep {
            return Ok(sandbox);
        }
        let start = format!("{}/start", path(&sandbox.id));
        self.ask("POST", &start, Repeat::Safe, |request| request)?;
        self.awaited(&sandbox.id, id)
    }

    /// Takes back what was begun.
    fn undone(&self, name: &str, id: &LeaseId, failure: Failure) -> Failure {
        match self.delete(name, id) {
            Ok(ReleaseOutcome::Released | ReleaseOutcome::AlreadyGone) => {
                self.forget(name);
                failure.outcome(Outcome::RolledBack)
            }
            Ok(_) | Err(_) => failure.outcome(Outcome::Uncertain).left_behind(resource(name)),
        }
    }

    /// Deletes a sandbox that is ours, and watches until Daytona says that it is gone.
    pub(crate) fn delete(&self, name: &str, id: &LeaseId) -> Result<ReleaseOutcome, Failure> {
        if self.own(name, id)?.is_none() {
            return Ok(ReleaseOutcome::AlreadyGone);
        }
        match self.ask("DELETE", &path(name), Repeat::Safe, |request| request) {
            Err(failure)
                if !matches!(failure.kind(), ErrorKind::NotFound | ErrorKind::Conflict) =>
            {
                return Err(failure);
            }
            _ => {}
        }
        for _ in 0..WATCHED {
            if self.sandbox(name)?.is_none() {
                return Ok(ReleaseOutcome::Released);
            }
            if self.call.sleep(POLL)? == Woken::Cancel {
                break;
            }
        }
        Ok(ReleaseOutcome::Pending)
    }

    /// Nothing is left to be found.
    pub(crate) fn forget(&self, name: &str) {
        // A trail that still names it leads to nothing, which is no harm.
        let _ = self.call.forget(&resource(name));
    }
}

/// Why it was not made, and what to do about it.
fn unmade(failure: Failure, snapshot: &str) -> Failure {
    let about = failure.message().to_ascii_lowercase().contains("snapshot");
    let failure = match failure.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidRequest if about => {
            Failure::invalid_config("/snapshot", format!("{snapshot}: {}", failure.message()))
                .hint("set daytona.snapshot to the name of an active snapshot")
        }
        ErrorKind::NotFound => Failure::invalid_request(failure.message()),
        _ => failure,
    };
    failure.outcome(Outcome::NotStarted)
}
