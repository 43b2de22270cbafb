//! The event stream of a run: what terminals, `--json`, the run journal and tests all read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One recorded event: a line of `events.jsonl` and of `--events jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunEvent {
    /// Version of this document.
    pub schema_version: u32,
    /// The run, absent before it has an id.
    #[serde(rename = "runID", skip_serializing_if = "String::is_empty")]
    pub run_id: String,
    /// Position in the run's stream, from 1.
    pub seq: u64,
    /// What happened, such as `lease.created`; past tense or a stream's name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Phase of the run: `leasing`, `leased`, `bootstrap`, `sync`, `synced`, `command`, `released`, `failed`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// `stdout` or `stderr`, for output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Offset of the first byte of `message` in its stream, for output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Sentence for people, or a preview of output (4 KiB pieces, 64 KiB in all).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Facts that belong to this type of event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// The lease.
    #[serde(rename = "leaseID", skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<String>,
    /// Its short name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// Its provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The command's status, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// When, RFC 3339 in UTC.
    pub created_at: String,
}
