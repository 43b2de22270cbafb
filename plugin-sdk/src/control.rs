//! What the kernel can change about an open call: cancel it, and grant it bytes of output.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crabbox_wire::Credit;

/// Locks even when another thread panicked while it held the lock: the data is plain counters.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One open call as the reader thread sees it.
#[derive(Debug)]
pub(crate) struct Control {
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

#[derive(Debug)]
struct Wishes {
    /// Set by a cancel: when the clean-up must be over.
    stop_by: Option<Instant>,
    credit: Credit,
}

impl Control {
    pub(crate) fn new(window: u64) -> Self {
        let wishes = Wishes { stop_by: None, credit: Credit::new(window) };
        Self { wishes: Mutex::new(wishes), changed: Condvar::new() }
    }

    /// Asks the call to stop; a second wish can only shorten the time.
    pub(crate) fn cancel(&self, grace: Duration) {
        let mut wishes = lock(&self.wishes);
        let by = Instant::now() + grace;
        wishes.stop_by = Some(wishes.stop_by.map_or(by, |old| old.min(by)));
        self.changed.notify_all();
    }

    /// When the clean-up must be over, once the call is cancelled.
    pub(crate) fn cancelled(&self) -> Option<Instant> {
        lock(&self.wishes).stop_by
    }

    pub(crate) fn grant(&self, bytes: u64) {
        let mut wishes = lock(&self.wishes);
        wishes.credit.grant(bytes);
        self.changed.notify_all();
    }

    /// Waits until a chunk of output may be sent and takes its bytes. False means that the call was
    /// cancelled, or that `until` passed, while there was no credit.
    pub(crate) fn take(&self, bytes: usize, until: Instant) -> bool {
        let mut wishes = lock(&self.wishes);
        while !wishes.credit.may_send() {
            let left = until.saturating_duration_since(Instant::now());
            if wishes.stop_by.is_some() || left.is_zero() {
                return false;
            }
            wishes =
                self.changed.wait_timeout(wishes, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        wishes.credit.take(bytes as u64)
    }
}
