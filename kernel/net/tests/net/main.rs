//! The way out of a session, tried against real servers on the loopback.

#![expect(clippy::unwrap_used, reason = "the helpers of these tests may fail loudly too")]

mod auth;
mod bodies;
mod borders;
mod chain;
mod redirects;
mod secrets;
mod server;
mod sockets;
mod stage;
mod streams;
mod tls;
