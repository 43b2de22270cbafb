//! What the kernel can change about an open call: cancel it, and grant it bytes of output.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    /// Bytes of output that may be sent now.
    credit: u64,
}

impl Control {
    pub(crate) fn new(credit: u64) -> Self {
        Self { wishes: Mutex::new(Wishes { stop_by: None, credit }), changed: Condvar::new() }
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
        wishes.credit = wishes.credit.saturating_add(bytes);
        self.changed.notify_all();
    }

    /// Takes up to `wanted` bytes of credit, waiting for the first. Zero means that the call was
    /// cancelled, or that `until` passed, while there was none.
    pub(crate) fn take(&self, wanted: usize, until: Instant) -> usize {
        let mut wishes = lock(&self.wishes);
        loop {
            let taken = wanted.min(usize::try_from(wishes.credit).unwrap_or(usize::MAX));
            if taken > 0 {
                wishes.credit -= taken as u64;
                return taken;
            }
            let left = until.saturating_duration_since(Instant::now());
            if wishes.stop_by.is_some() || left.is_zero() {
                return 0;
            }
            wishes =
                self.changed.wait_timeout(wishes, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
