//! What a tree is to both ends of a sync: manifests, deltas between them, and the pieces their contents travel in.
//!
//! A [`Manifest`] lists every path with its kind and content hash. A [`Delta`] leads from one manifest to the
//! next. The contents a delta needs are [`Piece`]s, in an order both ends derive alike; they travel packed
//! into [`block`]s. Nothing here touches a file.

#![warn(missing_docs)]

pub mod block;
mod by_hash;
mod delta;
mod digest;
mod entry;
pub mod lane;
mod manifest;
mod piece;

pub use by_hash::{ByHash, FirstBytes, Hashes};
pub use delta::Delta;
pub use digest::Groups;
pub use entry::{Entry, Hash, Kind, bytes_of, content_hash, hex, is_inside, shown, unhex};
pub use manifest::{Manifest, between};
pub use piece::{Chunk, Have, Piece, Recipe, WHOLE, cut, pieces};

/// Why bytes are not what they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TreeError(pub String);

impl TreeError {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}
