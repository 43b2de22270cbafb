//! Which machine is meant, and what all of them are.

use super::machine::Reached;
use super::{At, Cloud, Extra, Machine, Phase, is_of};
use crate::{
    Call, Failure, Lease, LeaseId, ListParams, ListResult, Purpose, ResolveParams, TouchParams,
    every_page, touched_labels,
};

/// Looks a box up. Where only an extra of a lease is left, that is what is found to be given back.
pub(super) fn resolve<C: Cloud>(
    cloud: &C,
    call: &Call,
    params: ResolveParams,
) -> Result<Lease, Failure> {
    let (id, lease) = (&params.id, LeaseId::parse(&params.id).filter(LeaseId::is_canonical));
    let places = cloud.places(&likely(cloud, &params));
    let found = match &lease {
        Some(lease) => of_lease(cloud, call, lease, &places, &params)?,
        None => named(cloud, call, id, &places)?,
    };
    let found = match found {
        Some(machine) if !C::LISTS_ALL => {
            let at = At { call, place: &machine.place };
            cloud.machine(at, &machine.id)?.map(|(machine, _)| machine)
        }
        found => found,
    };
    if let Some(machine) = found {
        if params.purpose == Purpose::Use && !machine.is_up() {
            let what =
                format!("{} {} of {id} is {}", C::MACHINE, machine.short_id(), machine.state);
            return Err(Failure::expired(what)
                .hint("stop it, and take a new one: it costs money as long as it is there"));
        }
        return machine.leased(&Reached::Known(params.known.as_ref()));
    }
    if let Some(lease) = lease
        && matches!(params.purpose, Purpose::Reconcile | Purpose::Release)
        && let Some(extra) = extra_of(cloud, call, &lease, &places)?
    {
        return Ok(extra.lease(&lease));
    }
    Err(Failure::not_found(format!("no {} {id}", C::MACHINE)))
}

fn of_lease<C: Cloud>(
    cloud: &C,
    call: &Call,
    id: &LeaseId,
    places: &[&str],
    params: &ResolveParams,
) -> Result<Option<Machine>, Failure> {
    for &place in places {
        let found = cloud.machines_of(At { call, place }, id)?;
        if let Some(machine) = found.into_iter().find(|one| one.is_of(id)) {
            return Ok(Some(machine));
        }
    }
    // A listing may lag behind; what was recorded is asked for by its id.
    let recorded = params.resources.iter().filter(|resource| resource.kind == C::MACHINE);
    for resource in recorded {
        let place = resource.region.as_deref().or(places.first().copied()).unwrap_or_default();
        let found = cloud.machine(At { call, place }, &resource.cloud_id)?;
        if let Some((machine, _)) = found
            && machine.is_of(id)
            && machine.phase != Phase::Leaving
        {
            return Ok(Some(machine));
        }
    }
    Ok(None)
}

/// The machine a name means, among those that are ours.
fn named<C: Cloud>(
    cloud: &C,
    call: &Call,
    name: &str,
    places: &[&str],
) -> Result<Option<Machine>, Failure> {
    for &place in places {
        let all = every_page(|cursor: Option<&String>| {
            cloud.page(At { call, place }, cursor.map(String::as_str))
        });
        if let Some(found) = all?.into_iter().find(|one| one.answers_to(name)) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn extra_of<C: Cloud>(
    cloud: &C,
    call: &Call,
    id: &LeaseId,
    places: &[&str],
) -> Result<Option<Extra>, Failure> {
    for &place in places {
        let found = cloud.extras_of(At { call, place }, id)?;
        if let Some(extra) = found.into_iter().find(|extra| is_of(&extra.labels, id)) {
            return Ok(Some(extra));
        }
    }
    Ok(None)
}

/// The machine of a lease by the service's id, where the lease says that it is; an error when it is another's.
pub(super) fn owned<C: Cloud>(
    cloud: &C,
    call: &Call,
    lease: &Lease,
    id: &LeaseId,
) -> Result<Option<(Machine, Option<u64>)>, Failure> {
    for place in cloud.places(&places_of(cloud, lease)) {
        let Some((machine, now)) = cloud.machine(At { call, place }, &lease.cloud_id)? else {
            continue;
        };
        if !machine.is_of(id) {
            let what = format!("{} {} is not the one of {id}", C::MACHINE, machine.short_id());
            return Err(Failure::precondition(what));
        }
        return Ok(Some((machine, now)));
    }
    Ok(None)
}

/// One page of all boxes, place after place.
pub(super) fn list<C: Cloud>(
    cloud: &C,
    call: &Call,
    params: ListParams,
) -> Result<ListResult, Failure> {
    let places = cloud.places(&[]);
    let cursor = params.cursor.as_deref().unwrap_or_default();
    let first = places.first().copied().unwrap_or_default();
    let (place, token) = cursor.split_once(' ').unwrap_or((first, ""));
    let token = Some(token).filter(|token| !token.is_empty());
    let (all, next) = cloud.page(At { call, place }, token)?;
    let mut leases: Vec<Lease> = Vec::new();
    for lease in all.iter().filter_map(|one| one.lease(&Reached::Known(None))) {
        // Where a machine and what is left of one are listed, the first one counts.
        if leases.iter().all(|known| known.lease_id != lease.lease_id) {
            leases.push(lease);
        }
    }
    let after = places.iter().skip_while(|one| **one != place).nth(1);
    let next_cursor = match next {
        Some(token) => Some(format!("{place} {token}")),
        None => after.map(|place| format!("{place} ")),
    };
    Ok(ListResult { leases, next_cursor, complete: true })
}

/// Notes at a box that it is in use, by the service's own clock.
pub(super) fn touch<C: Cloud>(
    cloud: &C,
    call: &Call,
    params: TouchParams,
) -> Result<Lease, Failure> {
    let known = &params.lease;
    let gone = || Failure::not_found(format!("no {} of {}", C::MACHINE, known.lease_id));
    let (machine, now) = owned(cloud, call, known, &known.lease_id)?.ok_or_else(gone)?;
    let labels = touched_labels(&machine.labels, &params.state, now);
    cloud.label(At { call, place: &machine.place }, &machine, &labels)?;
    Machine { labels, ..machine }.leased(&Reached::Known(Some(known)))
}

/// Places that what is known of a lease names.
fn likely<'a, C: Cloud>(cloud: &C, params: &'a ResolveParams) -> Vec<&'a str> {
    let recorded = params.resources.iter().flat_map(|resource| {
        cloud.place_of(&resource.cloud_id).into_iter().chain(resource.region.as_deref())
    });
    params.known.iter().flat_map(|known| places_of(cloud, known)).chain(recorded).collect()
}

pub(super) fn places_of<'a, C: Cloud>(cloud: &C, lease: &'a Lease) -> Vec<&'a str> {
    let region = lease.labels.get("region").map(String::as_str);
    cloud.place_of(&lease.cloud_id).into_iter().chain(region).collect()
}
