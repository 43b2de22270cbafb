//! Giving back everything that was made for a lease.

use std::time::Duration;

use super::find::{owned, region_of};
use super::{At, Cloud};
use crate::{Call, Failure, LeaseId, ReleaseOutcome, ReleaseParams, Woken};

/// Between two looks whether a deleted machine is gone, and how many there are: half a minute together.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: usize = 60;

/// Gives a box back; what is labelled for another lease is not touched.
pub fn release<C: Cloud>(
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
    remove(cloud, call, &expected.lease_id, &cloud.places(&region_of(&lease)))
}

/// Removes everything that was made for a lease: place by place its machines, then, once they are gone, the rest.
pub(super) fn remove<C: Cloud>(
    cloud: &C,
    call: &Call,
    id: &LeaseId,
    places: &[&str],
) -> Result<ReleaseOutcome, Failure> {
    let mut outcome = ReleaseOutcome::AlreadyGone;
    for &place in places {
        let at = At { call, place };
        let mut all = cloud.machines_of(at, id)?;
        all.retain(|machine| machine.is_of(id));
        if !all.is_empty() {
            cloud.delete(at, &all)?;
            if !is_gone(cloud, at, id)? {
                return Ok(ReleaseOutcome::Pending);
            }
            outcome = ReleaseOutcome::Released;
        }
        if remove_extras(cloud, at, id)? {
            outcome = ReleaseOutcome::Released;
        }
        // The journal may be about another lease by now; what is gone needs no entry either way.
        all.iter().for_each(|machine| drop(call.forget(&machine.resource(C::MACHINE))));
    }
    Ok(outcome)
}

/// Removes what was made beside machines in one place; whether there was anything.
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
fn is_gone<C: Cloud>(cloud: &C, at: At<'_>, id: &LeaseId) -> Result<bool, Failure> {
    for _ in 0..LOOKS {
        if !cloud.machines_of(at, id)?.iter().any(|machine| machine.is_of(id)) {
            return Ok(true);
        }
        if at.call.sleep(LOOK)? == Woken::Cancel {
            break;
        }
    }
    Ok(false)
}
