//! When a box ends: never later than its age limit, and when nobody has used it for too long.

use std::path::PathBuf;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The limits of a box on a clock that only goes forward, also through the machine's sleep.
#[derive(Debug)]
pub struct Deadline {
    end: Duration,
    idle: Duration,
    used: Duration,
    open: usize,
    touched: PathBuf,
    mark: Option<Vec<u8>>,
}

impl Deadline {
    /// Counts from now, which is when the box was made. `touched` is a file whose change means use.
    pub fn new(ttl_secs: u64, idle_timeout_secs: u64, touched: PathBuf) -> Self {
        let now = now();
        let mark = std::fs::read(&touched).ok();
        Self {
            end: now.saturating_add(limit(ttl_secs)),
            idle: limit(idle_timeout_secs),
            used: now,
            open: 0,
            touched,
            mark,
        }
    }

    /// Takes a line of the server: `busy` and the number of open sessions.
    pub fn heard(&mut self, line: &str) {
        if let Some(open) = line.strip_prefix("busy ").and_then(|count| count.parse().ok()) {
            self.used_by(open);
        }
    }

    /// So many sessions are open now.
    pub fn used_by(&mut self, open: usize) {
        self.open = open;
        self.used = now();
    }

    /// Whether the box must end.
    pub fn passed(&mut self) -> bool {
        let now = now();
        let mark = std::fs::read(&self.touched).ok();
        if self.open > 0 || mark != self.mark {
            self.used = now;
            self.mark = mark;
        }
        now >= self.end || now.saturating_sub(self.used) >= self.idle
    }
}

/// Zero means no limit.
fn limit(secs: u64) -> Duration {
    if secs == 0 { Duration::MAX } else { Duration::from_secs(secs) }
}

#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

fn now() -> Duration {
    let time = clock_gettime(CLOCK);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}
