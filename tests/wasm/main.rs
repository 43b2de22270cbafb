//! WebAssembly plugins: what a guest may do and what it may not, its cache, and our own provider as a component.

mod bounds;
mod cache;
mod consent;
mod guest;
mod powers;
mod provider;
mod wasi;
