//! WebAssembly plugins: what a guest may do and what it may not, its cache, and our own provider as a component.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "starts the runner as the host would")]

mod bounds;
mod cache;
mod consent;
mod figures;
mod guest;
mod powers;
mod provider;
mod wasi;
