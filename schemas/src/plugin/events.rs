//! Events: what a plugin tells while a call is open.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// `event/usage`: what a run used, added to its record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageEvent {
    /// The call it belongs to.
    pub call: u64,
    /// Seconds the provider bills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billed_secs: Option<u64>,
    /// Cost in millionths of the currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micros: Option<u64>,
    /// ISO 4217 code of the currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}
