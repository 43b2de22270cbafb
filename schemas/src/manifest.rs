//! `crabbox-plugin.toml`: what a plugin says of itself without being run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plugin::ProviderKind;

/// The manifest file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// Version of this format: 1.
    pub manifest: u32,
    /// `publisher/name`, lower case.
    pub id: String,
    /// Semantic version.
    pub version: String,
    /// Protocol majors it speaks.
    pub protocols: Vec<String>,
    /// One line.
    #[serde(default)]
    pub description: String,
    /// SPDX expression.
    #[serde(default)]
    pub license: String,
    /// The providers it offers.
    #[serde(rename = "provider")]
    pub providers: Vec<ProviderEntry>,
    /// How to run it; the first usable one wins.
    #[serde(rename = "artifact")]
    pub artifacts: Vec<Artifact>,
    /// Permissions it asks for.
    #[serde(default)]
    pub grants: Grants,
}

/// One provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ProviderEntry {
    /// The name users write.
    pub name: String,
    /// Other names for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its behaviour.
    pub kind: ProviderKind,
    /// Optional powers by name.
    #[serde(default)]
    pub features: Vec<String>,
    /// Operating systems its boxes can have.
    pub targets: Vec<String>,
    /// Marks the provider used when none is configured; only a bundled plugin that costs nothing may.
    #[serde(default)]
    pub embedded_default: bool,
    /// File name of the settings' JSON Schema, beside the manifest.
    #[serde(default)]
    pub config_schema: Option<String>,
    /// Top-level configuration blocks that mean `providers.<name>`, such as `static`.
    #[serde(default)]
    pub config_aliases: Vec<String>,
}

/// A runnable form of the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Artifact {
    /// `stdio`.
    pub runtime: String,
    /// File name beside the manifest; for bundled plugins, beside the `crabbox` executable.
    pub path: String,
    /// Arguments it is started with.
    #[serde(default)]
    pub args: Vec<String>,
}

/// Permissions; the user decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct Grants {
    /// Environment names passed through.
    pub env: Vec<String>,
    /// Names of tools it may run through the host.
    pub exec: Vec<String>,
    /// Secrets by name.
    pub secrets: Vec<SecretGrant>,
}

/// One secret a plugin may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SecretGrant {
    /// The settings property that names it.
    pub name: String,
    /// Environment names that may hold it, in order.
    #[serde(default)]
    pub env: Vec<String>,
}
