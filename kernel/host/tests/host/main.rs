//! What the host does with good and bad plugins, against a real plugin process that acts on cue.

#![expect(clippy::unwrap_used, reason = "the helpers of these tests may fail loudly too")]

mod callbacks;
mod calls;
mod ends;
mod hello;
mod stage;
