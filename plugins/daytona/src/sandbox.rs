//! Sandboxes as Daytona has them, and which lease each belongs to: its labels say so.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::{
    Desired, ErrorKind, Failure, Lease, LeaseId, Repeat, Resource, touched_labels,
};
use serde::Deserialize;
use serde_json::json;

use crate::api::Api;

/// Selects what crabbox made.
const OURS: &str = r#"{"crabbox":"true"}"#;
/// Sandboxes on one page, and pages looked at.
const PAGE: usize = 100;
const PAGES: usize = 100;
/// Longest name that is asked for.
const NAME: usize = 63;

/// One sandbox.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) error_reason: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) toolbox_proxy_url: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    items: Vec<Sandbox>,
    #[serde(default)]
    next_cursor: Option<String>,
}

/// How far a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Coming,
    Ready,
    /// It can be started again.
    Asleep,
    Failed,
    /// Being deleted: until it is gone it may cost money.
    Leaving,
    Gone,
}

/// The name of a lease's sandbox: the machine's name and the lease's id, so that no other has it.
pub(crate) fn name_of(desired: &Desired) -> Result<String, Failure> {
    let name = named(&desired.name, &desired.lease_id);
    match name.len() {
        ..=NAME => Ok(name),
        _ => {
            let what = format!("{name} is no name for a sandbox: {NAME} characters at most");
            Err(Failure::invalid_request(what).hint("choose a shorter --slug"))
        }
    }
}

fn named(machine: &str, lease: &LeaseId) -> String {
    format!("{machine}-{}", lease.as_str().trim_start_matches("cbx_"))
}

/// What the trail remembers of a sandbox: its name, which is known before it is made.
pub(crate) fn resource(name: &str) -> Resource {
    let (kind, cloud_id) = ("sandbox".to_owned(), name.to_owned());
    Resource { kind, cloud_id, region: None, billable: true }
}

/// What the trail remembers of a lease's sandbox.
pub(crate) fn resource_of(lease: &Lease) -> Resource {
    resource(&named(&lease.name, &lease.lease_id))
}

impl Sandbox {
    pub(crate) fn state(&self) -> State {
        match &*self.state {
            "started" | "running" | "ready" | "active" => State::Ready,
            "stopped" | "stopping" | "archived" | "archiving" | "paused" | "pausing" => {
                State::Asleep
            }
            "error" | "errored" | "failed" | "build_failed" => State::Failed,
            "destroying" => State::Leaving,
            "destroyed" | "deleted" => State::Gone,
            _ => State::Coming,
        }
    }

    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Whether its labels say that it was made for this lease.
    pub(crate) fn is_of(&self, id: &LeaseId) -> bool {
        self.label("crabbox") == "true" && self.label("lease") == id.as_str()
    }

    /// The lease it belongs to; none when it is not ours.
    pub(crate) fn lease(&self, work_root: &str) -> Option<Lease> {
        let lease_id = LeaseId::parse(self.label("lease"))
            .filter(|id| id.is_canonical() && self.is_of(id) && self.state() != State::Gone)?;
        let status = match (self.state(), self.label("state")) {
            (State::Ready, "" | "leased") => "ready",
            (State::Ready, noted) => noted,
            (State::Coming, _) => "leased",
            (State::Asleep, _) => "paused",
            (State::Failed, _) => "failed",
            (State::Leaving | State::Gone, _) => "released",
        };
        Some(Lease {
            lease_id,
            slug: self.label("slug").to_owned(),
            name: self.label("lease_name").to_owned(),
            cloud_id: self.id.clone(),
            status: status.to_owned(),
            server_type: "snapshot".to_owned(),
            labels: self.labels.clone(),
            work_root: Some(work_root.to_owned()),
            ssh: None,
        })
    }
}

impl Api<'_> {
    /// A sandbox by name or id; none when Daytona says that there is none.
    pub(crate) fn sandbox(&self, name: &str) -> Result<Option<Sandbox>, Failure> {
        match self.get(&path(name)) {
            Err(failure) if failure.kind() == ErrorKind::NotFound => Ok(None),
            found => Ok(Some(found?).filter(|sandbox: &Sandbox| sandbox.state() != State::Gone)),
        }
    }

    /// The sandbox of a lease; an error when what is there by that name is another's.
    pub(crate) fn own(&self, name: &str, id: &LeaseId) -> Result<Option<Sandbox>, Failure> {
        match self.sandbox(name)? {
            Some(found) if !found.is_of(id) => Err(foreign(name, id)),
            found => Ok(found),
        }
    }

    /// All our sandboxes, and whether none can be missing. A server that gives the same cursor again ends it.
    pub(crate) fn sandboxes(&self) -> Result<(Vec<Sandbox>, bool), Failure> {
        let (mut ours, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..PAGES {
            let page = self.ask("GET", "/sandbox", Repeat::Safe, |request| {
                let request = request.query("labels", OURS).query("limit", PAGE).at_most(4 << 20);
                cursor.iter().fold(request, |request, cursor| request.query("cursor", cursor))
            })?;
            let Page { items, next_cursor } = page.json()?;
            let full = !items.is_empty();
            ours.extend(items);
            match next_cursor.filter(|next| !next.is_empty()) {
                None => return Ok((ours, true)),
                Some(next) if full && Some(&next) != cursor.as_ref() => cursor = Some(next),
                Some(_) => break,
            }
        }
        Ok((ours, false))
    }

    /// Notes that the sandbox of a lease is used: when, by Daytona's own clock.
    pub(crate) fn touch(&self, lease: &Lease, state: &str) -> Result<Sandbox, Failure> {
        let url = path(&lease.cloud_id);
        let asked = self.ask("GET", &url, Repeat::Safe, |request| request)?;
        let sandbox: Sandbox = asked.json()?;
        if !sandbox.is_of(&lease.lease_id) {
            return Err(foreign(&lease.cloud_id, &lease.lease_id));
        }
        let labels = touched_labels(&sandbox.labels, state, asked.date());
        let body = json!({ "labels": labels });
        self.ask("PUT", &format!("{url}/labels"), Repeat::Safe, |r| r.json(&body))?;
        self.stay_awake(&sandbox.id);
        Ok(Sandbox { labels, ..sandbox })
    }

    /// Tells Daytona's own idle clock that the sandbox is used.
    pub(crate) fn stay_awake(&self, id: &str) {
        let path = format!("{}/last-activity", path(id));
        let _ = self.ask("POST", &path, Repeat::Never, |request| request.json(&json!({})));
    }
}

pub(crate) fn foreign(name: &str, lease: &LeaseId) -> Failure {
    Failure::precondition(format!("{name:?} is not the sandbox of {lease}; nothing was touched"))
}

/// The path of a sandbox. Names and ids of ours need no escape.
pub(crate) fn path(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = name.chars().filter(|c| plain(*c)).collect();
    format!("/sandbox/{name}")
}
