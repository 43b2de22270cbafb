//! Getting a helper to run on the box: one that is kept, the cached one, or the one we bring along.

use crate::error::Result;
use crate::helper::{Binaries, Helper};
use crate::ports::{Clock, EventSink, Remote};

/// What a box is worked with.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of them in a run")]
pub enum Opened {
    /// A helper runs there.
    Helper(Helper),
    /// sh and tar must do.
    Shell {
        /// Why, for people.
        why: String,
    },
}

/// Finds or starts the helper on a box. An error means that the connection is of no use; whatever keeps a
/// helper from running there is not an error.
pub async fn open<R: Remote>(
    remote: &R,
    binaries: &Binaries,
    work_root: &str,
    clock: &impl Clock,
    events: &mut dyn EventSink,
) -> Result<Opened> {
    let _ = (remote, binaries.read(), work_root, clock, events);
    Ok(Opened::Shell { why: "not built yet".to_owned() })
}
