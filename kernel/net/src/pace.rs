//! How fast each origin is asked: a few requests at once, none while it said to wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use crabbox_schemas::error::{ErrorKind, Outcome, RpcError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::origin::Origin;

/// Requests to one origin at once.
const AT_ONCE: usize = 8;
/// Longest wait an origin may ask for.
const LONGEST: Duration = Duration::from_secs(300);
/// Origins remembered before idle ones are forgotten.
const ORIGINS: usize = 256;

/// Keeps the pace of every origin of a session.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<HashMap<Origin, Lane>>);

#[derive(Debug, Clone)]
struct Lane {
    room: Arc<Semaphore>,
    closed_until: Option<Instant>,
}

/// Leave to send one request.
pub(crate) type Turn = OwnedSemaphorePermit;

impl Pace {
    /// Waits for leave to ask. Refuses at once when the wait would outlast the request.
    pub(crate) async fn turn(&self, origin: &Origin, deadline: Instant) -> Result<Turn, RpcError> {
        let room = Arc::clone(&self.lane(origin).room);
        let turn = timeout_at(deadline, room.acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            let message = format!("too many requests to {origin} are under way");
            return Err(refused(message, None));
        };
        // The origin may ask for more time while we wait; a bound, since each answer can do so once.
        for _ in 0..AT_ONCE {
            let now = Instant::now();
            let Some(until) = self.lane(origin).closed_until.filter(|until| *until > now) else {
                break;
            };
            if until > deadline {
                let left = until - now;
                let message = format!("{origin} asked to wait another {} s", left.as_secs() + 1);
                return Err(refused(message, Some(left)));
            }
            sleep_until(until).await;
        }
        Ok(turn)
    }

    /// The origin asked for a pause.
    pub(crate) fn pause(&self, origin: &Origin, time: Duration) {
        let until = Instant::now() + time.min(LONGEST);
        let mut lanes = self.lanes();
        if let Some(lane) = lanes.get_mut(origin) {
            lane.closed_until = Some(lane.closed_until.map_or(until, |old| old.max(until)));
        }
    }

    fn lane(&self, origin: &Origin) -> Lane {
        let mut lanes = self.lanes();
        if lanes.len() >= ORIGINS && !lanes.contains_key(origin) {
            lanes.retain(|_, lane| Arc::strong_count(&lane.room) > 1);
        }
        let fresh = || Lane { room: Arc::new(Semaphore::new(AT_ONCE)), closed_until: None };
        lanes.entry(origin.clone()).or_insert_with(fresh).clone()
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Origin, Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wait a `Retry-After` names: seconds, or a date seen from `now`.
pub(crate) fn retry_after(value: &str, now: Duration) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value.trim()).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.saturating_sub(now))
}

fn refused(message: String, wait: Option<Duration>) -> RpcError {
    RpcError::of(ErrorKind::RateLimited, message).with(|data| {
        data.outcome = Some(Outcome::NotStarted);
        data.retry_after_ms = wait.map(|w| u64::try_from(w.as_millis()).unwrap_or(u64::MAX));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin::parse("https://api.example.dev").unwrap()
    }

    fn after(secs: u64) -> Instant {
        Instant::now() + Duration::from_secs(secs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_delays_later_requests_and_refuses_those_it_outlasts() {
        let pace = Pace::default();
        drop(pace.turn(&origin(), after(1)).await.unwrap());
        pace.pause(&origin(), Duration::from_secs(10));
        let refused = pace.turn(&origin(), after(5)).await.unwrap_err().data.unwrap();
        assert_eq!((refused.kind, refused.retry_after_ms), (ErrorKind::RateLimited, Some(10_000)));
        assert_eq!(refused.outcome, Some(Outcome::NotStarted));
        let before = Instant::now();
        drop(pace.turn(&origin(), after(20)).await.unwrap());
        assert!(before.elapsed() >= Duration::from_secs(10));
        let other = Origin::parse("https://other.example.dev").unwrap();
        drop(pace.turn(&other, after(0)).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_requests_go_to_one_origin_at_once() {
        let pace = Pace::default();
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(pace.turn(&origin(), after(1)).await.unwrap());
        }
        assert!(pace.turn(&origin(), after(1)).await.is_err());
        turns.pop();
        assert!(pace.turn(&origin(), after(1)).await.is_ok());
    }

    #[test]
    fn a_wait_is_given_in_seconds_or_as_a_date() {
        let now = Duration::from_secs(784_111_777 - 30);
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(date, now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after(date, now * 2), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}
