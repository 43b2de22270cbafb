//! What the host does with good and bad plugins, against a real plugin process that acts on cue.

#![expect(clippy::unwrap_used, reason = "the helpers of these tests may fail loudly too")]

mod callbacks;
mod calls;
mod doors;
mod ends;
mod hello;
#[path = "../../../net/tests/net/server.rs"]
mod server;
mod stage;
