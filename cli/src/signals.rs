//! Ctrl-C, SIGTERM and SIGHUP as the kernel's wish to stop: the first is gentle, the second is now. One that whoever
//! started us had ignored, as `nohup` does, stays ignored.

use crabbox_kernel::ports::{Stop, Urgency};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Watches the process's signals for as long as the runtime lives.
pub(crate) fn watch() -> std::io::Result<(Wish, Stop)> {
    let (wish, stop) = Stop::new();
    let wish = Arc::new(wish);
    let ignored = ignored();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        if ignored & bit(kind) == 0 {
            tokio::spawn(heed(signal(kind)?, Arc::clone(&wish)));
        }
    }
    Ok((Wish(wish), stop))
}

/// Each signal makes the wish more urgent.
async fn heed(mut signals: Signal, wish: Arc<watch::Sender<Urgency>>) {
    while signals.recv().await.is_some() {
        wish.send_modify(|now| {
            *now = if *now == Urgency::None { Urgency::Gentle } else { Urgency::Now }
        });
    }
}

/// The signals that are ignored from the start, one bit each. Asked of the system's files, where it has them: there
/// is no safe call for it.
fn ignored() -> u64 {
    let facts = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = facts.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn bit(kind: SignalKind) -> u64 {
    u32::try_from(kind.as_raw_value() - 1).map_or(0, |at| 1 << at)
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
