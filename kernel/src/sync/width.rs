//! Whether a large upload over a long link gets further ways.

use crabbox_schemas::helper::{Feed, FeedParams, Role, method};
use serde_json::Value;

use crate::error::Result;
use crate::helper::{Helper, Incoming};

/// From so many missing bytes on it is worth asking.
const LARGE: u64 = 8 << 20;
/// A link with such a round trip carries less in one channel's window than most links could.
const LONG_MS: u64 = 20;

/// One with such a round trip carries whatever is packed as fast as it can be packed. How fast it took the change says
/// little about it: both ends are busy with that very change.
const NEAR_MS: u64 = 5;

/// The question for further ways. It goes with the flight and waits for nothing; the time to its answer says how long
/// the link is.
#[derive(Debug, Default)]
pub(super) struct Width {
    /// The request, and when it was made.
    asked: Option<(u64, u64)>,
    /// Whether much is missing on the box.
    is_large: bool,
    /// How further ways are opened; the link is long.
    feed: Option<Feed>,
    is_near: bool,
}

impl Width {
    /// Asks, if so much may have to be sent. Nothing else should be on its way but the flight.
    pub(super) fn ask(
        &mut self,
        helper: &mut Helper,
        channels: u32,
        bytes: u64,
        now_ms: u64,
    ) -> Result<()> {
        if bytes > LARGE {
            let request = helper.request(method::FEED, &FeedParams { channels })?;
            self.asked = Some((request, now_ms));
        }
        Ok(())
    }

    /// So much is missing on the box.
    pub(super) fn missing(&mut self, bytes: u64) {
        self.is_large = bytes > LARGE;
    }

    /// Whether this is the answer.
    pub(super) fn is_answered(&self, incoming: &Incoming) -> bool {
        matches!(incoming, Incoming::Answer { id, .. } if self.asked.is_some_and(|(of, _)| of == *id))
    }

    /// Takes the answer.
    pub(super) fn hear(&mut self, answer: Result<Value>, now_ms: u64) {
        let Some((_, asked_ms)) = self.asked.take() else { return };
        let took = now_ms.saturating_sub(asked_ms);
        let feed = answer.ok().and_then(|value| serde_json::from_value(value).ok());
        self.feed = feed.filter(|_| took >= LONG_MS);
        self.is_near = took < NEAR_MS;
    }

    /// Whether the other end is so near that denser blocks could not pay.
    pub(super) fn is_near(&self) -> bool {
        self.is_near
    }

    /// Opens further ways to a long link, once it is what everything waits for.
    pub(super) fn open(&mut self, helper: &mut Helper, channels: u32) {
        if self.is_large
            && !helper.has_room(Role::Blocks.of(channels))
            && let Some(feed) = self.feed.take()
        {
            helper.widen(channels, &feed);
        }
    }
}
