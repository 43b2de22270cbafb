//! The crabbox kernel: everything between the command line and the wires, with no provider's name in it.
//!
//! Read [`run`] first: it is one `crabbox run` from plan to outcome. Around it stand [`config`] (settings
//! that remember who spoke), [`plan`] (every decision, taken once), [`lease`] (the bracket that always
//! gives a box back, and the trail that survives us), [`sync`] (what the box holds equals the manifest)
//! and [`render`] (events to text). The world is reached through the four doors in [`ports`].

pub mod bootstrap;
pub mod config;
pub mod error;
pub mod event;
pub mod helper;
pub mod lease;
pub mod nearest;
pub mod plan;
pub mod ports;
pub mod render;
pub mod run;
pub mod shell;
pub mod slug;
pub mod state;
pub mod sync;
pub mod time;
