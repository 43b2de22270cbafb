//! Starts provider plugins and speaks protocol 1 with them.
//!
//! [`open`] starts one provider, which `crabbox-plugins` has found, and gives a [`Session`], which is the kernel's
//! `Provider` door. Nothing here trusts what a plugin says: frames are bounded, ids are compared, every wait ends,
//! and when a session ends nothing of the plugin's process group is left.
//!
//! Inside: `spawn` starts processes, `link` owns the pipe, a `slot` is one open call seen from the pipe,
//! `call` is the same call seen from the caller, `broker` answers callbacks.

mod broker;
mod by_hand;
mod call;
mod catalog;
mod doors;
mod exec;
mod fault;
mod handshake;
mod kv;
mod lazy;
mod link;
#[cfg(test)]
mod model;
mod process;
mod provider;
mod secrets;
mod session;
mod slot;
mod spawn;
mod transcript;

pub use broker::{NowMs, Prompt};
pub use by_hand::QUESTIONS;
pub use lazy::Lazy;
pub use session::{OpenOptions, Session, Timeouts, open};
pub use transcript::Transcript;
