//! A process that keeps connections to boxes warm and watches folders, and the way through it; never required.
//!
//! [`serve`] is the process: it owns a `Dialer`, keeps what it opens (`keeper`), carries processes (`carry`) and
//! shares one helper a connection among its clients (`switch`). [`WarmDialer`] is the way through it: a `Dialer`
//! that asks the process where there is one and does the work itself where there is none. Both meet on a
//! private socket (`place`) and speak the messages of `crabbox_schemas::daemon` (`line`). [`Watcher`] tells
//! what changed below a folder.

mod carry;
mod client;
mod dialer;
mod fault;
mod keeper;
mod line;
mod place;
mod remote;
mod server;
mod switch;
#[cfg(target_os = "linux")]
mod watch;
#[cfg(not(target_os = "linux"))]
#[path = "no_watch.rs"]
mod watch;
mod watches;

pub use client::{Absent, Caller, Client, Seen};
pub use dialer::WarmDialer;
pub use place::Place;
pub use remote::{WarmInput, WarmOutput, WarmRemote};
pub use server::{Server, serve};
pub use watch::Watcher;
