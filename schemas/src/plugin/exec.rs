//! `host/exec`: tools on the user's machine, by the names in the grants.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::http::SecretText;
use crate::ids::LeaseId;

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
    /// Environment names set for it alone; a secret only where its grant says `exec`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, SecretText>,
    /// The argument `{lease-key}` stands for the path of this lease's private key; needs the power `lease-key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_key: Option<LeaseId>,
    /// Run it in the user's checkout; needs the power `checkout`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checkout: bool,
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

/// Result of `host/exec.open`, whose params are those of `host/exec`: a tool that is talked with while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecOpened {
    /// Name of the process.
    pub process: String,
}

/// Params of `host/exec.read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecReadParams {
    /// The open call it belongs to.
    pub call: u64,
    /// The process.
    pub process: String,
    /// Milliseconds to wait for something; 60 000 without. Nothing in time is an empty result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Result of `host/exec.read`: at most 48 KiB of one channel, or the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExecRead {
    /// `stdout` or `stderr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ch: Option<String>,
    /// The bytes, when they are UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64 otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64: Option<String>,
    /// Exit status, 128 + number for a signal, once everything was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// With it, number of the signal that ended the tool itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// Params of `host/exec.write`: bytes for its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecWriteParams {
    /// The open call it belongs to.
    pub call: u64,
    /// The process.
    pub process: String,
    /// The bytes, when they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64 otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b64: Option<String>,
    /// Nothing follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
}

/// Params of `host/exec.kill`: a signal to its process group, SIGKILL after the grace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecKillParams {
    /// The open call it belongs to.
    pub call: u64,
    /// The process.
    pub process: String,
    /// Milliseconds between the two signals.
    #[serde(default)]
    pub grace_ms: u64,
    /// The first signal is SIGINT, as from the user's terminal, and not SIGTERM.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupt: bool,
}
