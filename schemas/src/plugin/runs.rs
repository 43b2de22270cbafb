//! Delegated runs: the provider runs the command.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CallContext;
use crate::lease::Lease;

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
    /// Path of a tar file with the tree, readable by the plugin; absent with `--no-sync`. With the feature
    /// `workspace-gzip` it is compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The same as a sealed blob, for plugins without files of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_blob: Option<String>,
    /// Names the tree's content: a box that still holds it needs no archive, when that can be proven there. Absent
    /// when the archive must be taken in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_digest: Option<String>,
    /// Files on the box that are not in the archive stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub workspace_keeps: bool,
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
