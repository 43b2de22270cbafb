//! The trail of a lease: append-only lines, each fsynced before the world changes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::claim::PluginPin;
use crate::error::Resource;
use crate::lease::Desired;

/// One line of `journal/<leaseID>.jsonl`. The file exists from before acquire until release is certain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum TrailLine {
    /// A box is about to be acquired.
    Intent {
        /// The identity it will have.
        desired: Desired,
        /// The provider that is asked.
        provider: String,
        /// The plugin behind it.
        plugin: PluginPin,
        /// Idempotency key of the acquire call.
        idem: String,
        /// The checkout it is for.
        repo_root: String,
        /// Whether it should outlive the command.
        keep: bool,
        /// When, RFC 3339.
        at: String,
        /// Who: process id, for people.
        pid: u32,
    },
    /// The provider created something.
    Resource {
        /// What.
        resource: Resource,
    },
    /// Something it created is gone again.
    Forget {
        /// Provider id of what is gone.
        cloud_id: String,
    },
    /// Acquire answered and the claim is written.
    Claimed {
        /// When, RFC 3339.
        at: String,
    },
    /// The box outlives its command after all.
    Kept {
        /// When, RFC 3339.
        at: String,
    },
    /// Release was asked for.
    Releasing {
        /// When, RFC 3339.
        at: String,
    },
}
