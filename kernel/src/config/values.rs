//! The settings as plain typed values: what planning, leasing, sync and runs read.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::load::expand;
use super::settings::{Layer, Settings};
use crate::time::parse_duration;

/// Every setting this version acts on.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// `profile`.
    pub profile: String,
    /// `provider`; `None` means the built-in box.
    pub provider: Option<String>,
    /// `target`.
    pub target: String,
    /// `windows.mode`.
    pub windows_mode: String,
    /// `network`.
    pub network: String,
    /// `class`.
    pub class: String,
    /// `serverType`.
    pub server_type: Option<String>,
    /// `capacity.market`.
    pub market: String,
    /// `workRoot`; `None` leaves it to the provider.
    pub work_root: Option<String>,
    /// `desktop`, `browser`, `code`, and `tailscale` for `tailscale.enabled`: those that are on.
    pub features: Vec<String>,
    /// `tailscale.*`.
    pub tailscale: TailscaleSettings,
    /// `ttl`.
    pub ttl: Duration,
    /// `idleTimeout`.
    pub idle_timeout: Duration,
    /// `lock.wait`.
    pub lock_wait: Duration,
    /// `ssh.*`.
    pub ssh: SshSettings,
    /// `sync.*`.
    pub sync: SyncRules,
    /// `env.allow`.
    pub env_allow: Vec<String>,
    /// `run.reconnect`.
    pub reconnect: Duration,
    /// `results.junit`.
    pub results_junit: Vec<String>,
    /// `daemon.*`.
    pub daemon: DaemonSettings,
    /// `history.*`.
    pub history: HistorySettings,
    /// `plugins.*`.
    pub plugins: PluginSettings,
}

/// `tailscale.*`, beside whether it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailscaleSettings {
    /// Tags of boxes.
    pub tags: Vec<String>,
    /// What boxes are called.
    pub hostname: String,
    /// The variable that holds the key.
    pub key_env: String,
    /// The node a box reaches everything else through.
    pub exit_node: Option<String>,
    /// Its own network stays reachable beside that.
    pub exit_lan: bool,
}

/// `ssh.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSettings {
    /// Login name.
    pub user: String,
    /// Private key, `~/` expanded.
    pub key: PathBuf,
    /// Whether somebody chose the key, rather than the default.
    pub key_chosen: bool,
    /// First port.
    pub port: u16,
    /// Further ports.
    pub fallback_ports: Vec<u16>,
    /// Silence after which the box is asked for a sign of life.
    pub keepalive: Duration,
}

/// What the user wants of a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRules {
    /// `sync.exclude`: patterns as in `.gitignore`, for tracked files too.
    pub exclude: Vec<String>,
    /// `sync.include`: patterns whose files are sent although git ignores or a default excludes them.
    pub include: Vec<String>,
    /// Remove files from the box that are gone here.
    pub delete: bool,
    /// Read every byte on both sides instead of trusting times and sizes.
    pub checksum: bool,
    /// `sync.gitSeed`: when this many bytes are to be sent, the box may fetch what it can from the origin meanwhile.
    pub seed_above: Option<u64>,
    /// Make the tree on the box a git checkout that knows this reference.
    pub base_ref: Option<String>,
    /// `--full-resync`, never a setting: trust nothing on the box and replace every file.
    pub full_resync: bool,
    /// Longest a sync may take.
    pub timeout: Duration,
    /// Warn above this many files.
    pub warn_files: u64,
    /// Warn above this many bytes.
    pub warn_bytes: u64,
    /// Refuse above this many files.
    pub fail_files: u64,
    /// Refuse above this many bytes.
    pub fail_bytes: u64,
    /// Lift the two refusals above.
    pub allow_large: bool,
    /// Lift the guard against deleting many tracked files.
    pub allow_mass_deletions: bool,
}

/// Fewer bytes than this are sent sooner than a box fetches them.
const SEED_ABOVE: u64 = 16 << 20;

impl Default for SyncRules {
    fn default() -> Self {
        Settings::defaults().values().sync
    }
}

/// `daemon.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DaemonSettings {
    /// Whether there may be one.
    pub enabled: bool,
    /// Whether somebody said so, rather than the default.
    pub chosen: bool,
    /// How long it and its connections may be unused.
    pub idle_timeout: Duration,
}

/// `history.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistorySettings {
    /// Runs kept.
    pub max_runs: u64,
    /// How long.
    pub max_age: Duration,
    /// Bytes kept of each stream.
    pub max_bytes: u64,
}

/// `plugins.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginSettings {
    /// Folders with further plugins, `~/` expanded.
    pub path: Vec<PathBuf>,
    /// Which plugins may be agreed to.
    pub policy: String,
    /// Ids for the policy `allowlist`.
    pub allow: Vec<String>,
    /// Digests of plugins that must never run.
    pub revoked: Vec<String>,
    /// `provider=publisher/name`, for providers that several plugins offer.
    pub prefer: Vec<String>,
    /// `provider=runtime`, for plugins that can be run in several ways.
    pub runtime: Vec<String>,
    /// Whether plugins may run as libraries: `off`, `first-party` or `allow`.
    pub native: String,
    /// `publisher/name@range`: plugins that work here needs.
    pub requires: Vec<String>,
    /// How long a plugin may take to introduce itself.
    pub start_timeout: Duration,
}

/// The settings that ask for something beside the usual, and its word.
const FEATURES: [(&str, &str); 4] = [
    ("desktop", "desktop"),
    ("browser", "browser"),
    ("code", "code"),
    ("tailscale.enabled", "tailscale"),
];

impl Values {
    pub(super) fn of(settings: &Settings) -> Self {
        let get = Reader(settings);
        Self {
            profile: get.text("profile"),
            provider: get.optional("provider"),
            target: get.text("target"),
            windows_mode: get.text("windows.mode"),
            network: get.text("network"),
            class: get.text("class"),
            server_type: get.optional("serverType"),
            market: get.text("capacity.market"),
            work_root: get.optional("workRoot"),
            features: FEATURES
                .iter()
                .filter(|(key, _)| get.flag(key))
                .map(|(_, feature)| (*feature).to_owned())
                .collect(),
            tailscale: TailscaleSettings {
                tags: get.list("tailscale.tags"),
                hostname: get.text("tailscale.hostnameTemplate"),
                key_env: get.text("tailscale.authKeyEnv"),
                exit_node: get.optional("tailscale.exitNode"),
                exit_lan: get.flag("tailscale.exitNodeAllowLanAccess"),
            },
            ttl: get.duration("ttl"),
            idle_timeout: get.duration("idleTimeout"),
            lock_wait: get.duration("lock.wait"),
            ssh: get.ssh(),
            sync: get.sync(),
            env_allow: get.list("env.allow"),
            reconnect: get.duration("run.reconnect"),
            results_junit: get.list("results.junit"),
            daemon: DaemonSettings {
                enabled: get.flag("daemon.enabled"),
                chosen: settings.origin("daemon.enabled").layer > Layer::Default,
                idle_timeout: get.duration("daemon.idleTimeout"),
            },
            history: HistorySettings {
                max_runs: get.number("history.maxRuns"),
                max_age: get.duration("history.maxAge"),
                max_bytes: get.number("history.maxBytes"),
            },
            plugins: PluginSettings {
                path: get.list("plugins.path").iter().map(|p| get.path(p)).collect(),
                policy: get.text("plugins.policy"),
                allow: get.list("plugins.allow"),
                revoked: get.list("plugins.revoked"),
                prefer: get.list("plugins.prefer"),
                runtime: get.list("plugins.runtime"),
                native: get.text("plugins.native"),
                requires: get.list("plugins.requires"),
                start_timeout: get.duration("plugins.startTimeout"),
            },
        }
    }
}

/// Reads values whose kinds the table and its tests guarantee.
struct Reader<'a>(&'a Settings);

impl Reader<'_> {
    fn value(&self, path: &str) -> &Value {
        self.0.get(path).map_or(&Value::Null, |setting| &setting.value)
    }

    fn optional(&self, path: &str) -> Option<String> {
        self.value(path).as_str().map(str::to_owned)
    }

    fn text(&self, path: &str) -> String {
        self.optional(path).unwrap_or_default()
    }

    fn flag(&self, path: &str) -> bool {
        self.value(path).as_bool().unwrap_or_default()
    }

    fn number(&self, path: &str) -> u64 {
        self.value(path).as_u64().unwrap_or_default()
    }

    fn duration(&self, path: &str) -> Duration {
        self.value(path).as_str().and_then(parse_duration).unwrap_or_default()
    }

    fn list(&self, path: &str) -> Vec<String> {
        let items = self.value(path).as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    }

    fn path(&self, text: &str) -> PathBuf {
        expand(text, self.0.home.as_deref())
    }

    fn ssh(&self) -> SshSettings {
        let ports = self.list("ssh.fallbackPorts");
        SshSettings {
            user: self.text("ssh.user"),
            key: self.path(&self.text("ssh.key")),
            key_chosen: self.0.origin("ssh.key").layer > Layer::Default,
            port: self.text("ssh.port").parse().unwrap_or_default(),
            keepalive: self.duration("ssh.keepalive").max(Duration::from_millis(100)),
            fallback_ports: ports.iter().filter_map(|port| port.parse().ok()).collect(),
        }
    }

    fn sync(&self) -> SyncRules {
        SyncRules {
            exclude: self.list("sync.exclude"),
            include: self.list("sync.include"),
            delete: self.flag("sync.delete"),
            checksum: self.flag("sync.checksum"),
            seed_above: self.flag("sync.gitSeed").then_some(SEED_ABOVE),
            base_ref: self.optional("sync.baseRef"),
            full_resync: false,
            timeout: self.duration("sync.timeout"),
            warn_files: self.number("sync.warnFiles"),
            warn_bytes: self.number("sync.warnBytes"),
            fail_files: self.number("sync.failFiles"),
            fail_bytes: self.number("sync.failBytes"),
            allow_large: self.flag("sync.allowLarge"),
            allow_mass_deletions: self.flag("sync.allowMassDeletions"),
        }
    }
}
