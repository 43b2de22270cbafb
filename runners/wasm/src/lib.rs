//! Runs provider plugins that are WebAssembly: a small process which crabbox starts like any other plugin.
//!
//! A component of the world `crabbox:plugin/provider` is answered for by a [`Component`]: calls go in as JSON, what it
//! asks comes out as the callbacks of the protocol. A WASI command speaks the protocol itself ([`command()`]). Both can
//! reach nothing but what is linked to them here. The compiler is in another program, `crabbox-wasm-compile`, so that
//! this one starts fast and stays small; what it makes is kept in a [`Cache`].

mod cache;
mod command;
mod component;
mod doors;
mod engine;
mod guest;
mod settings;

pub use cache::{Cache, Compile, key};
pub use command::command;
pub use component::Component;
pub use engine::config;
pub use settings::{Settings, USAGE};
