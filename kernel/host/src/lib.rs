//! Finds provider plugins, starts them and speaks protocol 1 with them.
//!
//! [`discover()`] reads manifests and schemas; [`open`] starts one provider and gives a [`Session`], which
//! is the kernel's `Provider` door. Nothing here trusts what a plugin says: frames are bounded, ids are
//! compared, every wait ends, and when a session ends nothing of the plugin's process group is left.

mod discover;
mod manifest;
mod settings;
mod spawn;

pub use discover::{Catalog, Entry, discover};
pub use manifest::FILE as MANIFEST_FILE;
pub use settings::{Flag, FlagKind, check as check_settings};
