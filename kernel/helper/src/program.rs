//! The door to the system: our own arguments and environment, and the programs we start.

use std::ffi::{OsStr, OsString};
use std::process::Command;

/// Our own environment.
#[expect(clippy::disallowed_methods, reason = "the one place that reads them")]
pub(crate) fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

/// One value of our environment.
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Our own arguments, without the name.
pub(crate) fn arguments() -> Vec<OsString> {
    std::env::args_os().skip(1).collect()
}

/// The path of the running program, also when its file was replaced.
pub(crate) const SELF: &str = "/proc/self/exe";

/// Another process of this program, in a mode.
pub(crate) fn another(mode: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = program(OsStr::new(SELF));
    command.arg0("crabbox-helper").arg(mode);
    command
}

/// A process of some program.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub(crate) fn program(path: &OsStr) -> Command {
    Command::new(path)
}
