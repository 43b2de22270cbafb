//! How far a box is fenced off, proven by trying it.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use crabbox_box_server::program::{self, Start, Streams};
use serde::{Deserialize, Serialize};

use crate::record::{BoxDir, WRITABLE};

/// Where bubblewrap is installed by every distribution that has it.
const BWRAP: &str = "/usr/bin/bwrap";

/// What the settings ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wanted {
    /// The highest level that works here.
    #[default]
    Auto,
    /// Processes of the user, nothing more.
    None,
    /// Own view of files and processes, or no box.
    Namespace,
}

/// Whether commands reach the machine's network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Network {
    /// As any process of the user.
    #[default]
    Host,
    /// Only a loopback of the box's own.
    None,
}

/// What a box has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    None,
    Namespace,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Namespace => "namespace",
        }
    }
}

/// The level to use, and why it is not higher; an error when the wanted one cannot be had.
pub(crate) fn settle(
    wanted: Wanted,
    network: Network,
    dir: &BoxDir,
) -> Result<(Level, Option<String>), String> {
    if wanted == Wanted::None {
        return Ok((Level::None, None));
    }
    match prove(dir, network) {
        Ok(()) => Ok((Level::Namespace, None)),
        Err(reason) if wanted == Wanted::Auto => Ok((Level::None, Some(reason))),
        Err(reason) => Err(reason),
    }
}

/// The command line that runs a program inside the fence.
pub(crate) fn fenced(dir: &BoxDir, network: Network, program: &[OsString]) -> Vec<OsString> {
    let root = rustix::process::geteuid().is_root();
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    add(&["--die-with-parent", "--unshare-user", "--unshare-pid", "--unshare-ipc"]);
    if network == Network::None {
        add(&["--unshare-net"]);
    }
    add(&["--cap-drop", "ALL"]);
    if root {
        // What root needs to be root over the box's own files; it cannot change the mounts.
        for cap in ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"] {
            add(&["--cap-add", cap]);
        }
    }
    add(&["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]);
    args.extend(["--bind".into(), dir.part("tmp").into(), "/tmp".into()]);
    if let Some(boxes) = dir.path().parent() {
        // Nothing of other boxes, nor this one's host key.
        args.extend(["--tmpfs".into(), boxes.into()]);
    }
    for part in WRITABLE {
        args.extend(["--bind".into(), dir.part(part).into(), dir.part(part).into()]);
    }
    if let Ok(file) = program::our_file() {
        args.extend(["--ro-bind".into(), file.clone().into(), file.into()]);
    }
    args.push("--".into());
    args.extend(program.iter().cloned());
    args
}

/// The program that puts up the fence.
pub(crate) fn fence() -> &'static Path {
    Path::new(BWRAP)
}

/// Tries the fence from inside: there must be few processes and a place to write. It also writes
/// where it must not; whether that reached the machine is seen from outside.
const PROOF: &str = r#"
set -eu
[ "$(ls -d /proc/[0-9]* | wc -l)" -lt 10 ] || { echo "other processes are visible" >&2; exit 1; }
: > "$1/.fence" && rm "$1/.fence"
(: > "$2") 2>/dev/null || true
"#;

fn prove(dir: &BoxDir, network: Network) -> Result<(), String> {
    if !fence().exists() {
        return Err(format!("bubblewrap is not installed as {BWRAP}"));
    }
    // Beside the boxes the user may write, but a command of a box may not.
    let boxes = dir.path().parent().unwrap_or(dir.path());
    let outside = boxes.with_file_name(format!(".fence-{}", std::process::id()));
    let script = ["/bin/sh", "-c", PROOF, "sh"].map(OsString::from);
    let mut program = script.to_vec();
    program.extend([dir.part("work").into(), outside.clone().into()]);
    try_inside(dir, network, &program)?;
    match std::fs::remove_file(&outside) {
        Ok(()) => Err("files outside the box can be written".to_owned()),
        Err(_) => Ok(()),
    }
}

fn try_inside(dir: &BoxDir, network: Network, program: &[OsString]) -> Result<(), String> {
    let streams = Streams { stdin: Stdio::null(), stdout: Stdio::null(), stderr: Stdio::piped() };
    let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    let args = fenced(dir, network, program);
    let start =
        Start { file: fence(), args: &args, env: &env, dir: Path::new("/"), streams, owner: None };
    match program::finish(start) {
        Ok((true, _)) => Ok(()),
        Ok((false, reason)) => Err(format!("bubblewrap does not work here: {reason}")),
        Err(error) => Err(format!("bubblewrap does not start: {error}")),
    }
}
