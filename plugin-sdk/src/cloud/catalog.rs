//! What can be had and for how much, and how a machine ended.

use super::find::places_of;
use super::{At, Cloud, Machine, Phase};
use crate::label::labelled;
use crate::{
    Call, CatalogParams, CatalogResult, Check, CheckStatus, EvidenceParams, EvidenceResult,
    Failure, Offer, Price, QuoteParams, QuoteResult, check,
};

/// How long a list of offers may be kept: prices change rarely, and what is free is asked for anyway.
const KEEP_MS: u64 = 3_600_000;

/// Offers, and how to ask for the next ones.
pub type Offers = (Vec<Offer>, Option<String>);

/// Machine types that can be asked for.
pub(super) fn sizes<C: Cloud>(
    cloud: &C,
    call: &Call,
    params: &CatalogParams,
) -> Result<CatalogResult, Failure> {
    let (mut offers, next_cursor) = cloud.sizes(call, params)?;
    for offer in &mut offers {
        offer.class = C::CLASSES.class_of(&offer.name).map(str::to_owned);
    }
    Ok(CatalogResult { offers, next_cursor, ttl_ms: KEEP_MS })
}

/// Regions that can be asked for.
pub(super) fn regions<C: Cloud>(cloud: &C, call: &Call) -> Result<CatalogResult, Failure> {
    Ok(CatalogResult { offers: cloud.regions(call)?, next_cursor: None, ttl_ms: KEEP_MS })
}

/// The price of the machine that would be tried first.
pub(super) fn quote<C: Cloud>(
    cloud: &C,
    call: &Call,
    params: &QuoteParams,
) -> Result<QuoteResult, Failure> {
    cloud.check(&params.request)?;
    let classes = C::classes(&params.request);
    let wanted = classes.machines(&params.request).first().copied().unwrap_or_default();
    let price = cloud.price(call, &params.request, wanted)?;
    Ok(QuoteResult { price, server_type: wanted.to_owned() })
}

/// A price of an hour, in whole units of a currency.
pub fn price(hourly: f64, currency: &str, basis: &str) -> Price {
    let (currency, basis) = (currency.to_owned(), basis.to_owned());
    Price { hourly_micros: whole(hourly * 1e6), currency, basis }
}

/// A number without its fraction; none is below nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes and prices are small and positive"
)]
pub fn whole(number: f64) -> u64 {
    number.round().max(0.0) as u64
}

/// What a processor is called.
pub fn arch(is_arm: bool) -> Option<String> {
    Some(if is_arm { "aarch64" } else { "x86_64" }.to_owned())
}

/// How a machine ended, as far as the service still knows it.
pub(super) fn evidence<C: Cloud>(
    cloud: &C,
    call: &Call,
    params: &EvidenceParams,
) -> Result<EvidenceResult, Failure> {
    let (lease, told) =
        (&params.lease, |cause: &str, message| EvidenceResult { cause: cause.to_owned(), message });
    for place in cloud.places(&places_of(cloud, lease)) {
        if let Some((machine, now)) = cloud.machine(At { call, place }, &lease.cloud_id)?
            && machine.is_of(&lease.lease_id)
        {
            let what = format!("{} {} is {}", C::MACHINE, machine.short_id(), machine.state);
            return Ok(match (machine.ended, machine.phase) {
                (Some(cause), _) => told(cause, what),
                (None, Phase::Down | Phase::Leaving) if is_over(&machine, now) => {
                    told("expired", format!("{what}: its time was over"))
                }
                (None, Phase::Leaving) => told("gone", what),
                _ => told("unknown", what),
            });
        }
    }
    let what = format!("{} {} does not exist any more", C::MACHINE, super::short(&lease.cloud_id));
    Ok(told("gone", format!("{what}{}", C::GONE)))
}

/// Whether it is past the hard end its labels tell.
fn is_over(machine: &Machine, now: Option<u64>) -> bool {
    let label = |name: &str| labelled(&machine.labels, name).parse::<u64>().ok();
    let end = label("created_at").zip(label("ttl_secs")).map(|(from, secs)| from + secs);
    end.zip(now).is_some_and(|(end, now)| end <= now)
}

/// A finding for each place the user names: whether it is among those there are. `none` says whose lack it is: `the
/// account has no region`.
pub fn check_places(
    id: &str,
    wanted: &[&str],
    known: &[Offer],
    none: &str,
    hint: &str,
) -> Vec<Check> {
    let judge = |place: &&str| match known.iter().any(|offer| offer.name == *place) {
        true => check(id, CheckStatus::Ok, *place, ""),
        false => check(id, CheckStatus::Fail, format!("{none} {place}"), hint),
    };
    wanted.iter().map(judge).collect()
}
