//! What is remembered of a lease here: Blacksmith keeps no labels, so only this says whose a testbox is.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::{Call, Failure, Lease, LeaseId, ResolveParams, Resource, touched_labels};
use serde::{Deserialize, Serialize};

use crate::list::{Row, State};

/// How the names of notes begin.
const NOTES: &str = "box/";

/// A lease's note. It is written before its testbox is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Note {
    /// The testbox, once its id was seen.
    pub(crate) id: Option<String>,
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// What was asked for, and what there was of that before.
    pub(crate) workflow: String,
    pub(crate) job: Option<String>,
    pub(crate) reference: Option<String>,
    pub(crate) before: Vec<String>,
    /// The tool said in words that are understood why it made none.
    pub(crate) refused: bool,
    /// The public half of the lease's key: no other testbox lets it in.
    pub(crate) public_key: String,
}

impl Note {
    pub(crate) fn read(call: &Call, lease: &LeaseId) -> Result<Option<Self>, Failure> {
        let text = call.kv_get(&format!("{NOTES}{lease}"))?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    pub(crate) fn write(&self, call: &Call, lease: &LeaseId) -> Result<(), Failure> {
        let text = serde_json::to_string(self)
            .map_err(|error| Failure::internal("a note cannot be written").because(&error))?;
        call.kv_put(&format!("{NOTES}{lease}"), &text, None)
    }

    /// This testbox is the lease's: the journal knows it first, then the note.
    pub(crate) fn own(&mut self, call: &Call, lease: &LeaseId, id: &str) -> Result<(), Failure> {
        self.id = Some(id.to_owned());
        call.record(&resource(id))?;
        self.write(call, lease)
    }

    /// Nothing is left to be found.
    pub(crate) fn forget(call: &Call, lease: &LeaseId, id: &str) {
        // What is left of a note or in the trail leads to nothing.
        let _ = call.forget(&resource(id));
        let _ = call.kv_delete(&format!("{NOTES}{lease}"));
    }

    /// Says that the box is in use, or no longer.
    pub(crate) fn touch(&mut self, call: &Call, lease: &LeaseId, state: &str) {
        self.labels = touched_labels(&self.labels, state, None);
        // A box that looks idle too early is at worst asked about by whoever cleans up.
        let _ = self.write(call, lease);
    }

    /// Every lease that has a note.
    pub(crate) fn all(call: &Call) -> Result<Vec<(LeaseId, Self)>, Failure> {
        let keys = call.kv_list(NOTES)?;
        let leases = keys.iter().filter_map(|key| canonical(key.strip_prefix(NOTES)?));
        leases
            .filter_map(|lease| {
                let note = Self::read(call, &lease).transpose()?;
                Some(note.map(|note| (lease, note)))
            })
            .collect()
    }

    /// The testboxes that are on record as other leases'.
    pub(crate) fn taken(call: &Call, lease: &LeaseId) -> Result<Vec<String>, Failure> {
        let others = Self::all(call)?.into_iter().filter(|(other, _)| other != lease);
        Ok(others.filter_map(|(_, note)| note.id).collect())
    }

    /// The one that is meant: by what the kernel knows, by its id, or by any of its names.
    pub(crate) fn find(
        call: &Call,
        params: &ResolveParams,
    ) -> Result<Option<(LeaseId, Self)>, Failure> {
        let known = params.known.as_ref().map(|known| known.lease_id.clone());
        if let Some(lease) = known.or_else(|| canonical(&params.id)) {
            let noted = params.resources.first().map(|resource| resource.cloud_id.clone());
            let note = Self::read(call, &lease)?;
            // The journal is as good as a note that was lost, or came too late.
            let note = match (note, noted) {
                (Some(note), noted) => Some(Self { id: note.id.clone().or(noted), ..note }),
                (None, None) => None,
                (None, noted) => Some(Self { id: noted, ..Self::default() }),
            };
            return Ok(note.map(|note| (lease, note)));
        }
        let meant = |note: &Self| {
            [&note.slug, &note.name].contains(&&params.id) || note.id.as_ref() == Some(&params.id)
        };
        Ok(Self::all(call)?.into_iter().find(|(_, note)| meant(note)))
    }

    /// The lease, as the list shows its testbox.
    pub(crate) fn lease(&self, lease: &LeaseId, row: Option<&Row>) -> Lease {
        let (status, note) = match row.map(Row::state) {
            None | Some(State::Ready) => ("ready", None),
            Some(State::Queued) => ("leased", Some(QUEUED)),
            Some(State::Hydrating) => ("leased", None),
            Some(State::Failed) => ("failed", None),
            Some(State::Gone) => ("released", None),
        };
        let own = [("crabbox", "true"), ("lease", lease.as_str()), ("slug", &*self.slug)];
        let own = own.into_iter().chain(note.map(|note| ("note", note)));
        let own = own.chain(row.map(|row| ("testbox_created", &*row.created)));
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Lease {
            lease_id: lease.clone(),
            slug: self.slug.clone(),
            name: self.name.clone(),
            cloud_id: self.id.clone().unwrap_or_default(),
            status: status.to_owned(),
            server_type: String::new(),
            labels: own.chain(self.labels.clone()).collect(),
            work_root: None,
            ssh: None,
        }
    }
}

fn canonical(id: &str) -> Option<LeaseId> {
    LeaseId::parse(id).filter(LeaseId::is_canonical)
}

/// What to do about a testbox that does not begin.
pub(crate) const QUEUED: &str = "it is queued: the workflow's run has not begun; if that lasts, look at the repository's Actions page for an approval or a concurrency group it waits for, and at Blacksmith's dashboard and status page for limits or an outage; `crabbox stop` gives it up";

/// What the trail remembers of a testbox.
pub(crate) fn resource(id: &str) -> Resource {
    let (kind, cloud_id) = ("testbox".to_owned(), id.to_owned());
    Resource { kind, cloud_id, region: None, billable: true }
}
