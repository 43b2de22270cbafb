//! The real command in a sealed room: one story a test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(target_os = "linux")]
mod aws;
#[cfg(target_os = "linux")]
mod azure;
mod bad_days;
mod base_ref;
mod blacksmith;
mod blacksmith_faults;
mod blacksmith_kit;
#[cfg(target_os = "linux")]
mod clouds;
#[cfg(target_os = "linux")]
mod containers;
#[cfg(target_os = "linux")]
mod counted;
mod daemon;
mod daytona;
mod detach;
mod errors;
mod external;
mod faults;
mod fetch;
#[cfg(target_os = "linux")]
mod hetzner;
mod inspection;
mod interruption;
mod islo;
mod islo_faults;
mod islo_kit;

mod islo_sdk;
mod islo_secrets;
mod kept;
#[cfg(target_os = "linux")]
mod kills;
mod kit;
mod lines;
mod local;
mod matrix;
#[cfg(target_os = "linux")]
mod matrix_abroad;
mod matrix_crowds;
#[cfg(target_os = "linux")]
mod matrix_disk;
mod matrix_kills;
mod matrix_links;
mod native;
mod plugins;
mod prism;
mod schemas;
mod scripted;
mod secrets;
mod settings;
mod shared;
mod ssh;
mod stubborn_trees;
mod survive;
mod sync;
mod transcript;
mod vanished;
mod walls;
mod watch;
mod wide;
