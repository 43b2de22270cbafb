//! The claim: the local file that binds a lease to a checkout.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::LeaseId;
use crate::lease::Lease;

/// `claims/<leaseID>.json`. Times are RFC 3339 in UTC. Fields this version does not know survive a rewrite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The lease.
    #[serde(rename = "leaseID")]
    pub lease_id: LeaseId,
    /// Its short name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// Its provider; readers must accept it missing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// The checkout it belongs to.
    pub repo_root: String,
    /// When it was claimed, or claimed anew.
    pub claimed_at: String,
    /// When its provider last heard that it is used.
    pub last_used_at: String,
    /// Idle limit in seconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub idle_timeout_seconds: u64,
    /// Hard limit in seconds from `createdAt`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ttl_seconds: u64,
    /// When the lease was created.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_at: String,
    /// Whether the box outlives the command that leased it.
    #[serde(default)]
    pub keep: bool,
    /// The plugin that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginPin>,
    /// Digest of the provider's settings when it described the lease: with others it is asked again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub settings: String,
    /// The lease as the provider last described it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Everything else that stood in the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Which plugin made a lease, so that exactly it can end it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginPin {
    /// `publisher/name`.
    pub id: String,
    /// Its version.
    pub version: String,
    /// `sha256:` and the digest of its artifact.
    pub digest: String,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_claim_reads_and_unknown_fields_survive() {
        let text = r#"{"leaseID":"cbx_abcdef123456","repoRoot":"/home/me/src/app","claimedAt":"2026-05-07T10:00:00Z",
            "lastUsedAt":"2026-05-07T10:04:11Z","revision":7}"#;
        let claim: Claim = serde_json::from_str(text).unwrap();
        assert_eq!(claim.provider, "");
        let back = serde_json::to_value(&claim).unwrap();
        assert_eq!(back["revision"], 7);
        assert_eq!(back["leaseID"], "cbx_abcdef123456");
    }
}
