//! What the author of a provider sees: two roles, a call, a failure, and one function that serves.
//!
//! Everything here is synchronous: a method of a provider runs on a thread of its own, and the ways
//! out of it ([`Call::sleep`], [`Call::record`], [`Output::write`] …) block until the host answers,
//! and wake up when the call is cancelled. Only `serve.rs` knows that the host is at the other end of
//! a pipe.
#![doc = ""]
#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod behaviour;
mod blob;
mod call;
mod control;
mod failure;
mod http;
mod label;
mod link;
mod output;
mod plugin;
mod provider;
mod serve;
mod session;
mod stream;
#[cfg(feature = "testkit")]
pub mod testkit;
mod tool;

pub use blob::{BlobReader, BlobWriter};
pub use call::{Attempt, Call, Level, Progress, Woken};
pub use failure::Failure;
pub use http::{HttpRequest, Reply, secret};
pub use label::label_value;
pub use output::{Channel, Output};
pub use plugin::Plugin;
pub use provider::{DelegatedRun, SecretRef, SshLease, settings};
pub use serve::{serve_delegated_run, serve_ssh_lease};
pub use stream::{HttpStream, Message, Next, Socket};
pub use tool::{Process, Tool};

pub use crabbox_schemas::error::{ErrorKind, Outcome, Resource};
pub use crabbox_schemas::ids::LeaseId;
pub use crabbox_schemas::lease::{
    BoxRequest, Desired, Expected, Lease, ReleaseOutcome, SshAuth, SshEndpoint,
};
pub use crabbox_schemas::plugin::{
    AcquireParams, BasicAuth, BlobFacts, Check, CheckStatus, ExecResult, HeaderAuth, HttpAuth,
    HttpBody, Instance, ListParams, ListResult, Oauth2Auth, Part, Purpose, ReleaseParams,
    ResolveParams, RunStartParams, RunStartResult, SecretText, ServerEvent, Sigv4Auth, TouchParams,
    UserFacts, WsOpenParams,
};
