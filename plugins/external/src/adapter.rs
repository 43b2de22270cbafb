//! Protocol mode: one process of the adapter for each question.

use std::io;

use crabbox_plugin_sdk::{
    AcquireParams, Call, ErrorKind, Failure, Lease, Level, Outcome, Purpose, ReleaseParams,
    ResolveParams, TouchParams,
};
use serde_json::{Map, Value};

use crate::Backend;
use crate::v1::{Base, Request, Response, V1Expected, V1Lease, VERSION};

/// Lines of an adapter's diagnostics that are passed on.
const MOST_LINES: usize = 200;

/// The user's adapter.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) command: String,
    pub(crate) args: Vec<String>,
    pub(crate) config: Map<String, Value>,
    /// Whether it must repeat the identity it was given.
    pub(crate) idempotent: bool,
}

impl Adapter {
    fn request(&self, operation: &'static str) -> Request<'static> {
        Request {
            protocol_version: VERSION,
            operation,
            config: self.config.clone(),
            ..Request::default()
        }
    }

    /// Runs the adapter once. An answer with an error is a failure, whatever its exit status.
    fn ask(&self, call: &Call, request: &Request<'_>) -> Result<Response, Failure> {
        let what = request.operation;
        let text = serde_json::to_string(request)
            .map_err(|error| Failure::internal("cannot encode the request").because(&error))?;
        let tool = call.tool(&self.command).args(&self.args).stdin(text).timeout(call.time_left());
        let said = tool.run()?;
        for line in said.stderr.lines().take(MOST_LINES) {
            call.log(Level::Info, line);
        }
        if said.exit_code != 0 {
            let last = said.stderr.lines().rev().find(|line| !line.trim().is_empty());
            let message = format!("the adapter's {what} ended with status {}", said.exit_code);
            let failure = failed(what, message);
            return Err(match last {
                Some(line) => failure.because(&io::Error::other(line.trim().to_owned())),
                None => failure,
            });
        }
        let bad = |why: String| failed(what, format!("the adapter's answer to {what} {why}"));
        if said.truncated {
            return Err(bad("is too long".to_owned()));
        }
        let response: Response = serde_json::from_str(said.stdout.trim()).map_err(|error| {
            bad("is not one JSON object of the protocol".to_owned()).because(&error)
        })?;
        match (&response.error, response.protocol_version) {
            (Some(error), _) => Err(failed(what, format!("the adapter cannot {what}: {error}"))),
            (None, Some(VERSION)) => Ok(response),
            (None, Some(other)) => Err(bad(format!("has protocolVersion {other}, not 1"))),
            (None, None) => Err(bad("has no protocolVersion".to_owned())),
        }
    }

    /// The identity is the kernel's: what is repeated must be equal, and with the capability all of it is repeated.
    fn same_identity(&self, said: &V1Lease, params: &AcquireParams) -> Result<(), Failure> {
        let wanted = &params.desired;
        let rows = [
            ("leaseId", &*said.lease_id, wanted.lease_id.as_str()),
            ("slug", &said.slug, &wanted.slug),
            ("name", &said.name, &wanted.name),
        ];
        let other = |said: &str, wanted: &str| match said.is_empty() {
            true => self.idempotent,
            false => said != wanted,
        };
        match rows.iter().find(|(_, said, wanted)| other(said, wanted)) {
            Some((what, said, wanted)) => Err(Failure::bootstrap(format!(
                "the adapter answered with {what} {said:?} where {wanted:?} was asked for"
            ))),
            None => Ok(()),
        }
    }

    fn checked(
        &self,
        said: V1Lease,
        params: &AcquireParams,
        base: &Base,
    ) -> Result<Lease, Failure> {
        self.same_identity(&said, params)?;
        let lease = said.lease(base)?;
        match lease.ssh.as_ref().is_some_and(|ssh| !ssh.host.is_empty()) {
            true => Ok(lease),
            false => Err(Failure::bootstrap("the adapter does not say where its box is: ssh.host")),
        }
    }

    /// Gives back what cannot be used.
    fn undo(&self, call: &Call, said: V1Lease, failure: Failure) -> Failure {
        let id = said.lease_id.clone();
        let request = Request { id: Some(&id), lease: Some(said), ..self.request("release") };
        match self.ask(call, &request) {
            Ok(_) => failure.outcome(Outcome::RolledBack),
            Err(_) => failure.outcome(Outcome::Uncertain),
        }
    }
}

fn failed(operation: &str, message: String) -> Failure {
    match operation {
        "acquire" => Failure::bootstrap(message).outcome(Outcome::Uncertain),
        _ => Failure::transient(message),
    }
}

impl Backend for Adapter {
    fn idempotent(&self) -> bool {
        self.idempotent
    }

    fn acquire(&self, call: &Call, params: &AcquireParams, base: &Base) -> Result<Lease, Failure> {
        let request = Request {
            desired: Some(&params.desired),
            keep: params.request.keep,
            ..self.request("acquire")
        };
        let response = self.ask(call, &request)?;
        let said = response.lease.ok_or_else(|| {
            Failure::bootstrap("the adapter's answer to acquire has no lease")
                .outcome(Outcome::Uncertain)
        })?;
        self.checked(said.clone(), params, base).map_err(|failure| {
            let wanted = &params.desired;
            let lease_id = wanted.lease_id.to_string();
            let (slug, name) = (wanted.slug.clone(), wanted.name.clone());
            self.undo(call, V1Lease { lease_id, slug, name, ..said }, failure)
        })
    }

    fn resolve(&self, call: &Call, params: &ResolveParams) -> Result<Option<Lease>, Failure> {
        let request = Request {
            id: Some(&params.id),
            lease: params.known.as_ref().map(V1Lease::of),
            release_only: params.purpose == Purpose::Release,
            ..self.request("resolve")
        };
        let base = params.known.as_ref().map(Base::known).unwrap_or_default();
        match self.ask(call, &request) {
            Ok(Response { lease: Some(lease), .. }) => lease.lease(&base).map(Some),
            Ok(_) => Ok(None),
            // Version 1 has no word for absence: the list must prove it.
            Err(failure) if failure.kind() == ErrorKind::Transient => {
                let listed = self.list(call)?;
                let meant = |lease: &Lease| crate::answers_to(lease, &params.id);
                if listed.iter().any(meant) { Err(failure) } else { Ok(None) }
            }
            Err(failure) => Err(failure),
        }
    }

    fn list(&self, call: &Call) -> Result<Vec<Lease>, Failure> {
        let leases = self.ask(call, &self.request("list"))?.leases.unwrap_or_default();
        leases.into_iter().map(|lease| lease.lease(&Base::default())).collect()
    }

    fn release(&self, call: &Call, params: &ReleaseParams) -> Result<(), Failure> {
        let request = Request {
            id: Some(params.expected.lease_id.as_str()),
            lease: Some(V1Lease::of(&params.lease)),
            expected: Some(V1Expected::of(&params.expected, &params.lease)),
            ..self.request("release")
        };
        self.ask(call, &request).map(drop)
    }

    fn touch(&self, call: &Call, params: &TouchParams) -> Result<Option<Lease>, Failure> {
        let request = Request {
            lease: Some(V1Lease::of(&params.lease)),
            state: Some(&params.state),
            ..self.request("touch")
        };
        let said = self.ask(call, &request)?.lease;
        said.map(|lease| lease.lease(&Base::known(&params.lease))).transpose()
    }

    fn doctor(&self, call: &Call) -> Result<String, Failure> {
        let said = self.ask(call, &self.request("doctor"))?;
        Ok(said.message.unwrap_or_else(|| format!("{} answers", self.command)))
    }
}
