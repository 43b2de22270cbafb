//! The warm daemon's socket: what the command and the process that keeps connections for it say to each other.
//!
//! JSON-RPC frames in packets of `crabbox-wire`, one stream of work a socket connection. The daemon speaks first,
//! with [`Hello`]. Both ends are the same program, so nothing here is a promise to others.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::helper::{Blob, Terminal};
use crate::lease::SshEndpoint;

/// Requests, command to daemon.
pub mod method {
    #![allow(missing_docs, reason = "each is documented by its params type")]
    pub const DIAL: &str = "dial";
    pub const START: &str = "start";
    pub const HELPER: &str = "helper";
    pub const CHANGES: &str = "changes";
    pub const STATUS: &str = "status";
    pub const PING: &str = "ping";
    pub const RETIRE: &str = "retire";
    pub const STOP: &str = "stop";
}

/// Notifications, either way as their types say.
pub mod note {
    #![allow(missing_docs, reason = "each is documented by its params type")]
    pub const HELLO: &str = "hello";
    pub const DIALLING: &str = "dial.event";
    pub const SCANNED: &str = "scanned";
    pub const SIGNAL: &str = "signal";
    pub const RESIZE: &str = "resize";
    pub const EXITED: &str = "exited";
    pub const LOST: &str = "lost";
}

/// Byte channels of a started process.
pub mod channel {
    /// To the daemon: standard input; its last packet ends it.
    pub const STDIN: u32 = 1;
    /// To the command: standard output.
    pub const STDOUT: u32 = 2;
    /// To the command: standard error.
    pub const STDERR: u32 = 3;
}

/// `hello`, daemon to command, first: who is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    /// The program the daemon was started from. A command of another one leaves it alone.
    pub build: String,
    /// Its process id.
    pub pid: u32,
}

/// What every request is answered with: what was asked for, or why not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Answer<T> {
    /// It failed as it would have failed without a daemon.
    Failed {
        /// Why.
        failed: Box<Failure>,
    },
    /// It worked.
    Done(T),
}

/// `dial`: a connection to this box, a kept one if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DialParams {
    /// Where and as whom.
    pub endpoint: SshEndpoint,
    /// The lease's private key file.
    pub key: Blob,
    /// The lease's known-hosts file.
    pub known_hosts: Blob,
    /// How long to keep trying.
    pub patience_ms: u64,
}

/// `dial.event`, daemon to command: what is going on meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Dialling {
    /// The stage that is waited for; without one this is a detail for `--debug`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// One line.
    pub message: String,
}

/// The answer to `dial`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Dialled {
    /// Names the connection in `start` and `helper`.
    pub connection: u64,
    /// The host and port that answered.
    pub peer: String,
}

/// `start`: a process on the box. After the answer its bytes follow on the same socket connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartParams {
    /// On this connection.
    pub connection: u64,
    /// The command line for the login user's shell.
    pub command: String,
    /// A terminal for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<Terminal>,
}

/// `signal`, command to daemon: for the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Signal {
    /// Its name without `SIG`.
    pub name: String,
}

/// `resize`, command to daemon: the terminal's new size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resize {
    /// Columns.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
}

/// `exited`, daemon to command, last: how the process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exited {
    /// Its status, 128 + number for a signal.
    pub code: i32,
    /// The signal's name without `SIG`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// `lost`, daemon to command, last: the connection to the process broke.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// Why.
    pub failed: Failure,
}

/// `helper`: a session with the helper on the box. After an answer that says so, the socket connection carries
/// the packets of the box channel, greeting first, as if the helper were this command's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HelperParams {
    /// On this connection.
    pub connection: u64,
    /// A folder on the box where the helper's program may be put.
    pub work_root: String,
}

/// The answer to `helper`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HelperKept {
    /// Packets follow; otherwise no helper can run on this box.
    pub kept: bool,
}

/// `changes`: what changed below a folder since it was scanned. Whoever asks scans it next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangesParams {
    /// The folder, absolute, without symbolic links.
    pub root: Blob,
}

/// The answer to `changes`. Empty while the folder is not watched, or not yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changes {
    /// Stands for this moment: every later change will be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Stands for the last scan somebody told of, when all that changed since is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// What changed between the two, relative to the folder; a folder stands for all below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Blob>,
}

/// `scanned`, command to daemon: the folder was scanned, and the scan is remembered under this token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scanned {
    /// The folder.
    pub root: Blob,
    /// The token.
    pub token: String,
}

/// The daemon as `daemon status --json` shows it; the answer to `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DaemonView {
    /// Version of this document.
    pub schema_version: u32,
    /// Whether there is one. Without one, only this and `socket` are told.
    pub running: bool,
    /// Where it listens.
    pub socket: String,
    /// Its process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The program it was started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// Seconds since it started.
    #[serde(default)]
    pub uptime_secs: u64,
    /// Bytes of memory it holds.
    #[serde(default)]
    pub memory_bytes: u64,
    /// The connections it keeps.
    #[serde(default)]
    pub connections: Vec<KeptView>,
    /// The folders it watches.
    #[serde(default)]
    pub watched: Vec<WatchedView>,
}

/// A kept connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptView {
    /// The host and port that answered.
    pub peer: String,
    /// The folder of the lease's keys, whose name is the lease's id.
    pub lease: String,
    /// Commands that use it now.
    pub clients: u32,
    /// Whether a helper runs at its other end.
    pub helper: bool,
    /// Seconds since it was last used.
    pub idle_secs: u64,
}

/// A watched folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WatchedView {
    /// The folder.
    pub root: String,
    /// Folders below it that are watched.
    pub folders: u64,
}
