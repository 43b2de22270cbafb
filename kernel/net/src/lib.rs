//! Requests, sockets and blobs on behalf of plugins: where they may go, and what they may carry.
//!
//! A [`Net`] is one session's way out. Every hop of every request is checked against the grants (`policy`), leads only
//! to addresses that may be connected to (`client`, `address`), waits its turn (`pace`) and gets its credentials last
//! (`auth`). Secrets live in the [`Vault`]; whatever comes back goes through its [`Redactor`].

mod address;
mod answer;
mod auth;
mod aws;
mod blob;
mod body;
mod client;
mod judge;
mod net;
mod oauth;
mod origin;
mod pace;
mod policy;
mod redact;
mod send;
mod sigv4;
mod sse;
mod stream;
mod vault;
mod ws;

pub use aws::{Chain, Printing, lasts};
pub use blob::{Blobs, open_plain};
pub use client::{Looking, Lookup};
pub use net::{Net, Options, Settings};
pub use origin::{Origin, Pattern};
pub use policy::Setting;
pub use redact::{RedactStream, Redactor};
pub use stream::Stream;
pub use vault::{Finding, Secret, Source, Vault};
pub use ws::Socket;
