//! The SSH connection to a box: dialled in stages, one connection with many channels, no OpenSSH client needed.
//!
//! [`SshDialer`] plans the way (`hop`: jump hosts first, the box last), races the ports of each hop
//! (`race`), checks its host key (`hostkey`), logs in (`identity`) and keeps trying until the box is
//! ready or patience runs out (`dial`). What it hands out is an [`SshRemote`]; its processes and streams
//! share the one connection. Below it, `wire` keeps round trips few and ends what is stuck; above it, `spare` has
//! the next channel open already and `spool` keeps what nobody reads. To a host of the user's own, `mux` may find a
//! connection that OpenSSH shares; it is used in place of one of ours.

mod dial;
mod hop;
mod hostkey;
mod identity;
mod keypair;
mod mux;
mod pattern;
mod process;
mod proxy;
mod race;
mod remote;
mod session;
mod spare;
mod spool;
mod ssh_config;
mod wire;

pub use dial::SshDialer;
pub use hop::UserSsh;
pub use identity::Ask;
pub use mux::MuxInput;
pub use process::{OwnInput, SshInput, SshOutput};
pub use remote::SshRemote;
pub use session::Timing;
