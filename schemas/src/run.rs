//! What is kept of a run, and what `--timing-json` and `results` print.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// `runs/<runID>/run.json` and an element of `history --json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunRecord {
    /// Version of this document.
    pub schema_version: u32,
    /// `run_` and 12 hex digits.
    pub id: String,
    /// The lease it ran on.
    #[serde(rename = "leaseID")]
    pub lease_id: String,
    /// The lease's short name.
    pub slug: String,
    /// The lease's provider.
    pub provider: String,
    /// Operating system of the box.
    pub target: String,
    /// Size class that was asked for.
    pub class: String,
    /// Machine type.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_type: String,
    /// The command as given.
    pub command: Vec<String>,
    /// Label the user gave with `--label`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The checkout it came from.
    pub repo_root: String,
    /// Work directory on the box.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workdir: String,
    /// `running`, `succeeded`, `failed` or `lost`. A detached run is `running` until somebody looks.
    pub state: String,
    /// It goes on without the command that started it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
    /// Last phase reached.
    pub phase: String,
    /// Status crabbox exited with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whose status it is: `remote` or `crabbox`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Signal that ended the command, without `SIG`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Why crabbox failed, when it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<String>,
    /// Whether the command may have started, when the outcome is in doubt: `yes`, `no`, `maybe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// Milliseconds the sync took.
    pub sync_ms: u64,
    /// Milliseconds the command took.
    pub command_ms: u64,
    /// Milliseconds in all.
    pub duration_ms: u64,
    /// Bytes of output kept.
    pub log_bytes: u64,
    /// Whether output was dropped to stay within the limit.
    pub log_truncated: bool,
    /// JUnit summary, if one was collected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<TestResults>,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// How many events were recorded.
    pub event_count: u64,
    /// Why crabbox failed; only in what `run --json` prints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// Summary of JUnit files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TestResults {
    /// Version of this document.
    pub schema_version: u32,
    /// `junit`.
    pub format: String,
    /// The files that were read.
    pub files: Vec<String>,
    /// Suites.
    pub suites: u64,
    /// Test cases.
    pub tests: u64,
    /// Failed assertions.
    pub failures: u64,
    /// Cases that could not run.
    pub errors: u64,
    /// Skipped cases.
    pub skipped: u64,
    /// Sum of the suites' times.
    pub time_seconds: f64,
    /// What failed.
    pub failed: Vec<FailedTest>,
}

/// One failed test case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FailedTest {
    /// Its suite.
    pub suite: String,
    /// Its name.
    pub name: String,
    /// Its class.
    pub classname: String,
    /// Source file, if the report names one.
    pub file: String,
    /// What went wrong.
    pub message: String,
    /// Type of the failure as the report names it.
    #[serde(rename = "type")]
    pub failure_type: String,
    /// `failure` or `error`.
    pub kind: String,
}

/// The line `--timing-json` prints to stderr.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Timing {
    /// Version of this document.
    pub schema_version: u32,
    /// The lease's provider.
    pub provider: String,
    /// The lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<String>,
    /// Its short name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// The run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Milliseconds to get the box.
    pub lease_ms: u64,
    /// Milliseconds until it answered.
    pub bootstrap_ms: u64,
    /// Milliseconds the sync took. A wait for a work tree that another run had counts; it is the step `queue`.
    pub sync_ms: u64,
    /// Its steps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sync_phases: Vec<SyncPhase>,
    /// Nothing had to be sent.
    pub sync_skipped: bool,
    /// Milliseconds the command took.
    pub command_ms: u64,
    /// Milliseconds in all.
    pub total_ms: u64,
    /// Status crabbox exits with.
    pub exit_code: i32,
    /// Whose status it is: `remote` or `crabbox`.
    pub by: String,
    /// Why crabbox failed, when it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<String>,
    /// Where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Label the user gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Work directory on the box.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// How to give the box back, when it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_command: Option<String>,
}

/// One step of a sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SyncPhase {
    /// Its name.
    pub name: String,
    /// Milliseconds it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// It was not needed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `--lease-output FILE`: the handle of the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaseHandle {
    /// Version of this document.
    pub schema_version: u32,
    /// The lease's provider.
    pub provider: String,
    /// The lease.
    pub lease_id: String,
    /// Its short name.
    pub slug: String,
    /// An existing lease was used.
    pub reused: bool,
    /// It outlives this command.
    pub kept: bool,
    /// The run, if one was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// How to give it back.
    pub cleanup_command: String,
}
