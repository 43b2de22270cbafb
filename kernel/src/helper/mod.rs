//! The box channel from this end: starting the helper on the box, and talking with it.
//!
//! [`open`] finds a helper that somebody keeps, starts the one the box has cached, or brings one along; where
//! none can run it says why, and the caller uses sh and tar. A [`Helper`] is the open channel.

mod binaries;
mod fault;
mod feed;
mod link;
mod start;

pub use binaries::Binaries;
pub use link::{Helper, Incoming};
pub use start::{Brought, Opened, Running, bring, open};
