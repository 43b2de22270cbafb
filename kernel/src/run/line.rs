//! The line to a box: a connection, and the helper that answers on it.

use crabbox_schemas::lease::Lease;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::helper::{self, Helper, Opened};
use crate::lease::{Bench, Held};
use crate::ports::{Clock, Dialer, EventSink, Provider, Remote, Stop, Urgency};
use crate::run::reach::{Reached, reach};
use crate::run::ssh_lease::work_root;
use crabbox_schemas::error::{ErrorCode, Outcome};

/// An open line.
pub struct Line<R> {
    /// The connection.
    pub remote: R,
    /// The helper at its other end.
    pub helper: Helper,
    /// The lease as it was reached.
    pub lease: Lease,
}

/// What a box is worked with.
#[expect(clippy::large_enum_variant, reason = "there is one of them in a run")]
pub enum Way<R> {
    /// A helper.
    Helper(Line<R>),
    /// sh and tar.
    Shell {
        /// The connection.
        remote: R,
        /// The lease as it was reached.
        lease: Lease,
        /// Why there is no helper.
        why: String,
    },
}

/// Connects to a box in hand, and finds or brings its helper.
pub async fn open<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    held: &Held,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Way<D::Remote>> {
    let reached = reach(bench, held, events, stop).await?;
    way(bench, reached, events, stop).await
}

/// Finds or brings the helper of a box that was reached.
pub(super) async fn way<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    reached: Reached<D::Remote>,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Way<D::Remote>> {
    let Reached { remote, lease } = reached;
    let root = work_root(&lease)?;
    let opened = tokio::select! {
        opened = helper::open(&remote, bench.binaries, root, bench.clock, events) => {
            opened.map_err(|e| e.outcome(Outcome::NotStarted).at("connect"))?
        }
        () = stop.reaches(Urgency::Gentle) => {
            return Err(KernelError::new(ErrorCode::Cancelled, "interrupted while connecting")
                .at("connect"));
        }
    };
    let (way, message) = match opened {
        Opened::Helper(helper) => {
            let hello = helper.hello();
            let message =
                format!("helper: static ({} {}, process {})", hello.os, hello.arch, hello.pid);
            (Way::Helper(Line { remote, helper, lease }), message)
        }
        Opened::Shell { why } => {
            let message = format!("helper: sh ({why})");
            (Way::Shell { remote, lease, why }, message)
        }
    };
    events.emit(Event::Debug { message });
    Ok(way)
}

impl<R: Remote> Line<R> {
    /// Says goodbye. What was said last may still be on its way.
    pub async fn close(self) {
        drop(self.helper);
        self.remote.close().await;
    }
}
