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

/// `host/prompt`: ask the person; `unsupported` when nobody is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PromptParams {
    /// The open call it belongs to.
    pub call: u64,
    /// `confirm`, `text`, `secret`, `choice`, `open-url` or `device-code`.
    pub kind: String,
    /// The question, or what to do.
    pub message: String,
    /// What can be chosen, for `choice`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// The page to open, for `open-url` and `device-code`; always `https://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The code to type there, for `device-code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Result of `host/prompt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PromptResult {
    /// The answer; `yes` or `no` for `confirm`, empty for `open-url` and `device-code`.
    pub answer: String,
}
