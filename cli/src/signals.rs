//! Ctrl-C, SIGTERM and SIGHUP as the kernel's wish to stop: the first is gentle, the second is now.

use crabbox_kernel::ports::{Stop, Urgency};
use tokio::signal::unix::{SignalKind, signal};

/// Watches the process's signals for as long as the runtime lives.
pub(crate) fn watch() -> std::io::Result<Stop> {
    let (wish, stop) = Stop::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            wish.send_modify(|now| {
                *now = if *now == Urgency::None { Urgency::Gentle } else { Urgency::Now }
            });
        }
    });
    Ok(stop)
}
