//! Keeps a lease alive while work goes on, and never longer than the work takes.

use std::cell::Cell;
use std::time::Duration;

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::Lease;

use crate::error::{KernelError, Result};
use crate::lease::{Bench, Held};
use crate::ports::{Clock, Dialer, Provider};
use crate::time::{parse_instant, rfc3339};

/// How often to touch a lease: a third of its idle limit, between 5 seconds and a minute.
pub fn interval(idle_timeout: Duration) -> Duration {
    (idle_timeout / 3).clamp(FIRST, Duration::from_secs(60))
}

/// Before the second touch of a new lease; doubles up to the interval. A box that dies young is missed soon.
const FIRST: Duration = Duration::from_secs(5);
/// Work that is over before this is no reason to start a plugin, unless the touch is overdue.
const BRIEF: Duration = Duration::from_secs(1);
/// How long the end of the work waits for a touch that is overdue, and for the word that the box is idle again.
const OVERDUE_LIMIT: Duration = Duration::from_secs(5);
const LAST_LIMIT: Duration = Duration::from_secs(2);

/// The heartbeat of one lease in hand.
///
/// A box used again and again by commands that are over in a moment costs no touch: one is due an interval
/// after the last, and then only for work that lasts. When half of the idle limit has passed the touch is
/// overdue: then it happens beside whatever work there is, and the work's end waits for it.
pub struct Pulse<'a, P, D, C> {
    bench: &'a Bench<'a, P, D, C>,
    held: &'a Held,
    overdue: bool,
    told_running: Cell<bool>,
}

impl<'a, P: Provider, D: Dialer, C: Clock> Pulse<'a, P, D, C> {
    /// The heartbeat of a lease, from now on.
    pub fn of(bench: &'a Bench<'a, P, D, C>, held: &'a Held) -> Self {
        let overdue = held.reused && since(bench, held) >= held.idle_timeout() / 2;
        Self { bench, held, overdue, told_running: Cell::new(false) }
    }

    /// Touches the lease until dropped. Returns only when the provider says that it no longer exists, or that
    /// it failed.
    pub async fn beat(&self) -> KernelError {
        let most = interval(self.held.idle_timeout());
        let (mut pause, mut state) = (FIRST, "running");
        if self.held.reused {
            let due = most.saturating_sub(since(self.bench, self.held)).max(BRIEF);
            self.bench.clock.sleep(if self.overdue { most } else { due }).await;
            (pause, state) = (most, "ready");
        }
        loop {
            match self.touch(std::mem::replace(&mut state, "running")).await {
                Ok(()) => {}
                Err(error) if error.code == ErrorCode::LeaseExpired => return error,
                Err(error) => tracing::warn!(%error, "could not touch the lease"),
            }
            self.bench.clock.sleep(pause).await;
            pause = (pause * 2).min(most);
        }
    }

    /// Touches the lease when that must not wait for work that lasts.
    pub async fn catch_up(&self) {
        if self.overdue {
            self.bounded("ready", OVERDUE_LIMIT).await;
        }
    }

    /// After the work: a box that was said to be running is idle again.
    pub async fn rest(&self) {
        if self.told_running.get() {
            self.bounded("ready", LAST_LIMIT).await;
        }
    }

    async fn bounded(&self, state: &str, limit: Duration) {
        let touched = tokio::select! {
            touched = self.touch(state) => touched,
            () = self.bench.clock.sleep(limit) => return,
        };
        if let Err(error) = touched {
            tracing::debug!(%error, "could not touch the lease");
        }
    }

    async fn touch(&self, state: &str) -> Result<()> {
        let lease = &self.held.lease;
        let answer = self.bench.provider.touch(lease, state).await;
        self.told_running.set(state == "running");
        match answer {
            Ok(now) if matches!(&*now.status, "failed" | "released" | "expired") => {
                Err(KernelError::new(
                    ErrorCode::LeaseExpired,
                    format!("lease {} is {} while it is in use", lease.lease_id, now.status),
                )
                .hint("lease a new box"))
            }
            Ok(_) => {
                self.note();
                Ok(())
            }
            Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::LeaseExpired) => {
                Err(ended(lease, &error))
            }
            Err(error) => Err(error),
        }
    }

    /// The claim of a box that stays says when its provider last heard of it. Another command may have stopped
    /// or reclaimed the box meanwhile: only what stands there is updated.
    fn note(&self) {
        if !self.held.reused {
            return;
        }
        let claims = self.bench.claims();
        let noted = claims.get(&self.held.lease.lease_id).and_then(|claim| {
            let Some(mut claim) = claim else { return Ok(()) };
            claim.last_used_at = rfc3339(self.bench.clock.now_ms());
            claims.put(&claim)
        });
        if let Err(error) = noted {
            tracing::warn!(%error, "could not update the claim");
        }
    }
}

fn ended(lease: &Lease, error: &KernelError) -> KernelError {
    KernelError::new(
        ErrorCode::LeaseExpired,
        format!("lease {} ended while it was in use", lease.lease_id),
    )
    .because(error)
    .hint("lease a new box; a longer --ttl or --idle-timeout keeps it longer")
}

/// How long ago the provider last heard of the lease; for ever when the clock was set back.
fn since<P: Provider, D: Dialer, C: Clock>(bench: &Bench<'_, P, D, C>, held: &Held) -> Duration {
    let last = parse_instant(&held.claim.last_used_at);
    let ago = last.and_then(|last| bench.clock.now_ms().checked_sub(last));
    ago.map_or(Duration::MAX, Duration::from_millis)
}
