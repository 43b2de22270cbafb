//! Flights with the real helper: the tree on the box is exact, in as few round trips as possible, whatever breaks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken;
mod command;
#[expect(dead_code, reason = "each test program uses its part of the box")]
#[path = "../pipe/mod.rs"]
mod pipe;
mod rig;
mod tree;
#[path = "../trees/mod.rs"]
mod trees;
