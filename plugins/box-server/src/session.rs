//! The short life between fork and the user's program: a new session, its terminal, its limits.
//!
//! The box's server starts every command through this step of the same executable, which replaces
//! itself by the program. The program therefore leads its own session and process group.

use std::ffi::{OsStr, OsString};
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, ioctl_tiocsctty, setrlimit, setsid};
use serde::{Deserialize, Serialize};

use crate::program;

/// Limits a command cannot raise again; absent ones stay as the user has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Most open files per process.
    pub open_files: Option<u64>,
    /// Most processes of this user.
    pub processes: Option<u64>,
    /// Largest file, in MiB.
    pub file_size_mib: Option<u64>,
}

/// What to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// File to execute.
    pub(crate) file: String,
    /// Its name for itself; a leading dash makes a login shell.
    pub(crate) name: String,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
}

/// The arguments after `--session`.
pub(crate) fn arguments(terminal: bool, limits: &Limits, program: &Program) -> Vec<OsString> {
    let number = |limit: Option<u64>| limit.map_or("-".to_owned(), |limit| limit.to_string());
    let mut args: Vec<OsString> = vec![
        if terminal { "tty" } else { "pipe" }.into(),
        number(limits.open_files).into(),
        number(limits.processes).into(),
        number(limits.file_size_mib).into(),
        program.file.clone().into(),
        program.name.clone().into(),
    ];
    args.extend(program.args.iter().cloned());
    args
}

/// Becomes the program; returns only when that failed.
pub fn run(args: &[OsString]) -> io::Error {
    let [terminal, files, processes, size, file, name, rest @ ..] = args else {
        return io::Error::other("a session needs a program");
    };
    if let Err(error) = setsid() {
        return error.into();
    }
    if terminal == "tty"
        && let Err(error) = ioctl_tiocsctty(rustix::stdio::stdin())
    {
        return error.into();
    }
    let mib = number(size).and_then(|size| size.checked_mul(1 << 20));
    let limits = [
        (Resource::Core, Some(0)),
        (Resource::Nofile, number(files)),
        (Resource::Nproc, number(processes)),
        (Resource::Fsize, mib),
    ];
    for (resource, limit) in limits {
        if let Some(limit) = limit
            && let Err(error) = lower(resource, limit)
        {
            return error;
        }
    }
    program::become_program(file, name, rest)
}

fn number(text: &OsStr) -> Option<u64> {
    text.to_str()?.parse().ok()
}

/// Lowers a limit; one that is lower already stays.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let limit = getrlimit(resource).maximum.map_or(limit, |maximum| maximum.min(limit));
    Ok(setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?)
}
