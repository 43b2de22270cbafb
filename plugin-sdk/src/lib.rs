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
mod check;
pub mod cloud;
#[cfg(target_family = "wasm")]
pub mod component;
#[cfg(not(target_family = "wasm"))]
mod control;
mod doors;
mod failure;
#[cfg(not(target_family = "wasm"))]
mod host;
mod http;
mod label;
#[cfg(not(target_family = "wasm"))]
mod link;
#[cfg(feature = "native")]
pub mod native;
mod output;
mod plugin;
mod provider;
#[cfg(feature = "relay")]
pub mod relay;
pub mod sandbox;
#[cfg(not(target_family = "wasm"))]
mod serve;
#[cfg(not(target_family = "wasm"))]
mod session;
mod steady;
mod stream;
#[cfg(feature = "testkit")]
pub mod testkit;
mod tool;
mod workspace;

#[cfg(target_family = "wasm")]
use component as host;

pub use blob::{BlobReader, BlobWriter};
pub use call::{Attempt, Call, Level, Progress, Woken};
pub use check::{check, judged, refused};
pub use failure::{Failure, found};
pub use http::{HttpRequest, Reply, every_page, secret};
pub use label::{label_value, own_labels, touched_labels};
pub use output::{Channel, Output};
pub use plugin::Plugin;
pub use provider::{DelegatedRun, SecretRef, SshLease, settings, settings_with_defaults};
#[cfg(not(target_family = "wasm"))]
pub use serve::{serve_delegated_run, serve_ssh_lease};
pub use steady::Repeat;
pub use stream::{HttpStream, Message, Next, Socket};
pub use tool::{Process, Tool};
pub use workspace::{Placed, RemoteCommand, Said, Workspace};

pub use crabbox_schemas::error::{ErrorKind, Outcome, Resource};
pub use crabbox_schemas::ids::LeaseId;
pub use crabbox_schemas::lease::{
    Bootstrap, BoxRequest, Desired, Expected, Lease, ReleaseOutcome, SshAuth, SshEndpoint,
};
pub use crabbox_schemas::plugin::{
    AccessParams, AccessResult, AcquireParams, BasicAuth, BlobFacts, CatalogParams, CatalogResult,
    Check, CheckStatus, EvidenceParams, EvidenceResult, ExecResult, HeaderAuth, HttpAuth, HttpBody,
    Instance, ListParams, ListResult, Oauth2Auth, Offer, Part, Price, Purpose, QuoteParams,
    QuoteResult, ReleaseParams, ResolveParams, RunStartParams, RunStartResult, SecretText,
    ServerEvent, Sigv4Auth, TouchParams, UserFacts, WsOpenParams,
};

/// Makes the component of a plugin: `component!(plugin)`, where `plugin` is a function that gives the [`Plugin`]. It
/// is written once in a provider's library and means something only when that is built for WebAssembly.
#[macro_export]
macro_rules! component {
    ($plugin:path) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            impl $crate::component::Guest for Component {
                fn initialize(params: String) -> Result<String, $crate::component::RpcError> {
                    $crate::component::initialize($plugin(), &params)
                }

                fn handle(
                    method: String,
                    params: String,
                ) -> Result<String, $crate::component::RpcError> {
                    $crate::component::handle(&method, &params)
                }
            }

            $crate::component::bindings::export!(Component with_types_in $crate::component::bindings);
        };
    };
}

/// Makes the library of a plugin, for the native runner: `native!(plugin)`, beside [`component!`]. It means something
/// only with the feature `native`, and only for plugins that ship with crabbox.
#[cfg(feature = "native")]
#[macro_export]
macro_rules! native {
    ($plugin:path) => {
        const _: () = {
            extern "C" fn open(sink: $crate::native::Sink) -> $crate::native::Session {
                $crate::native::open($plugin(), sink)
            }

            fn table() -> $crate::native::NativeRef {
                $crate::native::table(open)
            }

            $crate::native::export!(table);
        };
    };
}

/// Makes the library of a plugin, with the feature `native`; nothing without it.
#[cfg(not(feature = "native"))]
#[macro_export]
macro_rules! native {
    ($plugin:path) => {};
}
