//! Sandboxes as Daytona has them, and which lease each belongs to: its labels say so.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::cloud::is_of;
use crabbox_plugin_sdk::sandbox::{Sandboxes, State, foreign, in_path};
use crabbox_plugin_sdk::{Call, Failure, Lease, LeaseId, Repeat, found, touched_labels};
use serde::Deserialize;
use serde_json::json;

use crate::api::Api;

/// Selects what crabbox made.
const OURS: &str = r#"{"crabbox":"true"}"#;
/// Sandboxes on one page, and pages looked at.
const PAGE: usize = 100;
const PAGES: usize = 100;

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

    /// The lease it belongs to; none when it is not ours.
    pub(crate) fn lease(&self, work_root: &str) -> Option<Lease> {
        let label = |name: &str| self.labels.get(name).map(String::as_str).unwrap_or_default();
        let lease_id = LeaseId::parse(label("lease"))
            .filter(|id| id.is_canonical() && is_of(&self.labels, id))
            .filter(|_| self.state() != State::Gone)?;
        let status = match (self.state(), label("state")) {
            (State::Ready, noted) if !matches!(noted, "" | "leased") => noted,
            (state, _) => state.status(),
        };
        Some(Lease {
            lease_id,
            slug: label("slug").to_owned(),
            name: label("lease_name").to_owned(),
            cloud_id: self.id.clone(),
            status: status.to_owned(),
            server_type: "snapshot".to_owned(),
            labels: self.labels.clone(),
            work_root: Some(work_root.to_owned()),
            ssh: None,
        })
    }
}

impl Sandboxes for Api<'_> {
    type Sandbox = Sandbox;
    const SERVICE: &'static str = "Daytona";

    fn call(&self) -> &Call {
        self.call
    }

    fn find(&self, name: &str) -> Result<Option<Sandbox>, Failure> {
        let found: Option<Sandbox> = found(self.get(&path(name)))?;
        Ok(found.filter(|sandbox| sandbox.state() != State::Gone))
    }

    fn all(&self) -> Result<(Vec<Sandbox>, bool), Failure> {
        self.sandboxes()
    }

    fn delete(&self, name: &str) -> Result<(), Failure> {
        self.ask("DELETE", &path(name), Repeat::Safe, |request| request).map(drop)
    }

    fn lease(&self, sandbox: &Sandbox) -> Option<Lease> {
        sandbox.lease(self.config.work_root())
    }

    fn is_of(&self, sandbox: &Sandbox, id: &LeaseId) -> bool {
        is_of(&sandbox.labels, id)
    }

    fn state(&self, sandbox: &Sandbox) -> State {
        sandbox.state()
    }

    fn word<'a>(&self, sandbox: &'a Sandbox) -> (&'a str, Option<&'a str>) {
        (&sandbox.state, sandbox.error_reason.as_deref())
    }
}

impl Api<'_> {
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
        if !is_of(&sandbox.labels, &lease.lease_id) {
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

/// The path of a sandbox.
pub(crate) fn path(name: &str) -> String {
    format!("/sandbox/{}", in_path(name))
}
