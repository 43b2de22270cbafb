//! Provider protocol 1: the params and results of every method, event and host callback.
//!
//! Frames are JSON-RPC 2.0, one object a line; the frame rules live in `crabbox-wire`, the story in
//! `docs/protocol.md`.

mod callbacks;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::callbacks::{
    ExecParams, ExecResult, KvParams, KvResult, PromptParams, PromptResult, ResourceParams,
    SecretParams, SecretResult, SleepParams, SleepResult,
};
pub use crate::error::Resource;
use crate::lease::{BoxRequest, Desired, Expected, Lease, ReleaseOutcome};

/// Protocol versions this kernel and SDK speak, newest first.
pub const PROTOCOLS: &[&str] = &["1.0"];

/// Method names, kernel to plugin.
pub mod method {
    #![allow(missing_docs, reason = "each is documented by its params type")]
    pub const INITIALIZE: &str = "initialize";
    pub const SHUTDOWN: &str = "shutdown";
    pub const PING: &str = "ping";
    pub const CONFIG_VALIDATE: &str = "config.validate";
    pub const DOCTOR: &str = "doctor";
    pub const LEASE_ACQUIRE: &str = "lease.acquire";
    pub const LEASE_RESOLVE: &str = "lease.resolve";
    pub const LEASE_LIST: &str = "lease.list";
    pub const LEASE_RELEASE: &str = "lease.release";
    pub const LEASE_TOUCH: &str = "lease.touch";
    pub const RUN_WARMUP: &str = "run.warmup";
    pub const RUN_START: &str = "run.start";
    pub const RUN_LIST: &str = "run.list";
    pub const RUN_STATUS: &str = "run.status";
    pub const RUN_STOP: &str = "run.stop";
    pub const CANCEL: &str = "$/cancel";
    pub const CREDIT: &str = "$/credit";
}

/// Event names, plugin to kernel.
pub mod event {
    #![allow(missing_docs, reason = "each is documented by its params type")]
    pub const LOG: &str = "event/log";
    pub const PROGRESS: &str = "event/progress";
    pub const ATTEMPT: &str = "event/attempt";
    pub const OUTPUT: &str = "event/output";
    pub const GAP: &str = "event/gap";
}

/// Callback names, plugin to kernel.
pub mod callback {
    #![allow(missing_docs, reason = "each is documented by its params type")]
    pub const RESOURCE_RECORD: &str = "host/resource.record";
    pub const RESOURCE_FORGET: &str = "host/resource.forget";
    pub const SECRET_REVEAL: &str = "host/secret.reveal";
    pub const KV_GET: &str = "host/kv.get";
    pub const KV_PUT: &str = "host/kv.put";
    pub const KV_DELETE: &str = "host/kv.delete";
    pub const KV_LIST: &str = "host/kv.list";
    pub const SLEEP: &str = "host/sleep";
    pub const EXEC: &str = "host/exec";
    pub const PROMPT: &str = "host/prompt";
}

/// `initialize`: the kernel introduces itself and hands over this instance's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InitializeParams {
    /// Versions the kernel speaks, newest first.
    pub protocols: Vec<String>,
    /// Who is calling.
    pub kernel: Peer,
    /// Whether a person can answer prompts.
    #[serde(default)]
    pub interactive: bool,
    /// Bounds both sides keep.
    #[serde(default)]
    pub limits: Limits,
    /// Callback groups the kernel serves: `resource`, `secret`, `kv`, `sleep`, `exec`, `prompt`.
    #[serde(default)]
    pub callbacks: Vec<String>,
    /// The provider that is wanted and its settings.
    pub instance: Instance,
}

/// A program and its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Bounds of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Longest line in bytes, LF included.
    pub max_line: usize,
    /// Bytes of output a call may have outstanding before it waits for credit.
    pub output_window: u64,
    /// Calls the plugin must be able to hold at once.
    pub max_inflight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_line: 1 << 20, output_window: 1 << 20, max_inflight: 8 }
    }
}

/// One configured provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Which provider of the plugin.
    pub provider: String,
    /// Its settings, already checked against its schema; secrets appear as `{"$secret": "name"}`.
    #[serde(default)]
    pub config: serde_json::Map<String, Value>,
    /// Plain facts some providers need: the user's home directory and search path.
    #[serde(default)]
    pub user: UserFacts,
}

/// Facts about the user's machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UserFacts {
    /// Home directory.
    pub home: String,
    /// Search path of the user's shell.
    pub path: String,
    /// Login name.
    pub login: String,
}

/// The plugin's answer to `initialize`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InitializeResult {
    /// The version it chose: the highest both know.
    pub protocol: String,
    /// Who it is; must agree with its manifest.
    pub plugin: PluginIdentity,
    /// Which provider it will be; must agree with its manifest.
    pub provider: ProviderOffer,
    /// Methods it answers.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Callback groups it cannot work without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
}

/// A plugin's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginIdentity {
    /// `publisher/name`.
    pub id: String,
    /// Semantic version.
    pub version: String,
}

/// What a plugin offers under one provider name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderOffer {
    /// The provider's name.
    pub name: String,
    /// `ssh-lease` or `delegated-run`.
    pub kind: ProviderKind,
    /// Optional powers by name.
    #[serde(default)]
    pub features: Vec<String>,
    /// Acquiring twice with one lease id yields one resource.
    #[serde(default)]
    pub idempotent_acquire: bool,
}

/// The two behaviours a provider may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderKind {
    /// It hands out boxes the kernel connects to.
    SshLease,
    /// It runs the command itself.
    DelegatedRun,
}

/// Bounds and identity of one call; every request's params carry it as `ctx`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallContext {
    /// Time left for the call in milliseconds, never a wall-clock instant.
    pub deadline_ms: u64,
    /// Time left to clean up after a cancel, in milliseconds.
    pub grace_ms: u64,
    /// Names one logical attempt; equal on every retry of it.
    pub idem: String,
    /// Say what would happen, create nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Params of `lease.acquire` and `run.warmup`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcquireParams {
    /// Bounds and identity of the call.
    pub ctx: CallContext,
    /// The identity to use.
    pub desired: Desired,
    /// What kind of box.
    pub request: BoxRequest,
    /// Public half of the lease's key, OpenSSH one-line form.
    pub ssh_public_key: String,
    /// Labels to put on the resource before it becomes billable.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Result of acquire, touch and warmup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseResult {
    /// The box.
    pub lease: Lease,
}

/// Why a lease is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To run something on it.
    Use,
    /// To show it.
    Status,
    /// To give it back.
    Release,
    /// To learn what an interrupted acquire left behind.
    Reconcile,
}

/// Params of `lease.resolve` and `run.status`. `not_found` is the error that proves absence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolveParams {
    /// Bounds and identity of the call.
    pub ctx: CallContext,
    /// Lease id, slug, machine name or provider id, as the user typed it.
    pub id: String,
    /// What the kernel knows of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Lease>,
    /// Resources the journal recorded for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Resource>,
    /// Why it is looked up.
    pub purpose: Purpose,
}

/// Params of `lease.list` and `run.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListParams {
    /// Bounds and identity of the call.
    pub ctx: CallContext,
    /// Where to go on, from the previous page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One page of leases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListResult {
    /// Leases that carry crabbox's label; nothing else.
    pub leases: Vec<Lease>,
    /// Where to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// False when something could not be read: then absence proves nothing.
    pub complete: bool,
}

/// Params of `lease.release` and `run.stop`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseParams {
    /// Bounds and identity of the call.
    pub ctx: CallContext,
    /// What the kernel knows of it.
    pub lease: Lease,
    /// What must be true before anything is deleted.
    pub expected: Expected,
}

/// Result of `lease.release` and `run.stop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseResult {
    /// How it ended.
    pub outcome: ReleaseOutcome,
}

/// Params of `lease.touch`: still in use; stored limits stay as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TouchParams {
    /// Bounds and identity of the call.
    pub ctx: CallContext,
    /// What the kernel knows of it.
    pub lease: Lease,
    /// `ready` or `running`.
    pub state: String,
}

/// Params of methods that need nothing but bounds: `shutdown`, `ping`, `doctor`, `config.validate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BareParams {
    /// Bounds and identity of the call.
    pub ctx: CallContext,
}

/// Result of `doctor`; it must create nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorResult {
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One finding of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Dotted name, such as `isolation.level`.
    pub id: String,
    /// How it went.
    pub status: CheckStatus,
    /// What was seen.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// Fine.
    Ok,
    /// Works with limits.
    Warn,
    /// Does not work.
    Fail,
    /// Not looked at, and why.
    Skip,
}

/// Params of `run.start`: run one command where the provider runs commands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStartParams {
    /// Bounds and identity of the call.
    pub ctx: CallContext,
    /// The run's id.
    pub run_id: String,
    /// The box to use, from `run.warmup`.
    pub lease: Lease,
    /// The command, passed exactly.
    pub command: Vec<String>,
    /// Values for its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Path of a tar file with the tree, readable by the plugin; absent with `--no-sync`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Seconds after which the command must be stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<u64>,
}

/// Result of `run.start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStartResult {
    /// The command's own status; a platform's "succeeded" without it is a failure.
    pub exit_code: i32,
    /// Name of the signal that ended it, without `SIG`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// `$/cancel`: stop call `id`; an answer is still required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CancelParams {
    /// The call.
    pub id: u64,
    /// `user`, `deadline` or `shutdown`.
    pub reason: String,
    /// Time left to clean up, in milliseconds.
    pub grace_ms: u64,
}

/// `$/credit`: call `call` may send this many more bytes of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreditParams {
    /// The call.
    pub call: u64,
    /// Bytes.
    pub bytes: u64,
}

/// `event/log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogEvent {
    /// The call it belongs to.
    pub call: u64,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// One line.
    pub message: String,
}

/// `event/progress`; `done` never decreases within a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProgressEvent {
    /// The call it belongs to.
    pub call: u64,
    /// What is going on.
    pub phase: String,
    /// How much is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// Out of how much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// `event/attempt`: one candidate machine that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptEvent {
    /// The call it belongs to.
    pub call: u64,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Which machine type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_type: Option<String>,
    /// `spot` or `on-demand`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market: Option<String>,
    /// Error kind, when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// One line.
    pub message: String,
}

/// `event/output`: bytes of a delegated command; exactly one of `text` and `b64`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputEvent {
    /// The call it belongs to.
    pub call: u64,
    /// `stdout` or `stderr`.
    pub ch: String,
    /// Offset of the first byte in its channel.
    pub off: u64,
    /// The bytes, when they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64 otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b64: Option<String>,
}

/// `event/gap`: bytes that are honestly lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GapEvent {
    /// The call it belongs to.
    pub call: u64,
    /// `stdout` or `stderr`.
    pub ch: String,
    /// First lost byte.
    pub from: u64,
    /// First byte after the gap.
    pub to: u64,
    /// Why.
    pub reason: String,
}
