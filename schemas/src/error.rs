//! The closed list of error codes, the provider error kinds, and the shape a failure has in JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lease::Desired;

/// Why crabbox itself failed; `errorKind` in JSON. Each code is documented in `docs/exit-codes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The command line does not make sense.
    Usage,
    /// A configuration file cannot be read or holds an impossible value.
    Config,
    /// A repository's file sets a key only the user may set.
    ConfigUntrusted,
    /// No such provider, or none chosen where one is needed.
    ProviderUnknown,
    /// `--provider` contradicts the lease's claim.
    ProviderMismatch,
    /// The provider or target cannot do what was asked.
    Unsupported,
    /// The lease belongs to another checkout.
    ClaimConflict,
    /// Another owner already uses the name or resource.
    Conflict,
    /// The resource is not the one that was expected; nothing was touched.
    Precondition,
    /// A plugin needs a permission it was not given.
    GrantDenied,
    /// A plugin that nobody agreed to, that was changed, or that a policy forbids.
    PluginUntrusted,
    /// Credentials are missing, wrong or expired.
    Auth,
    /// The credentials lack a right.
    Permission,
    /// The account is suspended or has no means of payment.
    Billing,
    /// No such lease, run or file.
    NotFound,
    /// The name fits more than one lease or run.
    Ambiguous,
    /// The provider has no machine of that kind left.
    Capacity,
    /// The account's limit is reached.
    Quota,
    /// The provider asks us to slow down.
    RateLimited,
    /// A passing fault at the provider.
    Transient,
    /// The provider was too slow.
    ProviderTimeout,
    /// The box exists but never became usable.
    Bootstrap,
    /// A guard refused the sync: too large, or too many deletions.
    SyncGuard,
    /// A local file could not be read, or changed while it was read.
    SyncRead,
    /// The box could not store the tree.
    SyncWrite,
    /// The tree on the box does not equal the manifest.
    SyncVerify,
    /// Another run uses the work directory.
    Busy,
    /// The host name could not be resolved.
    SshDns,
    /// No port accepted a connection.
    SshTcp,
    /// Something answered, but not an SSH server in time.
    SshBanner,
    /// The host key is not the pinned one.
    SshHostKey,
    /// The server refused our key.
    SshAuth,
    /// The ready check of the box failed.
    SshReady,
    /// The connection broke.
    ConnectionLost,
    /// The lease is past its end.
    LeaseExpired,
    /// `--timeout` ran out and the command was stopped.
    CommandTimeout,
    /// The user interrupted.
    Cancelled,
    /// A plugin crashed, stalled or broke the protocol.
    PluginFault,
    /// Local state could not be read or written.
    State,
    /// A check of `doctor` found problems.
    Unhealthy,
    /// A fault in crabbox.
    Internal,
}

/// Code, word on the wire, exit status, whether trying the same again may work.
const CODES: &[(ErrorCode, &str, i32, bool)] = &[
    (ErrorCode::Usage, "usage", 2, false),
    (ErrorCode::Config, "config", 2, false),
    (ErrorCode::ConfigUntrusted, "config_untrusted", 2, false),
    (ErrorCode::ProviderUnknown, "provider_unknown", 2, false),
    (ErrorCode::ProviderMismatch, "provider_mismatch", 2, false),
    (ErrorCode::Unsupported, "unsupported", 2, false),
    (ErrorCode::ClaimConflict, "claim_conflict", 2, false),
    (ErrorCode::Conflict, "conflict", 2, false),
    (ErrorCode::Precondition, "precondition", 2, false),
    (ErrorCode::GrantDenied, "grant_denied", 2, false),
    (ErrorCode::PluginUntrusted, "plugin_untrusted", 2, false),
    (ErrorCode::Auth, "auth", 3, false),
    (ErrorCode::Permission, "permission", 3, false),
    (ErrorCode::Billing, "billing", 3, false),
    (ErrorCode::NotFound, "not_found", 4, false),
    (ErrorCode::Ambiguous, "ambiguous", 4, false),
    (ErrorCode::Capacity, "capacity", 4, true),
    (ErrorCode::Quota, "quota", 4, false),
    (ErrorCode::RateLimited, "rate_limited", 5, true),
    (ErrorCode::Transient, "transient", 5, true),
    (ErrorCode::ProviderTimeout, "provider_timeout", 5, true),
    (ErrorCode::Bootstrap, "bootstrap", 5, true),
    (ErrorCode::SyncGuard, "sync_guard", 6, false),
    (ErrorCode::SyncRead, "sync_read", 6, true),
    (ErrorCode::SyncWrite, "sync_write", 6, false),
    (ErrorCode::SyncVerify, "sync_verify", 6, true),
    (ErrorCode::Busy, "busy", 6, true),
    (ErrorCode::SshDns, "ssh_dns", 7, true),
    (ErrorCode::SshTcp, "ssh_tcp", 7, true),
    (ErrorCode::SshBanner, "ssh_banner", 7, true),
    (ErrorCode::SshHostKey, "ssh_host_key", 7, false),
    (ErrorCode::SshAuth, "ssh_auth", 7, false),
    (ErrorCode::SshReady, "ssh_ready", 7, true),
    (ErrorCode::ConnectionLost, "connection_lost", 7, true),
    (ErrorCode::LeaseExpired, "lease_expired", 8, false),
    (ErrorCode::CommandTimeout, "command_timeout", 124, false),
    (ErrorCode::Cancelled, "cancelled", 130, false),
    (ErrorCode::PluginFault, "plugin_fault", 1, false),
    (ErrorCode::State, "state", 1, false),
    (ErrorCode::Unhealthy, "unhealthy", 1, false),
    (ErrorCode::Internal, "internal", 1, false),
];

impl ErrorCode {
    /// Every code, in table order.
    pub fn all() -> impl Iterator<Item = Self> {
        CODES.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, i32, bool) {
        CODES.iter().find(|row| row.0 == self).unwrap_or(&(Self::Internal, "internal", 1, false))
    }

    /// The word used in JSON.
    pub fn word(self) -> &'static str {
        self.row().1
    }

    /// The exit status of a command that fails with this code.
    pub fn exit_status(self) -> i32 {
        self.row().2
    }

    /// Whether trying the same thing again may work.
    pub fn retryable(self) -> bool {
        self.row().3
    }
}

/// Why a provider call failed: `error.data.kind` on the plugin wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// A setting is wrong; `data.field` points at it.
    InvalidConfig,
    /// The request does not make sense.
    InvalidRequest,
    /// The provider cannot do this.
    Unsupported,
    /// Missing or expired credential.
    Auth,
    /// The credential lacks a right.
    Permission,
    /// Account suspended or no payment.
    Billing,
    /// No such resource.
    NotFound,
    /// Name taken, other owner.
    Conflict,
    /// `expected` did not match; nothing was touched.
    Precondition,
    /// Lease past its end.
    Expired,
    /// No machine of that kind left here.
    Capacity,
    /// The account's limit is reached.
    Quota,
    /// Slow down; see `retryAfterMs`.
    RateLimited,
    /// A passing fault.
    Transient,
    /// The far side was slow.
    Timeout,
    /// The machine exists but never became usable.
    Bootstrap,
    /// The kernel cancelled the call.
    Cancelled,
    /// A permission is missing.
    GrantDenied,
    /// Crash or protocol breach; made by the kernel.
    ProviderBug,
    /// Anything else, and every kind a reader does not know.
    #[serde(other)]
    Internal,
}

/// Kind, word on the wire, JSON-RPC code.
const KINDS: &[(ErrorKind, &str, i32)] = &[
    (ErrorKind::InvalidConfig, "invalid_config", 1001),
    (ErrorKind::InvalidRequest, "invalid_request", 1002),
    (ErrorKind::Unsupported, "unsupported", 1003),
    (ErrorKind::Auth, "auth", 1010),
    (ErrorKind::Permission, "permission", 1011),
    (ErrorKind::Billing, "billing", 1012),
    (ErrorKind::NotFound, "not_found", 1020),
    (ErrorKind::Conflict, "conflict", 1021),
    (ErrorKind::Precondition, "precondition", 1022),
    (ErrorKind::Expired, "expired", 1023),
    (ErrorKind::Capacity, "capacity", 1030),
    (ErrorKind::Quota, "quota", 1031),
    (ErrorKind::RateLimited, "rate_limited", 1032),
    (ErrorKind::Transient, "transient", 1040),
    (ErrorKind::Timeout, "timeout", 1041),
    (ErrorKind::Bootstrap, "bootstrap", 1042),
    (ErrorKind::Cancelled, "cancelled", 1050),
    (ErrorKind::GrantDenied, "grant_denied", 1060),
    (ErrorKind::ProviderBug, "provider_bug", 1090),
    (ErrorKind::Internal, "internal", 1099),
];

impl ErrorKind {
    /// Every kind, in table order.
    pub fn all() -> impl Iterator<Item = Self> {
        KINDS.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, i32) {
        KINDS.iter().find(|row| row.0 == self).unwrap_or(&(Self::Internal, "internal", 1099))
    }

    /// The word used on the wire.
    pub fn word(self) -> &'static str {
        self.row().1
    }

    /// The JSON-RPC `error.code` that goes with it.
    pub fn rpc_code(self) -> i32 {
        self.row().2
    }
}

/// What may have happened to the world when a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing was created or changed.
    NotStarted,
    /// Something was created and removed again.
    RolledBack,
    /// The work was done although an error is reported.
    Completed,
    /// Nobody knows; the kernel reconciles.
    Uncertain,
}

/// A JSON-RPC error object as plugins send it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RpcError {
    /// [`ErrorKind::rpc_code`], or a JSON-RPC protocol fault below −32000.
    pub code: i32,
    /// One line, at most 500 characters, safe to show.
    pub message: String,
    /// What matters to the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<ErrorData>,
}

impl RpcError {
    /// A failure of this kind, and nothing more to say.
    pub fn of(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { code: kind.rpc_code(), message: message.into(), data: Some(ErrorData::of(kind)) }
    }

    /// Says more: a hint, a cause, an outcome.
    #[must_use]
    pub fn with(mut self, more: impl FnOnce(&mut ErrorData)) -> Self {
        if let Some(data) = &mut self.data {
            more(data);
        }
        self
    }
}

/// The machine-readable half of a plugin's error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorData {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// What may have happened to the world.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Milliseconds to wait before trying again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// What the user can do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Causes, outermost first, the root last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cause: Vec<String>,
    /// JSON pointer of the offending setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Everything that was left behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Resource>,
    /// Machine types that could be had instead, when there is no capacity or quota for those that were tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<String>,
}

impl ErrorData {
    /// This kind, and nothing more to say.
    pub fn of(kind: ErrorKind) -> Self {
        Self {
            kind,
            outcome: None,
            retry_after_ms: None,
            hint: None,
            cause: Vec::new(),
            field: None,
            resources: Vec::new(),
            alternatives: Vec::new(),
        }
    }
}

/// Something a provider created that may cost money or disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// `server`, `volume`, `process` and so on, in the provider's words.
    pub kind: String,
    /// The provider's immutable id.
    pub cloud_id: String,
    /// Where it lives, if that matters for finding it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether it costs money while it exists.
    #[serde(default)]
    pub billable: bool,
}

/// What `--json` prints when crabbox failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureDocument {
    /// Version of this document.
    pub schema_version: u32,
    /// The failure.
    pub error: Failure,
}

/// A failure, as programs read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Version of this document.
    pub schema_version: u32,
    /// What to branch on.
    pub error_kind: ErrorCode,
    /// Which step failed: `config`, `plan`, `acquire`, `connect`, `sync`, `command`, `release`, …
    pub stage: String,
    /// Who failed: always `crabbox` here; a command's own status is not a failure of crabbox.
    pub by: String,
    /// The sentence for people.
    pub message: String,
    /// Causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cause: Vec<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Machine types that could be had instead, when none of those that were tried can.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<String>,
    /// Whether trying again may work.
    pub retryable: bool,
    /// What may have happened to the world, where that is in doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The exit status.
    pub exit_code: i32,
    /// The lease concerned, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Desired>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_on_the_wire_are_the_words_in_the_table() {
        for code in ErrorCode::all() {
            assert_eq!(serde_json::to_value(code).unwrap(), code.word());
        }
        for kind in ErrorKind::all() {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }

    #[test]
    fn an_unknown_kind_reads_as_internal() {
        assert_eq!(serde_json::from_str::<ErrorKind>("\"weather\"").unwrap(), ErrorKind::Internal);
    }
}
