//! Sandboxes as Islo has them, and which lease each belongs to: its name says so, since Islo has no labels.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::{Call, Desired, ErrorKind, Failure, Lease, LeaseId, Repeat, Resource};
use serde::Deserialize;
use serde_json::json;

use crate::api::Api;
use crate::config::size;

/// What the names of our sandboxes begin with.
pub(crate) const PREFIX: &str = "crabbox-";
/// Longest name that is asked for.
const NAME: usize = 63;
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

/// How far a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Coming,
    Ready,
    Paused,
    Failed,
    /// Being deleted: until it is gone it may cost money.
    Leaving,
    Gone,
}

/// The name of a lease's sandbox: the machine's name, and the lease's id.
pub(crate) fn name_of(desired: &Desired) -> Result<String, Failure> {
    let id = desired.lease_id.as_str().trim_start_matches("cbx_");
    let name = format!("{}-{id}", desired.name);
    if name.len() > NAME || !desired.name.starts_with(PREFIX) {
        let what = format!("{name} is no name for a sandbox: {NAME} characters at most");
        return Err(Failure::invalid_request(what).hint("choose a shorter --slug"));
    }
    Ok(name)
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

/// What the trail remembers of a sandbox.
pub(crate) fn resource(name: &str) -> Resource {
    let (kind, cloud_id) = ("sandbox".to_owned(), name.to_owned());
    Resource { kind, cloud_id, region: None, billable: true }
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
            "paused" | "stopped" | "pausing" | "stopping" => State::Paused,
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
        let status = match self.state() {
            State::Ready => "ready",
            State::Coming => "leased",
            State::Paused => "paused",
            State::Failed => "failed",
            State::Leaving | State::Gone => "released",
        };
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
            status: status.to_owned(),
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
    let mut labels = labels(call, lease);
    let number = |name: &str| labels.get(name).and_then(|text| text.parse::<u64>().ok());
    let (idle, created) = (number("idle_timeout_secs"), number("created_at"));
    let (Some(idle), Some(created), Some(ttl)) = (idle, created, number("ttl_secs")) else {
        return;
    };
    let expires = (now + idle).min(created + ttl).to_string();
    let news = [
        ("state", state.to_owned()),
        ("last_touched_at", now.to_string()),
        ("expires_at", expires),
    ];
    labels.extend(news.map(|(name, value)| (name.to_owned(), value)));
    // A box that looks idle too early is at worst asked about by whoever cleans up.
    let _ = note_labels(call, lease, &labels);
}

pub(crate) fn forget_labels(call: &Call, lease: &LeaseId) {
    // What is left is found by no sandbox.
    let _ = call.kv_delete(&note(lease));
}

fn note(lease: &LeaseId) -> String {
    format!("labels/{lease}")
}

impl Api {
    /// A sandbox by its name; none when Islo says that there is none.
    pub(crate) fn sandbox(&self, call: &Call, name: &str) -> Result<Option<Sandbox>, Failure> {
        let found = self.ask(call, "GET", &path(name), Repeat::Safe, |request| request);
        match found {
            Err(failure) if failure.kind() == ErrorKind::NotFound => Ok(None),
            found => {
                let sandbox: Sandbox = found?.json()?;
                Ok(Some(sandbox).filter(|sandbox| sandbox.state() != State::Gone))
            }
        }
    }

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

/// The path of a sandbox. Names of ours need no escape; others are asked for only as they were recorded.
pub(crate) fn path(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = name.chars().filter(|c| plain(*c)).collect();
    format!("/sandboxes/{name}")
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
