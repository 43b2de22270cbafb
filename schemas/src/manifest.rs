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
    /// Where to read more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub homepage: String,
    /// The publisher's minisign public key, when packages are signed: one line of base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
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
    /// How it is run.
    pub runtime: Runtime,
    /// Target triple of a native program or library; without one it runs on every target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// File name beside the manifest; for bundled plugins, beside the `crabbox` executable.
    pub path: String,
    /// Arguments it is started with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// SHA-256 of the file in hex; packages have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Memory a WebAssembly guest may have, in MiB; 64 without, 512 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
}

/// How an artifact is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// A program that speaks the protocol on its standard input and output.
    Stdio,
    /// A WebAssembly component of the world `crabbox:plugin/provider`.
    Wasm,
    /// A WebAssembly command that speaks the protocol on its standard input and output.
    WasiStdio,
    /// A library for the native runner; first-party only.
    Native,
}

impl Runtime {
    /// Whether it can do no more than crabbox lets it.
    pub fn is_sandboxed(self) -> bool {
        matches!(self, Self::Wasm | Self::WasiStdio)
    }

    /// The word in the manifest.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::Wasm => "wasm",
            Self::WasiStdio => "wasi-stdio",
            Self::Native => "native",
        }
    }
}

/// Permissions; the user decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct Grants {
    /// Where it may send requests through the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<HttpGrant>,
    /// Secrets by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretGrant>,
    /// Names of tools it may run through the host; one in braces is a setting with `x-crabbox-source: user`, and what
    /// that names may be run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<String>,
    /// Environment names passed through; `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Powers over the user's machine by name: `files` (its own state folder, for WebAssembly guests), `key-file`
    /// (it names private keys for SSH), `checkout` (its tools run in the user's checkout), `lease-key` (its tools are told
    /// the path of its leases' private keys); for stdio programs `write` (files outside their own folder) and `network`
    /// (TCP connections of their own), without which they are kept from both where the system can do that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub powers: Vec<String>,
}

/// Requests to one origin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HttpGrant {
    /// Scheme, host and port, such as `https://api.example.dev`; a `*` in the host stands for one label. Private
    /// addresses are reached only where a setting of the user's names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Or a setting that holds an URL and has `x-crabbox-source: user`: its origin is granted, whatever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<String>,
    /// Methods; all of them without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// What for, in a few words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// One secret a plugin may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SecretGrant {
    /// The settings property that names it.
    pub name: String,
    /// Environment names that may hold it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What may be done with it.
    #[serde(default)]
    pub mode: SecretMode,
    /// Origins it may be sent to, or names of settings in `{}`; every granted one without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// Where the vendor's own tool keeps it, when neither settings nor environment say; only of plugins that ship with
    /// crabbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<SecretFile>,
    /// Where else the host looks when neither its setting nor the environment has it; only of plugins that ship with
    /// crabbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<SecretChain>,
}

/// A place in a JSON file of another program's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SecretFile {
    /// The file, below the user's configuration folder.
    pub path: String,
    /// Names joined by dots; `profiles[id=active]` is the entry of a list whose `id` is what the document's `active` says.
    pub value: String,
}

/// Where else a secret comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SecretChain {
    /// Those of AWS: variables, the profile that the user's setting `profile` or `AWS_PROFILE` names, a container's service, the
    /// machine's. The secret is a document as a `credential_process` prints it, for `sigv4`.
    Aws,
    /// The host makes it up, another one each session: a password for an account that nobody logs into, which some
    /// services want all the same.
    MadeUp,
}

/// What a plugin may do with a secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SecretMode {
    /// The host puts it into requests; the plugin never sees it.
    Inject,
    /// The plugin may ask for its text.
    #[default]
    Reveal,
    /// The host puts it into the environment of granted tools; the plugin never sees it.
    Exec,
}
