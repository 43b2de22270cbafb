//! Sandboxes of a service that runs commands itself. Each has a name that is known before it is made, which holds the
//! id of its lease: whatever happens, the name leads to it.
//!
//! A provider says in [`Sandboxes`] how its service is asked; how a sandbox is made, found and given back is here.

use std::time::Duration;

use crate::{
    Attempt, Call, Desired, ErrorKind, Failure, Lease, LeaseId, ListResult, Outcome, Progress,
    Purpose, ReleaseOutcome, ReleaseParams, ResolveParams, Resource, Woken,
};

/// How often a sandbox that comes or goes is looked at.
const POLL: Duration = Duration::from_secs(1);
/// Looks at one that was deleted before it is left to its service.
const WATCHED: u32 = 60;
/// Longest name that is asked for.
const NAME: usize = 63;

/// How far a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being made, or started.
    Coming,
    /// Commands can be run in it.
    Ready,
    /// It can be started again.
    Asleep,
    /// It never will be ready.
    Failed,
    /// Being deleted: until it is gone it may cost money.
    Leaving,
    /// There is none any more.
    Gone,
}

impl State {
    /// A lease's word for it.
    pub fn status(self) -> &'static str {
        match self {
            Self::Coming => "leased",
            Self::Ready => "ready",
            Self::Asleep => "paused",
            Self::Failed => "failed",
            Self::Leaving | Self::Gone => "released",
        }
    }
}

/// A service's sandboxes, as one call sees them.
pub trait Sandboxes {
    /// One of them.
    type Sandbox;
    /// The service's name, for messages.
    const SERVICE: &'static str;

    /// The call.
    fn call(&self) -> &Call;

    /// A sandbox by its name or id; none when the service says that there is none.
    fn find(&self, name: &str) -> Result<Option<Self::Sandbox>, Failure>;

    /// All our sandboxes, and whether none can be missing.
    fn all(&self) -> Result<(Vec<Self::Sandbox>, bool), Failure>;

    /// Deletes one.
    fn delete(&self, name: &str) -> Result<(), Failure>;

    /// The lease it belongs to; none when it is not ours.
    fn lease(&self, sandbox: &Self::Sandbox) -> Option<Lease>;

    /// Whether it was made for this lease.
    fn is_of(&self, sandbox: &Self::Sandbox, id: &LeaseId) -> bool;

    /// How far it is.
    fn state(&self, sandbox: &Self::Sandbox) -> State;

    /// The same in the service's words, and why where it says so.
    fn word<'a>(&self, sandbox: &'a Self::Sandbox) -> (&'a str, Option<&'a str>);

    /// Drops what was kept here for a lease that nothing is left of.
    fn dropped(&self, _id: &LeaseId) {}
}

/// The name of a lease's sandbox: the machine's name and the lease's id, so that no other has it.
pub fn name_of(desired: &Desired) -> Result<String, Failure> {
    let name = named(&desired.name, &desired.lease_id);
    match name.len() {
        ..=NAME => Ok(name),
        _ => {
            let what = format!("{name} is no name for a sandbox: {NAME} characters at most");
            Err(Failure::invalid_request(what).hint("choose a shorter --slug"))
        }
    }
}

fn named(machine: &str, id: &LeaseId) -> String {
    format!("{machine}-{}", id.as_str().trim_start_matches("cbx_"))
}

/// A name as a part of a path. Names and ids of ours need no escape; others are asked for only as they were recorded.
pub fn in_path(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect()
}

/// What the trail remembers of a sandbox: its name.
pub fn resource(name: &str) -> Resource {
    let (kind, cloud_id) = ("sandbox".to_owned(), name.to_owned());
    Resource { kind, cloud_id, region: None, billable: true }
}

/// Another lease's sandbox is asked for.
pub fn foreign(name: &str, id: &LeaseId) -> Failure {
    Failure::precondition(format!("{name:?} is not the sandbox of {id}; nothing was touched"))
}

/// The sandbox of a lease; an error when what is there by that name is another's.
pub fn own<S: Sandboxes>(all: &S, name: &str, id: &LeaseId) -> Result<Option<S::Sandbox>, Failure> {
    let Some(found) = all.find(name)? else { return Ok(None) };
    if all.is_of(&found, id) { Ok(Some(found)) } else { Err(foreign(name, id)) }
}

/// The same where the lease says that there is one.
pub fn standing<S: Sandboxes>(all: &S, lease: &Lease) -> Result<S::Sandbox, Failure> {
    let name = &lease.cloud_id;
    let found = own(all, name, &lease.lease_id)?;
    found.ok_or_else(|| Failure::expired(format!("sandbox {name} is gone")))
}

/// Makes the sandbox of a lease and waits until commands can be run in it. `ask` asks for it; one that exists already is
/// the one, since its name holds the lease's id. `tried` is what is told of a try that failed.
pub fn make<S: Sandboxes>(
    all: &S,
    name: &str,
    id: &LeaseId,
    tried: Attempt<'_>,
    ask: impl FnOnce() -> Result<(), Failure>,
) -> Result<S::Sandbox, Failure> {
    all.call().record(&resource(name))?;
    if let Err(failure) = ask() {
        let (category, message) = (Some(failure.kind()), failure.message());
        all.call().attempt(&Attempt { category, message, ..tried });
        asked_in_vain(all, name, id, failure)?;
    }
    awaited(all, name, id).map_err(|failure| undone(all, name, id, failure))
}

/// Whether it may have been made all the same.
fn asked_in_vain<S: Sandboxes>(
    all: &S,
    name: &str,
    id: &LeaseId,
    failure: Failure,
) -> Result<(), Failure> {
    let never = failure.data().outcome == Some(Outcome::NotStarted);
    let unsure = !never && (failure.is_lost() || failure.kind() == ErrorKind::Cancelled);
    let there = match unsure || failure.kind() == ErrorKind::Conflict {
        true => own(all, name, id),
        false => Ok(None),
    };
    match there {
        Ok(Some(_)) if failure.kind() == ErrorKind::Cancelled => {
            Err(undone(all, name, id, failure))
        }
        Ok(Some(_)) => Ok(()),
        // What was refused outright was not made.
        Ok(None) if !unsure => {
            forget(all, name, id);
            Err(failure.outcome(Outcome::NotStarted))
        }
        _ => Err(failure.outcome(Outcome::Uncertain).left_behind(resource(name))),
    }
}

/// Waits until commands can be run in it.
pub fn awaited<S: Sandboxes>(all: &S, name: &str, id: &LeaseId) -> Result<S::Sandbox, Failure> {
    loop {
        all.call().check()?;
        let sandbox = own(all, name, id)?.ok_or_else(|| {
            Failure::bootstrap(format!("the sandbox {name} went away while it was made"))
        })?;
        let (word, why) = all.word(&sandbox);
        match all.state(&sandbox) {
            State::Ready => return Ok(sandbox),
            State::Coming => {}
            // It can only be woken when it sleeps.
            State::Asleep if word.ends_with("ing") => {}
            _ => {
                let why = why.unwrap_or("it does not say why");
                let what = format!("{} says {name} is {word}: {why}", S::SERVICE);
                return Err(Failure::bootstrap(what));
            }
        }
        all.call().progress(&Progress { phase: word, ..Progress::default() });
        all.call().sleep(POLL)?;
    }
}

/// Takes back what was begun; only then it says so.
fn undone<S: Sandboxes>(all: &S, name: &str, id: &LeaseId, failure: Failure) -> Failure {
    match remove(all, name, name, id) {
        Ok(ReleaseOutcome::Released | ReleaseOutcome::AlreadyGone) => {
            failure.outcome(Outcome::RolledBack)
        }
        Ok(_) | Err(_) => failure.outcome(Outcome::Uncertain).left_behind(resource(name)),
    }
}

/// Gives a sandbox back; what is labelled for another lease is not touched.
pub fn stop<S: Sandboxes>(all: &S, params: &ReleaseParams) -> Result<ReleaseOutcome, Failure> {
    let (lease, expected) = (&params.lease, &params.expected);
    let id = expected.cloud_id.as_deref().unwrap_or(&lease.cloud_id);
    if lease.lease_id != expected.lease_id || id.is_empty() {
        return Err(foreign(id, &expected.lease_id));
    }
    if all.call().dry_run() && own(all, id, &expected.lease_id)?.is_some() {
        return Ok(ReleaseOutcome::Retained);
    }
    remove(all, id, &named(&lease.name, &lease.lease_id), &expected.lease_id)
}

/// Deletes a sandbox that is ours, by its id or name, and watches until it is gone.
fn remove<S: Sandboxes>(
    all: &S,
    at: &str,
    name: &str,
    id: &LeaseId,
) -> Result<ReleaseOutcome, Failure> {
    if own(all, at, id)?.is_none() {
        forget(all, name, id);
        return Ok(ReleaseOutcome::AlreadyGone);
    }
    match all.delete(at) {
        Err(failure) if !matches!(failure.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => {
            return Err(failure);
        }
        _ => {}
    }
    for _ in 0..WATCHED {
        if all.find(at)?.is_none() {
            forget(all, name, id);
            return Ok(ReleaseOutcome::Released);
        }
        if all.call().sleep(POLL)? == Woken::Cancel {
            break;
        }
    }
    Ok(ReleaseOutcome::Pending)
}

/// Nothing is left to be found.
fn forget<S: Sandboxes>(all: &S, name: &str, id: &LeaseId) {
    // A trail that still names it leads to nothing, which is no harm.
    let _ = all.call().forget(&resource(name));
    all.dropped(id);
}

/// Looks a sandbox up: by what is known and recorded of it, then among all of ours. Only a complete list proves that
/// something is not there.
pub fn status<S: Sandboxes>(all: &S, params: &ResolveParams) -> Result<Lease, Failure> {
    let known = params.known.iter().map(|known| &known.cloud_id);
    let noted = params.resources.iter().map(|resource| &resource.cloud_id);
    for name in known.chain(noted).filter(|name| !name.is_empty()) {
        if let Some(lease) = all.find(name)?.and_then(|found| all.lease(&found)) {
            return Ok(lease);
        }
    }
    let id = &params.id;
    let absent = || Failure::not_found(format!("{} has no sandbox {id}", S::SERVICE));
    if params.known.is_some() && params.purpose != Purpose::Reconcile {
        return Err(absent());
    }
    let ListResult { leases, complete, .. } = list(all)?;
    let means =
        |one: &Lease| [one.lease_id.as_str(), &one.slug, &one.name, &one.cloud_id].contains(&&**id);
    match leases.into_iter().find(means) {
        None if !complete => {
            let what = format!("{id} was not seen, but the list of sandboxes is not whole");
            Err(Failure::transient(what).hint("try again"))
        }
        found => found.ok_or_else(absent),
    }
}

/// All our sandboxes.
pub fn list<S: Sandboxes>(all: &S) -> Result<ListResult, Failure> {
    let (ours, complete) = all.all()?;
    let leases = ours.iter().filter_map(|one| all.lease(one)).collect();
    Ok(ListResult { leases, next_cursor: None, complete })
}
