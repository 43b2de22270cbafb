//! Ctrl-C, SIGTERM and SIGHUP as the kernel's wish to stop: the first is gentle, the second is now.

use crabbox_kernel::ports::{Stop, Urgency};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Watches the process's signals for as long as the runtime lives.
pub(crate) fn watch() -> std::io::Result<(Wish, Stop)> {
    let (wish, stop) = Stop::new();
    let wish = Arc::new(wish);
    let ours = Wish(Arc::clone(&wish));
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
    Ok((ours, stop))
}

/// Raises the wish to stop for reasons other than a signal.
#[derive(Debug)]
pub(crate) struct Wish(Arc<watch::Sender<Urgency>>);

impl Wish {
    /// As one Ctrl-C would, unless there was one.
    pub(crate) fn gently(&self) {
        self.0.send_modify(|now| *now = (*now).max(Urgency::Gentle));
    }
}
