//! Why a box died, as far as its provider can say: asked once, before the box is given back, and never waited for long.

use std::time::Duration;

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::Lease;

use crate::error::KernelError;
use crate::event::Event;
use crate::lease::Bench;
use crate::ports::{Clock, EventSink, Provider};

/// How long the provider may take to say.
const LIMIT: Duration = Duration::from_secs(10);
/// Most characters of what it says that are kept.
const MOST: usize = 500;

/// Whether an error looks like the end of a box.
pub fn is_of_a_dead_box(error: &KernelError) -> bool {
    matches!(
        error.code,
        ErrorCode::ConnectionLost
            | ErrorCode::LeaseExpired
            | ErrorCode::Bootstrap
            | ErrorCode::SshTcp
            | ErrorCode::SshBanner
    )
}

/// Asks the provider what became of the box, and tells.
pub async fn ask<P: Provider, D, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    lease: &Lease,
    events: &mut dyn EventSink,
) {
    let said = tokio::select! {
        said = bench.provider.evidence(lease) => said,
        () = bench.clock.sleep(LIMIT) => return,
    };
    match said {
        Ok(Some(said)) => {
            let line = said.message.split_whitespace().collect::<Vec<_>>().join(" ");
            let message = line.chars().take(MOST).collect();
            let cause = said.cause.chars().take(MOST).collect();
            let provider = bench.provider.about().provider.clone();
            events.emit(Event::Evidence { provider, cause, message });
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "the provider cannot say why the box died"),
    }
}
