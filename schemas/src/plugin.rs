//! Provider protocol 1: the params and results of every method, event and host callback.
//!
//! Frames are JSON-RPC 2.0, one object a line; the frame rules live in `crabbox-wire`, the story in
//! `docs/protocol.md`.

mod blob;
mod callbacks;
mod events;
mod exec;
mod facts;
mod http;
mod runs;
mod ws;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::blob::*;
pub use self::callbacks::*;
pub use self::events::*;
pub use self::exec::*;
pub use self::facts::*;
pub use self::http::*;
pub use self::runs::*;
pub use self::ws::*;
pub use crate::error::Resource;
use crate::lease::{Bootstrap, BoxRequest, Desired, Expected, Lease, ReleaseOutcome};

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
    pub const CATALOG_SIZES: &str = "catalog.sizes";
    pub const CATALOG_REGIONS: &str = "catalog.regions";
    pub const PRICING_QUOTE: &str = "pricing.quote";
    pub const EVIDENCE_COLLECT: &str = "evidence.collect";
    pub const ACCESS_GRANT: &str = "access.grant";
    pub const ACCESS_REVOKE: &str = "access.revoke";
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
    pub const USAGE: &str = "event/usage";
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
    pub const EXEC_OPEN: &str = "host/exec.open";
    pub const EXEC_READ: &str = "host/exec.read";
    pub const EXEC_WRITE: &str = "host/exec.write";
    pub const EXEC_KILL: &str = "host/exec.kill";
    pub const HTTP: &str = "host/http";
    pub const HTTP_OPEN: &str = "host/http.open";
    pub const HTTP_READ: &str = "host/http.read";
    pub const HTTP_CLOSE: &str = "host/http.close";
    pub const WS_OPEN: &str = "host/ws.open";
    pub const WS_SEND: &str = "host/ws.send";
    pub const WS_RECV: &str = "host/ws.recv";
    pub const WS_CLOSE: &str = "host/ws.close";
    pub const BLOB_CREATE: &str = "host/blob.create";
    pub const BLOB_WRITE: &str = "host/blob.write";
    pub const BLOB_SEAL: &str = "host/blob.seal";
    pub const BLOB_READ: &str = "host/blob.read";
    pub const BLOB_DROP: &str = "host/blob.drop";
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
    /// Callback groups the kernel serves: `resource`, `secret`, `kv`, `sleep`, `exec`, `exec.open`, `http`, `http.open`,
    /// `ws`, `blob`, `prompt`.
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
    /// For providers with the feature `cloud-init`: how the machine becomes a box.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
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
