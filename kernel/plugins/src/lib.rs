//! Which provider plugins there are, what they ask for, and whether they may run. Nothing here runs one.
//!
//! [`discover()`] reads manifests and schemas into a [`Catalog`]; a [`Shelf`] is the user's own plugins: what was
//! installed, dropped in and agreed to. What may run is run from the shelf's read-only copy, which is named by the
//! digest of its files: a folder that changes later has to be agreed to again.

mod artifact;
mod catalog;
mod digest;
mod discover;
mod grants;
mod imports;
mod index;
mod install;
mod lock;
mod manifest;
#[cfg(test)]
mod nonsense;
mod package;
mod policy;
mod require;
mod schema;
mod settings;
mod shelf;
mod sign;
mod sound;
#[cfg(test)]
mod subset;
mod vet;
mod walls;

pub use artifact::{COMPILER, RUNNER};
pub use catalog::{Catalog, Entry, Place};
pub use digest::{Content, content, holds_only, of_file as digest_of_file, of_grants};
pub use discover::{Places, discover, load};
pub use grants::{Level, Line, lines, passes, programs};
pub use imports::{Import, Power, check_imports, imports};
pub use install::Candidate;
pub use lock::read as read_lock;
pub use manifest::read as read_manifest;
pub use manifest::{FILE as MANIFEST_FILE, check_protocols, is_id};
pub use package::{EXTENSION, pack};
pub use policy::{Libraries, Policy, Rule};
pub use require::{check_lock, check_version, unmet};
pub use schema::beyond as beyond_subset;
pub use settings::{Flag, FlagKind, Written, check as check_settings, hide_secrets};
pub use shelf::{Shelf, Standing};
pub use vet::{Proposal, Verdict, vet};
pub use walls::{Confined, confine_thread};
