//! Documents that `status`, `list`, `sizes`, `sync-plan`, `doctor`, `claims list` and `plugin` print with `--json`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::claim::Claim;
use crate::manifest::Manifest;
use crate::plugin::{CheckStatus, Offer, QuoteResult};

/// `status --json` and `inspect --json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusView {
    /// Version of this document.
    pub schema_version: u32,
    /// The lease.
    pub id: String,
    /// Its short name.
    pub slug: String,
    /// Its provider.
    pub provider: String,
    /// Operating system.
    pub target: String,
    /// `ready`, `running`, `expired`, …
    pub state: String,
    /// The provider's id.
    pub server_id: String,
    /// Machine type.
    pub server_type: String,
    /// Address.
    pub host: String,
    /// Where SSH goes.
    pub ssh_host: String,
    /// As whom; redacted when it is a secret.
    pub ssh_user: String,
    /// First port.
    pub ssh_port: String,
    /// Further ports.
    pub ssh_fallback_ports: Vec<String>,
    /// Private key file.
    pub ssh_key: String,
    /// RFC 3339.
    pub last_touched_at: String,
    /// Time since then, such as `4m11s`.
    pub idle_for: String,
    /// Idle limit, such as `30m0s`.
    pub idle_timeout: String,
    /// RFC 3339.
    pub expires_at: String,
    /// Labels on the provider's resource.
    pub labels: BTreeMap<String, String>,
    /// There is an address.
    pub has_host: bool,
    /// Something listens for SSH.
    pub ready: bool,
    /// Directory for work on the box.
    pub work_root: String,
    /// Which of its addresses is dialled: `public` or `tailscale`.
    pub network: String,
    /// Its place in a tailnet, when it was made to be in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tailscale: Option<TailscaleView>,
    /// What it was reached over: `ssh`, a connection of crabbox's own; or `openssh`, one that the user's OpenSSH shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// What works there for crabbox: `static`, its own helper, under which runs survive; or `sh`, with sh and tar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// How the box is doing, when its helper could be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
    /// How to connect with OpenSSH; `inspect` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_command: Option<String>,
    /// The local claim; `inspect` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
}

/// A box in a tailnet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TailscaleView {
    /// It was made to be there.
    pub enabled: bool,
    /// Its address there, once it joined; nobody but the machine that made it may know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// It is dialled there unless `--network` says otherwise.
    pub dialled: bool,
}

/// How a box is doing. What it cannot tell is 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Telemetry {
    /// When it was asked, RFC 3339.
    pub captured_at: String,
    /// Who told: `helper`.
    pub source: String,
    /// Load average over 1 minute.
    pub load1: f64,
    /// Over 5 minutes.
    pub load5: f64,
    /// Over 15 minutes.
    pub load15: f64,
    /// Memory that cannot be had, bytes.
    pub memory_used_bytes: u64,
    /// Memory in all, bytes.
    pub memory_total_bytes: u64,
    /// The one as a part of the other, percent.
    pub memory_percent: f64,
    /// What is used or kept back on the work root's file system, bytes.
    pub disk_used_bytes: u64,
    /// Its size, bytes.
    pub disk_total_bytes: u64,
    /// The one as a part of the other, percent.
    pub disk_percent: f64,
    /// Seconds since the box started.
    pub uptime_seconds: u64,
}

/// An element of `list --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListEntry {
    /// Version of this document.
    pub schema_version: u32,
    /// The lease.
    pub id: String,
    /// Its short name.
    pub slug: String,
    /// Machine name.
    pub name: String,
    /// `ready`, `running`, …
    pub status: String,
    /// The lease's provider.
    pub provider: String,
    /// The provider's id.
    pub cloud_id: String,
    /// The same under the original's key.
    #[serde(rename = "CloudID")]
    pub cloud_id_compat: String,
    /// The provider under the original's key.
    #[serde(rename = "Provider")]
    pub provider_compat: String,
    /// Machine type.
    pub server_type: String,
    /// Address.
    pub host: String,
    /// Labels on the provider's resource.
    pub labels: BTreeMap<String, String>,
    /// No local claim names it.
    pub orphan: bool,
}

/// `sizes --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SizesView {
    /// Version of this document.
    pub schema_version: u32,
    /// Who offers them.
    pub provider: String,
    /// The region they are for; the provider's usual one without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Machine types, the cheapest first; those without a price at the end.
    pub sizes: Vec<Offer>,
    /// Where else there are some.
    pub regions: Vec<Offer>,
    /// The machine that would be tried first for a new box, and its price, where the provider knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<QuoteResult>,
}

/// `claims list --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimsView {
    /// Version of this document.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// The same under the original's key.
    pub version: u32,
    /// `local-claims`.
    pub source: String,
    /// Every readable claim.
    pub claims: Vec<Claim>,
    /// Files that could not be read, and why.
    pub problems: Vec<String>,
}

/// `doctor --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DoctorView {
    /// Version of this document.
    pub schema_version: u32,
    /// No check failed.
    pub healthy: bool,
    /// Doctor never changes anything: always false.
    pub mutation: bool,
    /// Every finding.
    pub checks: Vec<DoctorCheck>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorCheck {
    /// `config`, `repository`, `state`, `plugins` or `provider`.
    pub category: String,
    /// Dotted name within the category.
    pub id: String,
    /// How it went.
    pub status: CheckStatus,
    /// What was seen.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
}

/// `sync-plan --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SyncPlanView {
    /// Version of this document.
    pub schema_version: u32,
    /// The directory that would be sent.
    pub root: String,
    /// `git` or `directory`.
    pub kind: String,
    /// Entries.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Tracked files that are deleted locally.
    pub tracked_deletions: u64,
    /// Untracked paths left out by excludes.
    pub excluded: u64,
    /// Biggest files, largest first.
    pub largest_files: Vec<SizedPath>,
    /// Biggest directories, largest first.
    pub largest_dirs: Vec<SizedPath>,
    /// Guards that would warn or refuse.
    pub warnings: Vec<String>,
}

/// A path and its size in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SizedPath {
    /// Relative path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
}

/// `plugin list --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginList {
    /// Version of this document.
    pub schema_version: u32,
    /// Every plugin that was found.
    pub plugins: Vec<PluginRow>,
    /// Folders that hold an unusable one, and why.
    pub problems: Vec<String>,
}

/// One plugin of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginRow {
    /// `publisher/name`.
    pub id: String,
    /// Its version.
    pub version: String,
    /// The providers it offers.
    pub providers: Vec<String>,
    /// `developer`, `user`, `system`, `bundled`, or `elsewhere` for a folder or package that is not installed.
    pub place: String,
    /// `stdio`, `wasm`, `wasi-stdio` or `native`; in words when nothing of it runs here.
    pub runtime: String,
    /// `yes`, `asks`, `asks: changed`, `no: policy` or `no: unusable files`.
    pub standing: String,
    /// How strongly its grants are kept to: `enforced`, `partial` or `advisory`.
    pub grants: String,
}

/// `plugin info --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginInfo {
    /// Version of this document.
    pub schema_version: u32,
    /// What the list says of it.
    #[serde(flatten)]
    pub row: PluginRow,
    /// What it says of itself.
    pub description: String,
    /// SPDX expression.
    pub license: String,
    /// Where to read more.
    pub homepage: String,
    /// The folder its files are in.
    pub folder: String,
    /// Where it was installed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Digest of its files, for plugins of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<String>,
    /// Digest of what it asks for.
    pub grants_digest: String,
    /// What it asks for, in words.
    pub asks: Vec<PluginGrant>,
    /// What its WebAssembly imports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<PluginImport>,
    /// Its manifest.
    pub manifest: Manifest,
}

/// What `plugin verify --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginStates {
    /// Version of this document's shape.
    pub schema_version: u32,
    /// The installed plugins, by id.
    pub plugins: Vec<PluginState>,
}

/// Whether one installed plugin is as it was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginState {
    /// `publisher/name`.
    pub id: String,
    /// Its version.
    pub version: String,
    /// `whole`, `changed` or `missing`.
    pub state: String,
}

/// One import of a WebAssembly file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginImport {
    /// Its whole name.
    pub name: String,
    /// What that means.
    pub means: String,
}

/// One grant in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginGrant {
    /// What it may do.
    pub text: String,
    /// `enforced`, `partial` or `advisory`.
    pub level: String,
}
