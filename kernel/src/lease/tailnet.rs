//! Joining a box to the user's tailnet: over its own connection once it is a box, since what a machine starts with stays
//! readable at its cloud. The key is on no disk here and in no argument anywhere.

use std::fmt;
use std::net::IpAddr;
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
    /// What the box reaches everything else through.
    pub exit: Option<Exit>,
}

/// An exit node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its name or address in the tailnet.
    pub node: String,
    /// The box's own network stays reachable beside it.
    pub lan: bool,
}

impl fmt::Debug for Tailnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tailnet({} {:?} {:?})", self.hostname, self.tags, self.exit)
    }
}

impl Tailnet {
    /// Joins, and waits for an address, which it returns.
    pub async fn join<R: Remote>(
        &self,
        remote: &R,
        lease: &Lease,
        clock: &impl Clock,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<IpAddr> {
        let hostname = self.hostname.replace("{slug}", &lease.slug);
        let words = [&*hostname, &self.tags.join(",")];
        let failed = |why: &str| {
            let what = format!("{} did not join the tailnet: {why}", lease.slug);
            KernelError::new(ErrorCode::Bootstrap, what).at("connect").hint(
                "look at the key's expiry, uses and tags; what tailscale.authKeyEnv names holds it",
            )
        };
        let key = format!("{}\n", self.key);
        let said = self.ask(remote, &words, key, failed, clock, stop).await?;
        let address = said.parse().map_err(|_| failed("it does not say where it is there"))?;
        events.emit(Event::TailnetJoined { hostname, address: said });
        Ok(address)
    }

    /// Has a box that is dialled in the tailnet reach everything else through the exit node, where one was asked for.
    pub async fn leave_by_exit<R: Remote>(
        &self,
        remote: &R,
        lease: &Lease,
        clock: &impl Clock,
        stop: &Stop,
    ) -> Result<()> {
        let Some(Exit { node, lan }) = &self.exit else { return Ok(()) };
        let failed = |why: &str| {
            let what = format!("{} does not get out through {node}: {why}", lease.slug);
            KernelError::new(ErrorCode::Bootstrap, what).at("connect").hint(
                "tailscale.exitNode must name a node that offers to be one, and is allowed to",
            )
        };
        let words = ["--exit", node, if *lan { "true" } else { "false" }];
        self.ask(remote, &words, String::new(), failed, clock, stop).await.map(drop)
    }

    /// Has the box's own program do something as root; returns what that says.
    async fn ask<R: Remote>(
        &self,
        remote: &R,
        words: &[&str],
        input: String,
        failed: impl Fn(&str) -> KernelError,
        clock: &impl Clock,
        stop: &Stop,
    ) -> Result<String> {
        let words = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
        let root = format!(
            "join=$(command -v {TAILNET}) || exit 127; [ \"$(id -u)\" = 0 ] || set -- sudo -n; \
             exec \"$@\" \"$join\" {words}"
        );
        let command = format!("exec sh -c {}", quote(&root));
        let done = tokio::select! {
            done = capture(remote, &command, Bytes::from(input)) => done?,
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
        Ok(said(&done.stdout))
    }
}
