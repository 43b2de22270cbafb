//! What is known of a box beyond its labels, which cannot change: its host key, its port, its last use.
//!
//! What ends the box is a file inside it. This is the same for people who look: kept on this machine, asked of the
//! box again when it is lost.

use std::time::Duration;

use crabbox_plugin_sdk::{Call, Failure};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::engine::{Container, Engine, SERVER};

/// How long a box may take to start, or to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long notes of a box without an end are kept.
const LONGEST: u64 = 365 * 24 * 3600;

/// What is noted of one box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Notes {
    pub(crate) host_key: String,
    pub(crate) user: String,
    /// Where it listens when that is not published by the runtime.
    #[serde(default)]
    pub(crate) port: Option<u16>,
    #[serde(default)]
    pub(crate) last_touched_at: u64,
    #[serde(default = "ready")]
    pub(crate) state: String,
}

fn ready() -> String {
    "ready".to_owned()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or_default()
}

fn key(lease_id: &str) -> String {
    format!("box/{lease_id}")
}

/// The notes that are kept here.
pub(crate) fn kept(call: &Call, lease_id: &str) -> Result<Option<Notes>, Failure> {
    let text = call.kv_get(&key(lease_id))?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// The notes kept here, else what the box says of itself; nothing when it says nothing.
pub(crate) fn seen(
    call: &Call,
    engine: Engine,
    found: &Container,
) -> Result<Option<Notes>, Failure> {
    let notes = kept(call, found.label("lease"))?;
    Ok(notes.or_else(|| ask(call, engine, found).ok()))
}

/// Asks the box, which answers once it listens, and keeps what it says.
pub(crate) fn ask(call: &Call, engine: Engine, found: &Container) -> Result<Notes, Failure> {
    let said = engine.ask(call, &["exec", &found.id, SERVER, "--facts"], ANSWER)?;
    if said.exit_code != 0 {
        let reason = said.stderr.trim().trim_start_matches("crabbox: ").to_owned();
        return Err(
            Failure::bootstrap("the box did not start").because(&std::io::Error::other(reason))
        );
    }
    let mut notes: Notes = serde_json::from_str(said.stdout.trim()).map_err(|error| {
        Failure::bootstrap("what the box says of itself cannot be read").because(&error)
    })?;
    notes.last_touched_at = now();
    keep(call, found, &notes)?;
    Ok(notes)
}

/// Notes a use, in the box first: that is what keeps it.
pub(crate) fn touch(
    call: &Call,
    engine: Engine,
    found: &Container,
    state: &str,
) -> Result<Notes, Failure> {
    let args = ["exec", &found.id, SERVER, "--touch"];
    engine.must(call, "note the use of the box", &args, ANSWER)?;
    let notes = seen(call, engine, found)?;
    let notes = notes.ok_or_else(|| Failure::transient("the box does not say what it is"))?;
    let notes = Notes { last_touched_at: now(), state: state.to_owned(), ..notes };
    keep(call, found, &notes)?;
    Ok(notes)
}

fn keep(call: &Call, found: &Container, notes: &Notes) -> Result<(), Failure> {
    let ttl = found.label("ttl_secs").parse().ok().filter(|secs| *secs > 0).unwrap_or(LONGEST);
    let text = serde_json::to_string(notes)
        .map_err(|error| Failure::internal("cannot write notes").because(&error))?;
    call.kv_put(&key(found.label("lease")), &text, Some(Duration::from_secs(ttl)))
}

/// Forgets them; they end by themselves too.
pub(crate) fn drop(call: &Call, lease_id: &str) {
    let _ = call.kv_delete(&key(lease_id));
}
