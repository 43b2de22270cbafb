//! Doing something again that failed for reasons that pass.

use std::time::Duration;

use crabbox_schemas::error::{ErrorKind, Outcome};

use crate::{Call, Failure, Woken};

/// How often something is done again, and how long all waits in between may be together.
const AGAIN: u32 = 3;
const LONGEST: Duration = Duration::from_secs(30);

/// Whether something may be done again when nobody knows what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It reads, or does the same again.
    Safe,
    /// Only when it surely was not done.
    Never,
}

impl Call {
    /// Does something, and up to three times again while it fails for reasons that pass: the service asks to slow down,
    /// which it is, or has a passing fault. A cancel ends it, and so does a wait of more than 30 s in all.
    pub fn steadily<T>(
        &self,
        repeat: Repeat,
        once: impl Fn() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (mut turn, mut waited) = (0, Duration::ZERO);
        loop {
            let failure = match once() {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let data = failure.data();
            let undone = data.outcome == Some(Outcome::NotStarted);
            let passes = match failure.kind() {
                ErrorKind::RateLimited => true,
                ErrorKind::Transient => undone || repeat == Repeat::Safe,
                _ => false,
            };
            let asked = data.retry_after_ms.map(Duration::from_millis);
            let wait = asked.unwrap_or(Duration::from_secs(1 << turn));
            waited += wait;
            let long = waited > LONGEST || wait >= self.time_left();
            if !passes || turn >= AGAIN || long || self.sleep(wait)? == Woken::Cancel {
                return Err(failure);
            }
            turn += 1;
        }
    }
}
