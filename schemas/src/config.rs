//! The shape of a configuration file as written: every key optional, provider blocks opaque.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `.crabbox.yaml`, `crabbox.yaml` and the user's `config.yaml`. Every key may be left out; other keys are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigFile {
    /// Name of the profile in force; also a label on leases. Default `default`.
    pub profile: Option<String>,
    /// Where boxes come from; without it the built-in box on this machine is used.
    pub provider: Option<String>,
    /// The coordinator, by its older name.
    pub broker: Option<BrokerBlock>,
    /// Operating system of the box. Default `linux`.
    pub target: Option<String>,
    /// Another spelling of `target`.
    #[serde(rename = "targetOS")]
    pub target_os: Option<String>,
    /// Windows boxes.
    pub windows: Option<WindowsBlock>,
    /// Ask for a box with a desktop. Default `false`.
    pub desktop: Option<bool>,
    /// Ask for a box with a browser. Default `false`.
    pub browser: Option<bool>,
    /// Ask for a box with an editor server. Default `false`.
    pub code: Option<bool>,
    /// Which address of a box is dialled: its own, or the one it has in your tailnet. `auto` is its own, unless the box was made with `tailscale`. Default `auto`.
    pub network: Option<String>,
    /// Boxes in a tailnet.
    pub tailscale: Option<TailscaleBlock>,
    /// Size class of the box. Default `beast`.
    pub class: Option<String>,
    /// The provider's own name of a machine type; overrides the class.
    pub server_type: Option<String>,
    /// Folder on the box that holds work directories, as an absolute path; each provider has its own default.
    pub work_root: Option<String>,
    /// Hard limit of a lease's life. Default `90m`.
    pub ttl: Option<TextOrNumber>,
    /// Older place of the limits of a lease.
    pub lease: Option<LeaseBlock>,
    /// A lease unused for this long may be given back. Default `30m`.
    pub idle_timeout: Option<TextOrNumber>,
    /// Work directories shared by runs.
    pub lock: Option<LockBlock>,
    /// Commands on boxes.
    pub run: Option<RunBlock>,
    /// URL of a coordinator.
    pub coordinator: Option<String>,
    /// Token for the coordinator.
    pub coordinator_token: Option<String>,
    /// Who the coordinator is told is asking.
    pub owner: Option<String>,
    /// On whose behalf.
    pub org: Option<String>,
    /// Boxes whose provider leaves SSH open.
    pub ssh: Option<SshBlock>,
    /// What is sent to the box, and within which limits.
    pub sync: Option<SyncBlock>,
    /// The environment of commands.
    pub env: Option<EnvBlock>,
    /// What to ask providers for.
    pub capacity: Option<CapacityBlock>,
    /// Boxes prepared by a workflow.
    pub actions: Option<ActionsBlock>,
    /// Test reports.
    pub results: Option<ResultsBlock>,
    /// Caches kept on boxes.
    pub cache: Option<CacheBlock>,
    /// Runs remembered on this machine.
    pub history: Option<HistoryBlock>,
    /// The process that keeps connections.
    pub daemon: Option<DaemonBlock>,
    /// Where plugins come from.
    pub plugins: Option<PluginsBlock>,
    /// Whom the user trusts.
    pub trust: Option<TrustBlock>,
    /// Provider settings by provider name, checked by the provider's own schema.
    pub providers: Option<BTreeMap<String, Value>>,
    /// Settings that hold while a profile of that name is in force; they lie above the rest of their file.
    pub profiles: Option<BTreeMap<String, ConfigFile>>,
}

/// The coordinator, by its older name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerBlock {
    /// Another spelling of `provider`.
    pub provider: Option<String>,
    /// Another spelling of `coordinator`.
    pub url: Option<String>,
    /// Another spelling of `coordinatorToken`.
    pub token: Option<String>,
    /// Administrator's token for the coordinator.
    pub admin_token: Option<String>,
    /// An access proxy before the coordinator.
    pub access: Option<AccessBlock>,
}

/// An access proxy before the coordinator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessBlock {
    /// Client id of an access proxy before the coordinator.
    pub client_id: Option<String>,
    /// Client secret of that proxy.
    pub client_secret: Option<String>,
    /// Token for that proxy.
    pub token: Option<String>,
}

/// Windows boxes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WindowsBlock {
    /// How commands run on a Windows box. Default `normal`.
    pub mode: Option<String>,
}

/// Boxes in a tailnet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TailscaleBlock {
    /// Another spelling of `network`.
    pub network: Option<String>,
    /// Join the box to a tailnet. Default `false`.
    pub enabled: Option<bool>,
    /// Tags of the box in the tailnet. Default `tag:crabbox`.
    pub tags: Option<OneOrMany>,
    /// Name of the box in the tailnet. Default `crabbox-{slug}`.
    pub hostname_template: Option<String>,
    /// Environment name that holds the join key. Default `CRABBOX_TAILSCALE_AUTH_KEY`.
    pub auth_key_env: Option<String>,
    /// Exit node of the box; only with `network: tailscale`.
    pub exit_node: Option<String>,
    /// Keep the box's own network reachable beside the exit node. Default `false`.
    pub exit_node_allow_lan_access: Option<bool>,
}

/// Older place of the limits of a lease.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaseBlock {
    /// Another spelling of `ttl`.
    pub ttl: Option<TextOrNumber>,
    /// Another spelling of `idleTimeout`.
    pub idle_timeout: Option<TextOrNumber>,
}

/// Work directories shared by runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LockBlock {
    /// How long a run waits for another run on the same work directory. Default `1h`.
    pub wait: Option<TextOrNumber>,
}

/// Commands on boxes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunBlock {
    /// How long a run tries to reach its box again when the connection breaks; `0` gives up at once. Default `10m`.
    pub reconnect: Option<TextOrNumber>,
}

/// Boxes whose provider leaves SSH open.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshBlock {
    /// Login name on boxes whose provider names none. Default `crabbox`.
    pub user: Option<String>,
    /// Private key for boxes without a key of their own. Default `~/.ssh/id_ed25519`.
    pub key: Option<String>,
    /// First port to try on boxes whose provider names none. Default `2222`.
    pub port: Option<TextOrNumber>,
    /// Further ports, tried in order; `[]` or `none` means none. Default `22`.
    pub fallback_ports: Option<Vec<TextOrNumber>>,
    /// Silence after which a box is asked for a sign of life; three times as long counts as a broken connection. Default `15s`.
    pub keepalive: Option<TextOrNumber>,
}

/// What is sent to the box, and within which limits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncBlock {
    /// Patterns, as in `.gitignore`, of files that stay here.
    pub exclude: Option<OneOrMany>,
    /// Another spelling of `sync.exclude`.
    pub excludes: Option<OneOrMany>,
    /// Patterns whose files are sent although git ignores them or a default excludes them.
    pub include: Option<OneOrMany>,
    /// Remove files from the box that are gone here. Default `true`.
    pub delete: Option<bool>,
    /// Read every byte on both sides instead of trusting times and sizes. Default `false`.
    pub checksum: Option<bool>,
    /// Let the box fetch contents from the repository's public origin while a large sync goes on. Default `true`.
    pub git_seed: Option<bool>,
    /// Skip the sync when nothing changed; this version asks the box itself. Default `true`.
    pub fingerprint: Option<bool>,
    /// Make the tree on the box a git checkout that also knows this reference, for commands that ask what changed. A submodule has changed there when another commit of it is checked out.
    pub base_ref: Option<String>,
    /// Longest a sync may take. Default `15m`.
    pub timeout: Option<TextOrNumber>,
    /// Warn above this many files. Default `50000`.
    pub warn_files: Option<u64>,
    /// Warn above this many bytes. Default `5GiB`.
    pub warn_bytes: Option<TextOrNumber>,
    /// Refuse above this many files. Default `150000`.
    pub fail_files: Option<u64>,
    /// Refuse above this many bytes. Default `20GiB`.
    pub fail_bytes: Option<TextOrNumber>,
    /// Lift the two limits above. Default `false`.
    pub allow_large: Option<bool>,
    /// Lift the guard against deleting 200 or more tracked files. Default `false`.
    pub allow_mass_deletions: Option<bool>,
}

/// The environment of commands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvBlock {
    /// Names of variables passed to the command when they are set here; a trailing `*` matches any ending. A repository's file names no endings and no secrets. Default `CI,NODE_OPTIONS`.
    pub allow: Option<OneOrMany>,
}

/// What to ask providers for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CapacityBlock {
    /// Kind of capacity to ask for. Default `spot`.
    pub market: Option<String>,
    /// How to choose between candidates. Default `most-available`.
    pub strategy: Option<String>,
    /// What to do when there is no capacity. Default `on-demand-after-120s`.
    pub fallback: Option<String>,
    /// Regions to try.
    pub regions: Option<OneOrMany>,
    /// Zones to try.
    pub availability_zones: Option<OneOrMany>,
    /// Give advice when there is no capacity. Default `true`.
    pub hints: Option<bool>,
}

/// Boxes prepared by a workflow.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActionsBlock {
    /// Repository whose workflow prepares the box.
    pub repo: Option<String>,
    /// That workflow.
    pub workflow: Option<String>,
    /// A job of it.
    pub job: Option<String>,
    /// Git reference it runs at.
    pub r#ref: Option<String>,
    /// Inputs of the workflow as `name=value`.
    pub fields: Option<OneOrMany>,
    /// Labels of the runner.
    pub runner_labels: Option<OneOrMany>,
    /// Version of the runner. Default `latest`.
    pub runner_version: Option<String>,
    /// The runner serves one job. Default `true`.
    pub ephemeral: Option<bool>,
}

/// Test reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResultsBlock {
    /// JUnit reports on the box to read after a run.
    pub junit: Option<OneOrMany>,
}

/// Caches kept on boxes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheBlock {
    /// Keep the pnpm cache. Default `true`.
    pub pnpm: Option<bool>,
    /// Keep the npm cache. Default `true`.
    pub npm: Option<bool>,
    /// Keep the docker cache. Default `true`.
    pub docker: Option<bool>,
    /// Keep the git cache. Default `true`.
    pub git: Option<bool>,
    /// Largest size of the caches, in GB. Default `80`.
    #[serde(rename = "maxGB")]
    pub max_gb: Option<u64>,
    /// Empty the caches when a lease is given back. Default `false`.
    pub purge_on_release: Option<bool>,
}

/// The process that keeps connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DaemonBlock {
    /// Keep connections to boxes that stay in a process of their own; off by default where `CI` is set. Default `true`.
    pub enabled: Option<bool>,
    /// That process and its connections end when they are unused for this long. Default `30m`.
    pub idle_timeout: Option<TextOrNumber>,
}

/// Runs remembered on this machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryBlock {
    /// Runs kept on this machine. Default `200`.
    pub max_runs: Option<u64>,
    /// How long a run is kept. Default `30d`.
    pub max_age: Option<TextOrNumber>,
    /// Output kept of each stream of a run. Default `64MiB`.
    pub max_bytes: Option<TextOrNumber>,
}

/// Where plugins come from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginsBlock {
    /// Folders with further plugins.
    pub path: Option<OneOrMany>,
    /// Which plugins may be agreed to. Default `all`.
    pub policy: Option<String>,
    /// Ids of the plugins that policy `allowlist` allows.
    pub allow: Option<OneOrMany>,
    /// Digests of plugins that must never run.
    pub revoked: Option<OneOrMany>,
    /// Which plugin offers a provider that several offer, as `provider=publisher/name`.
    pub prefer: Option<OneOrMany>,
    /// How a plugin with several artifacts is run, as `provider=wasm`, `stdio`, `wasi-stdio` or `native`; the manifest's first that runs here without.
    pub runtime: Option<OneOrMany>,
    /// Whether a plugin may run as a library: none, those of this crabbox, or any. Default `off`.
    pub native: Option<String>,
    /// Plugins that work here needs, as `publisher/name@^1.2`; they are never fetched.
    pub requires: Option<OneOrMany>,
    /// How long a plugin may take to introduce itself. Default `10s`.
    pub start_timeout: Option<TextOrNumber>,
}

/// Whom the user trusts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustBlock {
    /// Absolute paths of repositories whose files may set everything.
    pub repositories: Option<OneOrMany>,
}

/// A text or a whole number: durations (`90m`; a bare number means seconds), sizes (`64MiB`, or bytes), ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TextOrNumber {
    /// A whole number.
    Number(u64),
    /// A text.
    Text(String),
}

/// A list of texts, or one text whose commas separate them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// A list.
    Many(Vec<String>),
    /// Comma-separated.
    One(String),
}
