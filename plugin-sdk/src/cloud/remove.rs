//! Giving back everything that was made for a lease.

use std::time::Duration;

use super::find::{owned, places_of};
use super::{At, Cloud};
use crate::{Call, ErrorKind, Failure, LeaseId, Outcome, ReleaseOutcome, ReleaseParams};

/// Between two looks whether a deleted machine is gone, and how many there are: half a minute together.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: usize = 60;

/// Gives a box back; what is labelled for another lease is not touched.
pub(super) fn release<C: Cloud>(
    cloud: &C,
    call: &Call,
    params: ReleaseParams,
) -> Result<ReleaseOutcome, Failure> {
    let (expected, mut lease) = (&params.expected, params.lease);
    lease.cloud_id = expected.cloud_id.clone().unwrap_or(lease.cloud_id);
    owned(cloud, call, &lease, &expected.lease_id)?;
    if call.dry_run() {
        return Ok(ReleaseOutcome::Retained);
    }
    remove(cloud, call, &expected.lease_id, &cloud.places(&places_of(cloud, &lease)))
}

/// Removes everything that was made for a lease: place by place its machines, then, once they are gone, the rest. Where
/// somebody is in a hurry and it still goes on, that is pending.
pub fn remove<C: Cloud>(
    cloud: &C,
    call: &Call,
    id: &LeaseId,
    places: &[&str],
) -> Result<ReleaseOutcome, Failure> {
    let mut outcome = ReleaseOutcome::AlreadyGone;
    for &place in places {
        match remove_at(cloud, At { call, place }, id) {
            Ok(true) => outcome = ReleaseOutcome::Released,
            Ok(false) => {}
            Err(failure) if failure.kind() == ErrorKind::Cancelled => {
                return Ok(ReleaseOutcome::Pending);
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(outcome)
}

/// Removes everything in one place; whether there was anything.
fn remove_at<C: Cloud>(cloud: &C, at: At<'_>, id: &LeaseId) -> Result<bool, Failure> {
    let mut all = cloud.machines_of(at, id)?;
    all.retain(|machine| machine.is_of(id));
    if !all.is_empty() {
        cloud.delete(at, &all)?;
        until_gone(cloud, at, id)?;
    }
    let extras = remove_extras(cloud, at, id)?;
    // The journal may be about another lease by now; what is gone needs no entry either way.
    all.iter().for_each(|machine| drop(at.call.forget(&machine.resource(C::MACHINE))));
    Ok(extras || !all.is_empty())
}

/// Removes what was made beside machines in one place, in the order in which it is found; whether there was anything.
pub(super) fn remove_extras<C: Cloud>(
    cloud: &C,
    at: At<'_>,
    id: &LeaseId,
) -> Result<bool, Failure> {
    // Names may be made of the id; only what is an id makes one that cannot be another's.
    if !id.is_canonical() {
        return Ok(false);
    }
    let mut all = cloud.extras_of(at, id)?;
    all.retain(|extra| super::is_of(&extra.labels, id));
    for extra in &all {
        cloud.delete_extra(at, extra)?;
        let _ = at.call.forget(&extra.resource);
    }
    Ok(!all.is_empty())
}

/// Looks until nothing is there any more. Who is in a hurry does not wait for it, and nothing is proven then.
fn until_gone<C: Cloud>(cloud: &C, at: At<'_>, id: &LeaseId) -> Result<(), Failure> {
    let look = || {
        let all = cloud.machines_of(at, id)?;
        Ok((!all.iter().any(|machine| machine.is_of(id))).then_some(()))
    };
    let late = || Failure::cancelled("it still goes on", Outcome::Uncertain);
    at.call.poll(LOOK, LOOKS, look)?.ok_or_else(late)
}
