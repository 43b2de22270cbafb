//! The only place where this program reads its own environment and arguments.
#![expect(clippy::disallowed_methods, reason = "the one file of this crate that reads them")]

use std::path::PathBuf;

/// The directory the kernel lets this plugin keep things in.
pub(crate) fn state_dir() -> Option<PathBuf> {
    std::env::var_os("CRABBOX_STATE_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// A variable of the user that the kernel passes on.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
