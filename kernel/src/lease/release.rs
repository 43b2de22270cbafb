//! The end of a lease: given back, or kept on purpose. Every step can be repeated.

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::journal::TrailLine;
use crabbox_schemas::lease::{Lease, ReleaseOutcome};

use crate::error::Result;
use crate::event::Event;
use crate::lease::trail::Trail;
use crate::lease::{Bench, Fate, Held};
use crate::ports::{Clock, Dialer, EventSink, Provider};
use crate::sync::known;
use crate::time::rfc3339;

/// Gives a box back and forgets it. The claim, the keys and the trail go only when the provider is certain.
pub async fn release<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    lease: &Lease,
    mut trail: Option<Trail>,
) -> Result<ReleaseOutcome> {
    if let Some(trail) = trail.as_mut() {
        let noted = trail.append(TrailLine::Releasing { at: rfc3339(bench.clock.now_ms()) });
        if let Err(error) = noted {
            tracing::warn!(%error, "releasing without a note; the intent still stands");
        }
    }
    let outcome = match bench.provider.release(lease).await {
        Ok(outcome) => outcome,
        Err(error) if error.code == ErrorCode::NotFound => ReleaseOutcome::AlreadyGone,
        Err(error) => return Err(error.at("release")),
    };
    if outcome != ReleaseOutcome::Pending {
        forget(bench, lease, trail)?;
    }
    Ok(outcome)
}

/// Removes every local trace of a lease that is gone.
pub fn forget<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    lease: &Lease,
    trail: Option<Trail>,
) -> Result<()> {
    bench.claims().remove(&lease.lease_id)?;
    if lease.lease_id.is_canonical() {
        let _ = std::fs::remove_dir_all(bench.state.keys(&lease.lease_id));
    }
    known::forget(bench.state, &lease.lease_id);
    let _ = std::fs::remove_file(bench.state.locks().join(lease.lease_id.as_str()));
    match trail {
        Some(trail) => trail.finish(),
        None => Trail::remove(&bench.state.journal(), &lease.lease_id),
    }
}

/// The bracket's end for a box that goes back.
pub(super) async fn give_back<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    held: Held,
    events: &mut dyn EventSink,
) -> Fate {
    if taken_over(bench, &held) {
        let reason = "another command uses it now".to_owned();
        events.emit(Event::Kept { lease: held.lease, reason });
        return Fate::Kept;
    }
    match release(bench, &held.lease, held.trail).await {
        Ok(outcome) => {
            events.emit(Event::Released {
                lease: held.lease,
                provider: held.provider,
                outcome: word(outcome).into(),
            });
            Fate::Released
        }
        Err(error) => {
            events.emit(Event::Warning {
                message: format!(
                    "could not release {}: {error}; run `crabbox cleanup`",
                    held.lease.slug
                ),
            });
            Fate::Stuck
        }
    }
}

/// Whether a box that is no lease of ours alone, such as a host the user owns, was claimed by another command
/// meanwhile.
fn taken_over<P: Provider, D: Dialer, C: Clock>(bench: &Bench<'_, P, D, C>, held: &Held) -> bool {
    let claimed = || bench.claims().get(&held.lease.lease_id).ok().flatten();
    held.trail.is_none() && claimed().is_some_and(|claim| claim != held.claim)
}

/// The bracket's end for a box that stays. Without a claim it was stopped by another command meanwhile.
pub(super) async fn keep<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    mut held: Held,
    reason: String,
    events: &mut dyn EventSink,
) -> Fate {
    let at = rfc3339(bench.clock.now_ms());
    let noted = held
        .trail
        .as_mut()
        .map_or(Ok(()), |trail| trail.append(TrailLine::Kept { at: at.clone() }));
    let noted = match bench.claims().get(&held.lease.lease_id) {
        Ok(None) => {
            let outcome = word(ReleaseOutcome::AlreadyGone).to_owned();
            events.emit(Event::Released { lease: held.lease, provider: held.provider, outcome });
            return Fate::Released;
        }
        Ok(Some(mut claim)) => {
            claim.keep = true;
            claim.last_used_at = at;
            noted.and_then(|()| bench.claims().put(&claim))
        }
        Err(error) => Err(error),
    };
    if let Err(error) = noted {
        events.emit(Event::Warning { message: error.to_string() });
    }
    if let Err(error) = bench.provider.touch(&held.lease, "ready").await {
        tracing::debug!(%error, "could not touch the kept lease");
    }
    events.emit(Event::Kept { lease: held.lease, reason });
    Fate::Kept
}

/// The outcome's word in lines and JSON.
pub fn word(outcome: ReleaseOutcome) -> &'static str {
    match outcome {
        ReleaseOutcome::Released => "released",
        ReleaseOutcome::AlreadyGone => "already_gone",
        ReleaseOutcome::Pending => "pending",
        ReleaseOutcome::Retained => "retained",
    }
}
