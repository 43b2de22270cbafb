//! Keeps a lease alive while work goes on.

use std::time::Duration;

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::Lease;

use crate::error::KernelError;
use crate::ports::{Clock, Provider};

/// How often to touch a lease: a third of its idle limit, between 5 seconds and a minute.
pub fn interval(idle_timeout: Duration) -> Duration {
    (idle_timeout / 3).clamp(FIRST, Duration::from_secs(60))
}

/// Before the second touch; doubles up to the interval. A box that dies young is missed soon.
const FIRST: Duration = Duration::from_secs(5);

/// Touches the lease until dropped. Returns only when the provider says that it no longer exists, or that it
/// failed.
pub async fn keep_alive(
    provider: &impl Provider,
    clock: &impl Clock,
    lease: &Lease,
    idle_timeout: Duration,
) -> KernelError {
    let mut pause = FIRST;
    loop {
        match provider.touch(lease, "running").await {
            Ok(now) if matches!(&*now.status, "failed" | "released" | "expired") => {
                return KernelError::new(
                    ErrorCode::LeaseExpired,
                    format!("lease {} is {} while it is in use", lease.lease_id, now.status),
                )
                .hint("lease a new box");
            }
            Ok(_) => {}
            Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::LeaseExpired) => {
                return KernelError::new(
                    ErrorCode::LeaseExpired,
                    format!("lease {} ended while it was in use", lease.lease_id),
                )
                .because(&error)
                .hint("lease a new box; a longer --ttl or --idle-timeout keeps it longer");
            }
            Err(error) => {
                tracing::warn!(lease.id = %lease.lease_id, %error, "could not touch the lease")
            }
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(interval(idle_timeout));
    }
}
