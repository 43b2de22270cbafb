//! Sandboxes as Islo has them, and which lease each belongs to: its name says so, since Islo has no labels.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::sandbox::{self, Sandboxes, State, in_path};
use crabbox_plugin_sdk::{Call, Desired, Failure, Lease, LeaseId, Repeat, found, touched_labels};
use serde::Deserialize;
use serde_json::json;

use crate::api::Api;
use crate::config::size;

/// What the names of our sandboxes begin with.
pub(crate) const PREFIX: &str = "crabbox-";
/// Sandboxes on one page, and pages looked at.
const PAGE: usize = 100;
const PAGES: usize = 100;

/// One sandbox.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Sandbox {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) creation_phase: Option<String>,
    #[serde(default)]
    deleted_at: Option<String>,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    created_at: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Spec {
    vcpus: u32,
    memory_mb: u32,
}

#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Sandbox>,
    #[serde(default)]
    total: Option<usize>,
    #[serde(default)]
    next_cursor: Option<String>,
}

/// The name of a lease's sandbox.
pub(crate) fn name_of(desired: &Desired) -> Result<String, Failure> {
    let name = sandbox::name_of(desired)?;
    match desired.name.starts_with(PREFIX) {
        true => Ok(name),
        false => Err(Failure::invalid_request(format!("{name} is no name for a sandbox of ours"))),
    }
}

/// The identity a sandbox's name holds; none when it is not ours.
pub(crate) fn identity(name: &str) -> Option<Desired> {
    let (machine, id) = name.rsplit_once('-')?;
    let lease_id = LeaseId::parse(&format!("cbx_{id}")).filter(LeaseId::is_canonical)?;
    let rest = machine.strip_prefix(PREFIX)?;
    let is_hash = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let slug = match rest.rsplit_once('-') {
        Some((slug, hash)) if is_hash(hash) => slug,
        _ => rest,
    };
    Some(Desired { lease_id, slug: slug.to_owned(), name: machine.to_owned() })
}

impl Sandbox {
    /// One that would be made.
    pub(crate) fn planned(name: &str) -> Self {
        let (name, status) = (name.to_owned(), "planned".to_owned());
        let created_at = String::new();
        Self { name, status, creation_phase: None, deleted_at: None, spec: None, created_at }
    }

    pub(crate) fn state(&self) -> State {
        match &*self.status.to_ascii_lowercase() {
            _ if self.deleted_at.is_some() => State::Gone,
            "ready" | "running" | "started" | "active" => State::Ready,
            "paused" | "stopped" | "pausing" | "stopping" => State::Asleep,
            "failed" | "error" => State::Failed,
            "deleting" | "terminating" => State::Leaving,
            "deleted" | "terminated" => State::Gone,
            _ => State::Coming,
        }
    }

    fn is_ours(&self) -> bool {
        self.state() != State::Gone && identity(&self.name).is_some()
    }

    /// The lease it belongs to; none when it is not ours.
    pub(crate) fn lease(&self, call: &Call) -> Option<Lease> {
        let Desired { lease_id, slug, name } = identity(&self.name)?;
        let own = [
            ("crabbox", "true"),
            ("created_by", "crabbox"),
            ("provider", "islo"),
            ("lease", lease_id.as_str()),
            ("slug", &slug),
            ("created_at", &self.created_at),
        ];
        let noted = labels(call, &lease_id);
        let own = own.into_iter().filter(|(_, value)| !value.is_empty());
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let labels = own.chain(noted).collect();
        Some(Lease {
            lease_id,
            slug,
            name,
            cloud_id: self.name.clone(),
            status: self.state().status().to_owned(),
            server_type: self.spec.as_ref().map_or(String::new(), |s| size(s.vcpus, s.memory_mb)),
            labels,
            work_root: None,
            ssh: None,
        })
    }
}

/// The labels a lease was made with, which Islo cannot keep: kept here, for the machine that made it.
fn labels(call: &Call, lease: &LeaseId) -> BTreeMap<String, String> {
    let kept = call.kv_get(&note(lease)).ok().flatten();
    kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

pub(crate) fn note_labels(
    call: &Call,
    lease: &LeaseId,
    labels: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    call.kv_put(&note(lease), &json!(labels).to_string(), None)
}

/// Notes that a lease is in use: a box in use is not cleaned up as an idle one.
pub(crate) fn touch(call: &Call, lease: &LeaseId, state: &str, now: u64) {
    let labels = labels(call, lease);
    if labels.contains_key("created_at") {
        // A box that looks idle too early is at worst asked about by whoever cleans up.
        let _ = note_labels(call, lease, &touched_labels(&labels, state, Some(now)));
    }
}

fn note(lease: &LeaseId) -> String {
    format!("labels/{lease}")
}

/// Islo's sandboxes, as one call sees them.
pub(crate) struct Ours<'a> {
    pub(crate) api: &'a Api,
    pub(crate) call: &'a Call,
}

impl Sandboxes for Ours<'_> {
    type Sandbox = Sandbox;
    const SERVICE: &'static str = "Islo";

    fn call(&self) -> &Call {
        self.call
    }

    fn find(&self, name: &str) -> Result<Option<Sandbox>, Failure> {
        let asked = self.api.ask(self.call, "GET", &path(name), Repeat::Safe, |request| request);
        let Some(reply) = found(asked)? else { return Ok(None) };
        let sandbox: Sandbox = reply.json()?;
        Ok(Some(sandbox).filter(|sandbox| sandbox.state() != State::Gone))
    }

    fn all(&self) -> Result<(Vec<Sandbox>, bool), Failure> {
        self.api.sandboxes(self.call)
    }

    fn delete(&self, name: &str) -> Result<(), Failure> {
        self.api.ask(self.call, "DELETE", &path(name), Repeat::Safe, |request| request).map(drop)
    }

    fn lease(&self, sandbox: &Sandbox) -> Option<Lease> {
        sandbox.lease(self.call)
    }

    fn is_of(&self, sandbox: &Sandbox, id: &LeaseId) -> bool {
        identity(&sandbox.name).is_some_and(|ours| ours.lease_id == *id)
    }

    fn state(&self, sandbox: &Sandbox) -> State {
        sandbox.state()
    }

    fn word<'a>(&self, sandbox: &'a Sandbox) -> (&'a str, Option<&'a str>) {
        let coming = sandbox.creation_phase.as_deref();
        (coming.filter(|_| sandbox.state() == State::Coming).unwrap_or(&sandbox.status), None)
    }

    fn dropped(&self, id: &LeaseId) {
        // What is left is found by no sandbox.
        let _ = self.call.kv_delete(&note(id));
    }
}

impl Api {
    /// All our sandboxes, and whether none can be missing.
    pub(crate) fn sandboxes(&self, call: &Call) -> Result<(Vec<Sandbox>, bool), Failure> {
        let (mut ours, mut seen, mut total, mut steady) = (Vec::new(), 0, None, true);
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES {
            let page = self.ask(call, "GET", "/sandboxes", Repeat::Safe, |request| {
                let request = request.query("name_prefix", PREFIX).query("limit", PAGE);
                match &cursor {
                    Some(cursor) => request.query("cursor", cursor),
                    None => request.query("offset", seen),
                }
            })?;
            let page: Page = page.json()?;
            // By offsets a sandbox can slip from one page to another while others come and go.
            steady &= cursor.is_some() || total.is_none() || total == page.total;
            let full = !page.items.is_empty();
            (seen, total, cursor) = (seen + page.items.len(), page.total, page.next_cursor);
            ours.extend(page.items.into_iter().filter(Sandbox::is_ours));
            if cursor.is_none() && !(full && total.is_some_and(|total| total > seen)) {
                return Ok((ours, steady));
            }
        }
        Ok((ours, false))
    }
}

/// The path of a sandbox.
pub(crate) fn path(name: &str) -> String {
    format!("/sandboxes/{}", in_path(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_the_sandbox_is() {
        let desired = Desired {
            lease_id: LeaseId::parse("cbx_abcdef123456").unwrap(),
            slug: "blue-prawn".to_owned(),
            name: "crabbox-blue-prawn-c80c2195".to_owned(),
        };
        let name = name_of(&desired).unwrap();
        assert_eq!(name, "crabbox-blue-prawn-c80c2195-abcdef123456");
        assert_eq!(identity(&name), Some(desired));
        for other in ["crabbox-app-1a2b3c", "web-abcdef123456", "crabbox-x-ABCDEF123456", "crabbox"]
        {
            assert_eq!(identity(other), None, "{other}");
        }
    }
}
