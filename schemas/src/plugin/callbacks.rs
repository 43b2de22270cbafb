//! Host callbacks: what a plugin may ask of the kernel while a call is open.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Resource;

/// `host/resource.record`: answered only after the kernel has fsynced its journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceParams {
    /// The open call it belongs to.
    pub call: u64,
    /// What was created, or with `host/resource.forget` what is gone.
    pub resource: Resource,
}

/// `host/secret.reveal`: the value of a secret named in the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretParams {
    /// The open call it belongs to.
    pub call: u64,
    /// The name inside `{"$secret": name}`.
    pub name: String,
}

/// Result of `host/secret.reveal`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretResult {
    /// The secret.
    pub value: String,
}

impl std::fmt::Debug for SecretResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretResult(…)")
    }
}

/// `host/kv.*`: small values kept per plugin; at most 64 KiB each, 1 MiB in all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvParams {
    /// The open call it belongs to.
    pub call: u64,
    /// Key, or for `list` a prefix.
    pub key: String,
    /// Value, for `put`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Milliseconds after which it is forgotten, for `put`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// Result of `host/kv.get` (`value`) and `host/kv.list` (`keys`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KvResult {
    /// The value; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The keys that begin with the prefix.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// `host/sleep`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SleepParams {
    /// The open call it belongs to.
    pub call: u64,
    /// Milliseconds.
    pub ms: u64,
}

/// Result of `host/sleep`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SleepResult {
    /// `time`, or `cancel` when the call was cancelled meanwhile.
    pub woken: String,
}

/// `host/exec`: run a tool named in the manifest's grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecParams {
    /// The open call it belongs to.
    pub call: u64,
    /// The tool's name in the grants.
    pub tool: String,
    /// Its arguments, passed exactly.
    #[serde(default)]
    pub args: Vec<String>,
    /// Text for its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Milliseconds after which its process group is killed.
    pub timeout_ms: u64,
}

/// Result of `host/exec`; output beyond 256 KiB a stream keeps its tail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecResult {
    /// Exit status, 128 + number for a signal.
    pub exit_code: i32,
    /// What it printed, invalid UTF-8 replaced.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
    /// Whether the head of an output was dropped.
    #[serde(default)]
    pub truncated: bool,
}

/// `host/prompt`: ask the person; `unsupported` when nobody is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PromptParams {
    /// The open call it belongs to.
    pub call: u64,
    /// `confirm`, `text` or `secret`.
    pub kind: String,
    /// The question.
    pub message: String,
}

/// Result of `host/prompt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PromptResult {
    /// The answer; `yes` or `no` for `confirm`.
    pub answer: String,
}
