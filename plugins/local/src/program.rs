//! The only place where this program starts others, or becomes one.
#![expect(clippy::disallowed_methods, reason = "the one file of this crate that starts processes")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The standard streams of a new process.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

/// A process to start: nothing of this process's environment reaches it.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) file: &'a Path,
    pub(crate) args: &'a [OsString],
    pub(crate) env: &'a [(String, String)],
    pub(crate) dir: &'a Path,
    pub(crate) streams: Streams,
}

/// Starts a process and leaves waiting for it to whoever reaps; returns its id.
pub(crate) fn start(start: Start<'_>) -> io::Result<i32> {
    let child = command(start).spawn()?;
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Runs a process to its end and says whether it succeeded, and what it wrote to standard error.
pub(crate) fn finish(start: Start<'_>) -> io::Result<(bool, String)> {
    let output = command(start).spawn()?.wait_with_output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Replaces this process; returns only when that failed.
pub(crate) fn become_program(file: &OsStr, name: &OsStr, args: &[OsString]) -> io::Error {
    Command::new(file).arg0(name).args(args).exec()
}

fn command(start: Start<'_>) -> Command {
    let mut command = Command::new(start.file);
    command.args(start.args).env_clear().envs(start.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(start.dir);
    command.stdin(start.streams.stdin).stdout(start.streams.stdout).stderr(start.streams.stderr);
    command
}

/// This executable, also after its file was replaced.
pub(crate) fn ourselves() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    std::env::current_exe()
}

/// Where this executable's file is.
pub(crate) fn our_file() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// The directory the kernel lets this plugin keep things in.
pub(crate) fn state_dir() -> Option<PathBuf> {
    std::env::var_os("CRABBOX_STATE_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// A variable of the user that the kernel passes on.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What this process was asked to be.
pub(crate) fn arguments() -> Vec<OsString> {
    std::env::args_os().skip(1).collect()
}
