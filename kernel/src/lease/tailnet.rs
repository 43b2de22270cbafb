//! Joining a box to the user's tailnet: over its own connection once it is a box, since what a machine starts with stays
//! readable at its cloud. The key is on no disk here and in no argument anywhere.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::Lease;

use crate::bootstrap::TAILNET;
use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::ports::{Clock, EventSink, Remote, Stop, Urgency};
use crate::run::process::capture;
use crate::shell::quote;

/// How long joining may take, waiting for an address included.
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// The tailnet a new box shall join.
#[derive(Clone, PartialEq, Eq)]
pub struct Tailnet {
    /// What lets it in.
    pub key: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its name there; `{slug}` stands for the box's.
    pub hostname: String,
}

impl fmt::Debug for Tailnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tailnet({} {:?})", self.hostname, self.tags)
    }
}

impl Tailnet {
    /// Joins, and waits for an address.
    pub async fn join<R: Remote>(
        &self,
        remote: &R,
        lease: &Lease,
        clock: &impl Clock,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<()> {
        let hostname = self.hostname.replace("{slug}", &lease.slug);
        let words = [hostname.as_str(), &self.tags.join(",")].map(quote).join(" ");
        let root = format!(
            "join=$(command -v {TAILNET}) || exit 127; [ \"$(id -u)\" = 0 ] || set -- sudo -n; \
             exec \"$@\" \"$join\" {words}"
        );
        let command = format!("exec sh -c {}", quote(&root));
        let key = Bytes::from(format!("{}\n", self.key));
        let failed = |why: &str| {
            let what = format!("{} did not join the tailnet: {why}", lease.slug);
            KernelError::new(ErrorCode::Bootstrap, what).at("connect").hint(
                "look at the key's expiry, uses and tags; what tailscale.authKeyEnv names holds it",
            )
        };
        let done = tokio::select! {
            done = capture(remote, &command, key) => done?,
            () = clock.sleep(LIMIT) => return Err(failed("it took longer than five minutes")),
            () = stop.reaches(Urgency::Gentle) => {
                let what = "interrupted while the box joined the tailnet";
                return Err(KernelError::new(ErrorCode::Cancelled, what).at("connect"));
            }
        };
        let said =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace(&self.key, "<redacted>");
        if done.code != 0 {
            let why = said(&done.stderr);
            return Err(failed(why.lines().last().unwrap_or("nobody says why")));
        }
        let address = said(&done.stdout);
        events.emit(Event::TailnetJoined { hostname, address });
        Ok(())
    }
}
