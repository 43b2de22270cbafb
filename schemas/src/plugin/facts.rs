//! What a provider can say of its offers, prices, and of how a box died; all of it only reads.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CallContext;
use crate::lease::{BoxRequest, Lease, SshEndpoint};

/// Params of `catalog.sizes` and `catalog.regions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CatalogParams {
    /// Bounds and identity of the call.
    pub ctx: CallContext,
    /// Only what can be had there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where to go on, from the previous page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One page of a catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatalogResult {
    /// What can be asked for.
    pub offers: Vec<Offer>,
    /// Where to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Milliseconds for which this may be kept.
    #[serde(default)]
    pub ttl_ms: u64,
}

/// A machine type, a region or an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Offer {
    /// The provider's name for it.
    pub name: String,
    /// One line.
    pub description: String,
    /// Virtual processors of a machine type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Its disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_gib: Option<u64>,
    /// `x86_64` or `aarch64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// The size class that begins with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What it costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

/// A price an hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Price {
    /// Millionths of the currency.
    pub hourly_micros: u64,
    /// ISO 4217 code.
    pub currency: String,
    /// `list`, `spot` or `estimate`.
    pub basis: String,
}

/// Params of `pricing.quote`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuoteParams {
    /// Bounds and identity of the call.
    pub ctx: CallContext,
    /// What would be asked for.
    pub request: BoxRequest,
}

/// Result of `pricing.quote`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuoteResult {
    /// What it would cost.
    pub price: Price,
    /// The machine type the price is for.
    pub server_type: String,
}

/// Params of `evidence.collect`: why did the box die?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceParams {
    /// Bounds and identity of the call.
    pub ctx: CallContext,
    /// What the kernel knows of it.
    pub lease: Lease,
}

/// Result of `evidence.collect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceResult {
    /// `oom`, `disk`, `preempted`, `expired`, `gone` or `unknown`.
    pub cause: String,
    /// One line for people.
    pub message: String,
}

/// Params of `access.grant`: credentials for a box that live for a while; and of `access.revoke`, which ends them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AccessParams {
    /// Bounds and identity of the call.
    pub ctx: CallContext,
    /// The box.
    pub lease: Lease,
    /// Of `access.revoke`: what to end, the handle that was the user name of what was granted; others who are let in
    /// stay so. All access to the box without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Result of `access.grant`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessResult {
    /// How to reach the box now. A user name that is a secret is the handle of a captured one.
    pub ssh: SshEndpoint,
    /// Milliseconds until it must be asked for again.
    pub expires_in_ms: u64,
}
