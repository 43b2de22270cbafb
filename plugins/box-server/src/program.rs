//! The only place where this program starts others, becomes one, or reads its own environment.
#![expect(clippy::disallowed_methods, reason = "the one file of this crate that starts processes")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The standard streams of a new process.
#[derive(Debug)]
pub struct Streams {
    pub stdin: Stdio,
    pub stdout: Stdio,
    pub stderr: Stdio,
}

/// A process to start: nothing of this process's environment reaches it.
#[derive(Debug)]
pub struct Start<'a> {
    pub file: &'a Path,
    pub args: &'a [OsString],
    pub env: &'a [(String, String)],
    pub dir: &'a Path,
    pub streams: Streams,
    /// User and group it runs as, when not those of this process.
    pub owner: Option<(u32, u32)>,
}

/// Starts a process and leaves waiting for it to whoever reaps; returns its id.
pub fn start(start: Start<'_>) -> io::Result<i32> {
    let child = command(start).spawn()?;
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Runs a process to its end and says whether it succeeded, and what it wrote to standard error.
pub fn finish(start: Start<'_>) -> io::Result<(bool, String)> {
    let output = command(start).spawn()?.wait_with_output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Replaces this process; returns only when that failed.
pub fn become_program(file: &OsStr, name: &OsStr, args: &[OsString]) -> io::Error {
    Command::new(file).arg0(name).args(args).exec()
}

fn command(start: Start<'_>) -> Command {
    let mut command = Command::new(start.file);
    command.args(start.args).env_clear().envs(start.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(start.dir);
    if let Some((user, group)) = start.owner {
        command.uid(user).gid(group);
    }
    command.stdin(start.streams.stdin).stdout(start.streams.stdout).stderr(start.streams.stderr);
    command
}

/// This executable, also after its file was replaced.
pub fn ourselves() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    std::env::current_exe()
}

/// Where this executable's file is.
pub fn our_file() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// The environment of this process, as far as it is text.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// What this process was asked to be.
pub fn arguments() -> Vec<OsString> {
    std::env::args_os().skip(1).collect()
}
