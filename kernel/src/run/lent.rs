//! The work at a provider that runs commands itself and lets crabbox in as well: over SSH, where only what changed is
//! sent and a run outlives its connection; by the provider, where it grants no access and the run can do without.

use crabbox_schemas::run::Timing;

use crate::error::Result;
use crate::event::Event;
use crate::lease::{Bench, Held, access};
use crate::plan::Plan;
use crate::ports::{Clock, Dialer, EventSink, Provider, Stop};
use crate::run::process::Console;
use crate::run::{Ended, delegated, ssh_lease};

/// Works over SSH with access that is given back afterwards.
pub(super) async fn work<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    plan: &Plan,
    held: &Held,
    console: &mut Console,
    timing: &mut Timing,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Ended> {
    let lent = match access::lend(bench, held).await {
        Ok(lent) => lent,
        Err(error) => {
            if delegated::check(plan, &held.provider, events).is_err() {
                return Err(error);
            }
            let message = format!("{} runs the command itself: {error}", held.provider);
            events.emit(Event::Warning { message });
            return delegated::work(bench, plan, held, timing, events, stop).await;
        }
    };
    let ended = ssh_lease::work(bench, plan, &lent, console, timing, events, stop).await;
    access::give_back(bench, &lent).await;
    ended
}
