//! Box channel 1: what the laptop and the helper on the box say to each other.
//!
//! JSON-RPC 2.0 frames in the packets of `crabbox-wire`, beside channels of raw bytes; the story is in
//! `docs/box-channel.md`. The helper speaks first: a greeting, then a [`Hello`] notification.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The version of the channel. A helper is named by its own hash, so both ends are always made together; the
/// number is for those who read a transcript.
pub const CHANNEL: u32 = 1;

/// Requests, laptop to helper.
pub mod method {
    #![allow(missing_docs, reason = "each is documented by its params type")]
    pub const FLIGHT: &str = "flight";
    pub const FEED: &str = "feed";
    pub const RUN_ATTACH: &str = "run.attach";
    pub const RUN_SIGNAL: &str = "run.signal";
    pub const RUN_LIST: &str = "run.list";
    pub const RUN_FORGET: &str = "run.forget";
    pub const BOX_STAT: &str = "box.stat";
}

/// Notifications, either way as their types say.
pub mod note {
    #![allow(missing_docs, reason = "each is documented by its params type")]
    pub const HELLO: &str = "hello";
    pub const CREDIT: &str = "credit";
    pub const CANCEL: &str = "cancel";
    pub const SESSION_END: &str = "session.end";
    pub const WAITING: &str = "flight.waiting";
    pub const NEED: &str = "flight.need";
    pub const SEEDED: &str = "flight.seeded";
    pub const STARTED: &str = "run.started";
    pub const EXITED: &str = "run.exited";
    pub const GAP: &str = "run.gap";
    pub const STALLED: &str = "run.stalled";
    pub const RESIZE: &str = "run.resize";
}

/// The byte channels of one flight or attachment: its base number, which the laptop chooses (1, 2, …), times
/// 16, plus one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// To the helper: the delta's text.
    Delta = 0,
    /// To the helper: sealed blocks, one a packet.
    Blocks = 1,
    /// To the laptop: which pieces the helper has, a bit each.
    Have = 2,
    /// To the laptop: the text of the manifest the helper holds, when the base was wrong.
    Manifest = 3,
    /// To the helper: the command's standard input.
    Stdin = 4,
    /// To the laptop: the command's standard output, or the terminal's output.
    Stdout = 5,
    /// To the laptop: the command's standard error.
    Stderr = 6,
    /// To the helper: the body of an uploaded script.
    Script = 7,
}

impl Role {
    /// Every role, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Delta,
        Self::Blocks,
        Self::Have,
        Self::Manifest,
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::Script,
    ];

    /// Most bytes a channel may be ahead of what its reader granted. Blocks may come over many SSH channels at once.
    pub fn window(self) -> u64 {
        if self == Self::Blocks { 16 << 20 } else { 8 << 20 }
    }

    /// With how many it begins: output waits in the memory of whoever passes it on, so its reader grants more only
    /// while it keeps up.
    pub fn first_window(self) -> u64 {
        match self {
            Self::Stdout | Self::Stderr => 512 << 10,
            other => other.window(),
        }
    }

    /// The channel with this role of base number `base`.
    pub fn of(self, base: u32) -> u32 {
        base.wrapping_mul(16).wrapping_add(self as u32)
    }

    /// Base number and role of a channel; `None` for channel 0 and unknown roles.
    pub fn from_channel(channel: u32) -> Option<(u32, Self)> {
        let role = Self::ALL.get((channel % 16) as usize)?;
        (channel >= 16).then_some((channel / 16, *role))
    }
}

/// Text, or bytes that are not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Blob {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes {
        /// Base64, standard alphabet, padded.
        b64: String,
    },
}

/// `hello`, helper to laptop, first: who is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// [`CHANNEL`].
    pub channel: u32,
    /// The helper's own hash, 64 hex digits.
    pub helper: String,
    /// `linux`, …
    pub os: String,
    /// `x86_64`, …
    pub arch: String,
    /// The helper's process id.
    pub pid: u32,
    /// The box's clock, milliseconds since 1970.
    pub now_ms: u64,
}

/// `credit`, either way: the reader of a channel takes this many bytes more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Grant {
    /// The channel.
    pub channel: u32,
    /// Bytes.
    pub bytes: u64,
}

/// `cancel`, laptop to helper: the answer to this request is not wanted any more. What is half done is undone or
/// finished; the answer still comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CancelParams {
    /// The request's id.
    pub id: u64,
}

/// `flight`: make the tree so, and start this command in it. Either half may be missing.
///
/// The delta (when there is a `tree`) follows on its channel at once; blocks and script follow as `tree.ask` and
/// `run.script` say. Nothing is written before base and drift are checked, and nothing is started before
/// the tree is exactly as wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlightParams {
    /// Base number of its byte channels.
    pub channels: u32,
    /// The fence: the lease this is for. A work root that belongs to another lease refuses.
    pub lease: String,
    /// The lease's folder on the box, absolute: `<workRoot>/<leaseID>`. Notes live in `.crabbox` below it.
    pub base_dir: String,
    /// The tree's folder below it, one path component: the repository's name.
    pub repo: String,
    /// How the work tree is locked.
    pub lock: LockAsk,
    /// What the tree shall be; without it the tree is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeChange>,
    /// Run in a private copy of the tree, made after the sync; the lock is given back once it stands.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolate: bool,
    /// A script for sh that makes the tree a git checkout. It runs where the command will, right before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkout: Option<String>,
    /// The command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunSpec>,
}

/// How a work tree is locked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LockAsk {
    /// Who holds it, for people: a run id and a host.
    pub owner: String,
    /// How long to queue, milliseconds; 0 fails at once.
    pub wait_ms: u64,
}

/// What a tree shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TreeChange {
    /// Digest of the manifest the delta starts from, 64 hex digits; the empty manifest has one too.
    pub base: String,
    /// Digest of the manifest it leads to.
    pub target: String,
    /// Whether the helper shall say which pieces it lacks before blocks are sent. Without it every piece of the
    /// delta follows at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ask: bool,
    /// Read every managed file's bytes instead of trusting times and sizes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checksum: bool,
    /// With `ask`: where the box may find contents by itself while the others are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Origin>,
}

/// A public git repository that may have contents of the tree. Whatever comes from there is proved by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// `https`, `http` or `git`, without a user.
    pub url: String,
    /// A commit it should have.
    pub commit: String,
    /// A reference to take where it gives no commit by name.
    #[serde(rename = "ref")]
    pub reference: String,
}

/// A command to start, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunSpec {
    /// The run. An id that was started before is refused.
    pub run_id: String,
    /// What to start.
    pub action: Action,
    /// Added to the login environment.
    pub env: BTreeMap<String, Blob>,
    /// A terminal for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<Terminal>,
    /// Whether standard input follows; else it is empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// Stop it after this time, milliseconds, also when nobody is attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Most bytes of output kept on the box, each stream.
    pub spool_bytes: u64,
}

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// These words, exactly.
    Exec(Vec<Blob>),
    /// A line of shell, by bash where there is one, else by sh.
    Shell(Blob),
    /// The bytes of the script channel, by their `#!` line, else by sh, with these arguments.
    Script(Vec<Blob>),
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Terminal {
    /// The `TERM` value.
    pub term: String,
    /// Columns.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
}

/// `flight.waiting`, helper to laptop: another run holds the work tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Waiting {
    /// Base number of the flight's channels.
    pub channels: u32,
    /// Who holds it.
    pub owner: String,
}

/// `flight.need`, helper to laptop, after the bits on [`Role::Have`]: send the other pieces now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Need {
    /// Base number of the flight's channels.
    pub channels: u32,
    /// How many pieces are missing.
    pub pieces: u64,
    /// How long the helper thought about it once the delta was here. The rest of the time it took the link.
    #[serde(default)]
    pub ms: u64,
}

/// `feed`, while a flight's blocks are under way: other processes may bring some of them, each over an SSH channel of
/// its own, which has a window of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeedParams {
    /// Base number of the flight's channels.
    pub channels: u32,
}

/// The answer to `feed`: start `program` with the words `feed` and `socket`. Once it printed the channel's greeting,
/// its standard input takes packets of the flight's blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Feed {
    /// Path of the helper.
    pub program: String,
    /// Where it finds the one that answers this.
    pub socket: String,
}

/// `flight.seeded`, helper to laptop, any number of times before the answer: these pieces need not be sent any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Seeded {
    /// Base number of the flight's channels.
    pub channels: u32,
    /// Ranges of pieces: the number of the first, and how many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pieces: Vec<[u64; 2]>,
    /// How the seed ended, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
}

/// The answer to a flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum FlightResult {
    /// The tree is exactly as wanted. The command, if there is one, was started: `run.started` came before.
    Applied(Applied),
    /// Nothing was written and nothing was started.
    Refused(Refused),
}

/// What was done to a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// Entries written.
    pub written: u64,
    /// Entries removed.
    pub removed: u64,
    /// Bytes of content that came over the wire, unpacked.
    pub received_bytes: u64,
    /// Bytes of content that were already on the box.
    pub reused_bytes: u64,
    /// Milliseconds spent on checking, receiving and writing.
    pub ms: u64,
}

/// Why a flight was refused, and what really is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", tag = "why")]
pub enum Refused {
    /// The base is another one; the manifest that is held came on [`Role::Manifest`].
    Base,
    /// Managed paths were changed on the box and the delta does not repair them.
    #[serde(rename_all = "camelCase")]
    Drift {
        /// The paths.
        paths: Vec<Blob>,
    },
    /// A piece does not hash to what the delta says: the file changed while it was sent.
    Content,
    /// Another run holds the work tree and waiting was over.
    Busy {
        /// Who.
        owner: String,
    },
    /// The work root belongs to another lease.
    Fence {
        /// Whose it is.
        lease: String,
    },
}

/// `run.started`, helper to laptop: the command runs; sent before any of its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// The run.
    pub run_id: String,
    /// Its process group.
    pub pid: u32,
    /// Where it runs.
    pub workdir: String,
    /// The box's clock, milliseconds since 1970.
    pub at_ms: u64,
}

/// `run.attach`: give me this run's output from these offsets on, and its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttachParams {
    /// Base number of its byte channels.
    pub channels: u32,
    /// The lease's folder on the box.
    pub base_dir: String,
    /// The run.
    pub run_id: String,
    /// First byte of standard output that is wanted.
    pub stdout: u64,
    /// First byte of standard error that is wanted.
    pub stderr: u64,
    /// Whether standard input comes from here from now on, and how much of it the run had already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<u64>,
}

/// The state of a run; the answer to `run.attach`, and an element of `run.list`'s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunState {
    /// The run.
    pub run_id: String,
    /// `unknown`: never started here. `running`. `exited`. `lost`: it was started, and its keeper died with it.
    pub state: String,
    /// How it ended; output may still follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<RunExit>,
    /// The box's clock when it started, milliseconds since 1970.
    #[serde(default)]
    pub started_ms: u64,
    /// The words as given, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Bytes of standard input the run has taken so far.
    #[serde(default)]
    pub stdin_taken: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunExit {
    /// Its status, 128 + number for a signal.
    pub code: i32,
    /// The signal's name without `SIG`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Whether its own `timeoutMs` ended it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// Length of standard output.
    pub stdout: u64,
    /// Length of standard error.
    pub stderr: u64,
    /// The box's clock when it ended, milliseconds since 1970.
    pub ended_ms: u64,
    /// What it used.
    #[serde(default)]
    pub usage: Usage,
}

/// What a command used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Processor time in user mode, milliseconds.
    pub user_ms: u64,
    /// Processor time in the kernel, milliseconds.
    pub system_ms: u64,
    /// Largest resident set, bytes.
    pub max_rss_bytes: u64,
}

/// `run.exited`, helper to laptop: after all output that is going to come was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exited {
    /// Base number of the channels its output came on.
    pub channels: u32,
    /// The run.
    pub run_id: String,
    /// How it ended; `None` when it is lost.
    pub exit: Option<RunExit>,
}

/// `run.gap`, helper to laptop: bytes of a stream were dropped because the spool was full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// The channel.
    pub channel: u32,
    /// First missing byte.
    pub from: u64,
    /// First byte that follows.
    pub to: u64,
}

/// `run.stalled`, helper to laptop: the box's disk is full, and the command waits until its output can be kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stalled {
    /// Base number of the channels.
    pub channels: u32,
    /// The run.
    pub run_id: String,
}

/// `run.signal`: end a run's whole process group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignalParams {
    /// The lease's folder on the box.
    pub base_dir: String,
    /// The run.
    pub run_id: String,
    /// Kill at once; else interrupt, terminate, kill within two seconds.
    pub now: bool,
}

/// The answer to `run.signal`, once the process group is gone or is not going.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignalResult {
    /// No process of the group is left.
    pub gone: bool,
}

/// `run.resize`, laptop to helper: the terminal has a new size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResizeParams {
    /// The run.
    pub run_id: String,
    /// Columns.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
}

/// `run.list` and `run.forget`: which lease's runs, and for `run.forget` which run: its spool is removed unless it
/// still runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunsParams {
    /// The lease's folder on the box.
    pub base_dir: String,
    /// The run to forget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
}

/// The answer to `run.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunsResult {
    /// The runs of a lease, oldest first.
    pub runs: Vec<RunState>,
}

/// The answer to `box.stat`: how the box is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BoxStat {
    /// Processors.
    pub cpus: u32,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory in all, bytes.
    pub memory_bytes: u64,
    /// Memory that can still be had, bytes.
    pub memory_free_bytes: u64,
    /// Size of the file system of the work root, bytes.
    pub disk_bytes: u64,
    /// What is free there, bytes.
    pub disk_free_bytes: u64,
    /// Bytes in the content store.
    pub store_bytes: u64,
    /// Seconds since the box started.
    pub uptime_secs: u64,
}
