//! `crabbox.lock`: which plugins, exactly. Installing writes the user's; a repository may commit one to require.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::Grants;

/// The lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lock {
    /// Version of this format: 1.
    pub lock: u32,
    /// The plugins by id.
    #[serde(default)]
    pub plugins: BTreeMap<String, Locked>,
}

impl Default for Lock {
    fn default() -> Self {
        Self { lock: 1, plugins: BTreeMap::new() }
    }
}

/// One plugin, exactly. Every digest is `sha256:` and hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Locked {
    /// Its version.
    pub version: String,
    /// Where it was installed from: a path or an URL.
    pub source: String,
    /// Digest of all its files: of the sorted list of their modes, digests and paths.
    pub files: String,
    /// Digest of its manifest's file.
    pub manifest: String,
    /// Digest of each artifact, by runtime, and for programs by target triple.
    #[serde(default)]
    pub artifacts: BTreeMap<String, String>,
    /// The minisign public key it was signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Digest of what it asks for.
    pub grants: String,
    /// Protocol majors it speaks.
    pub protocols: Vec<String>,
}

/// What the user agreed to: `trust.json` beside the installed plugins. Never committed anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrustFile {
    /// Plugins that may run.
    pub plugins: Vec<Trusted>,
    /// The key each publisher was first seen with.
    pub publishers: BTreeMap<String, String>,
}

/// A plugin that may run: these files with these grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trusted {
    /// `publisher/name`.
    pub id: String,
    /// Digest of all its files.
    pub files: String,
    /// Digest of what was agreed to.
    pub grants: String,
    /// What was agreed to: an update that asks for no more is not asked about.
    #[serde(default)]
    pub allowed: Grants,
}
