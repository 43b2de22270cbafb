//! The SSH connection to a box: dialled in stages, one connection with many channels, no OpenSSH client needed.
//!
//! [`SshDialer`] plans the way (`hop`: jump hosts first, the box last), races the ports of each hop
//! (`race`), checks its host key (`hostkey`), logs in (`identity`) and keeps trying until the box is
//! ready or patience runs out (`dial`). What it hands out is an [`SshRemote`]; its processes and streams
//! share the one connection. Below it, `wire` keeps round trips few and ends what is stuck; above it, `spare` has
//! the next channel open already and `spool` keeps what nobody reads.

mod dial;
mod hop;
mod hostkey;
mod identity;
mod keypair;
mod pattern;
mod process;
mod race;
mod session;
mod spare;
mod spool;
mod ssh_config;
mod wire;

pub use dial::SshDialer;
pub use hop::UserSsh;
pub use identity::Ask;
pub use process::{SshInput, SshOutput};
pub use session::{SshRemote, Timing};
