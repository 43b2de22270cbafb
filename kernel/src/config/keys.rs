//! The table of every setting: its spellings, environment names, flag, kind, default and who may set it.

use serde_json::Value;

/// What a setting's text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true`, `yes`, `on`, `1` or `false`, `no`, `off`, `0`.
    Bool,
    /// A whole number, not negative.
    Integer,
    /// Any number.
    Number,
    /// A whole number of bytes, or one with `KiB`, `MiB`, `GiB`, `TiB`.
    Bytes,
    /// An absolute path on a box, for whatever system that has.
    BoxPath,
    /// A duration such as `90m` or `1h30m`; a bare number means seconds.
    Duration,
    /// A TCP port, kept as text.
    Port,
    /// TCP ports; the text `none` means no port at all.
    Ports,
    /// A list of texts; commas separate them in the environment and in flags.
    List,
    /// A mapping with names and values of whoever writes it; JSON in the environment and in flags.
    Table,
    /// One of these words.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// True for kinds that hold several values.
    pub fn is_list(self) -> bool {
        matches!(self, Self::List | Self::Ports)
    }
}

/// What several layers that set the same list do to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// The highest layer wins.
    Replace,
    /// Every layer adds; doubles are dropped.
    Append,
}

/// Who may set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A repository's file too.
    Anyone,
    /// A repository's file too, as far as it names single variables that do not sound like secrets.
    Named,
    /// The user only: own file, environment, flags, and the files of repositories the user trusts.
    UserOnly,
}

/// What names of variables that hold secrets have in them.
const SECRET: &[&str] = &["AUTH", "CREDENTIAL", "KEY", "PASS", "PRIVATE", "SECRET", "TOKEN"];

impl Trust {
    /// Whether a file that nobody trusts may set this.
    pub fn allows(self, value: &Value) -> bool {
        let plain = |name: &Value| {
            let name = name.as_str().unwrap_or_default().to_ascii_uppercase();
            !name.ends_with('*') && !SECRET.iter().any(|word| name.contains(word))
        };
        match self {
            Self::Anyone => true,
            Self::Named => value.as_array().is_some_and(|names| names.iter().all(plain)),
            Self::UserOnly => false,
        }
    }
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Path in a configuration file, such as `sync.warnFiles`.
    pub path: &'static str,
    /// Other paths that mean the same.
    pub aliases: &'static [&'static str],
    /// Environment names; the first that is not empty counts.
    pub env: &'static [&'static str],
    /// Flag without its dashes.
    pub flag: Option<&'static str>,
    /// What its text means.
    pub kind: Kind,
    /// Text of the default.
    pub default: Option<&'static str>,
    /// How layers combine.
    pub merge: Merge,
    /// Who may set it.
    pub trust: Trust,
    /// Whether this version acts on it.
    pub used: bool,
    /// Whether it is shown only as `configured` or `missing`.
    pub secret: bool,
    /// Whether a bad value is an error instead of a warning.
    pub strict: bool,
    /// One sentence.
    pub help: &'static str,
}

impl Key {
    const fn env(mut self, names: &'static [&'static str]) -> Self {
        self.env = names;
        self
    }

    const fn alias(mut self, paths: &'static [&'static str]) -> Self {
        self.aliases = paths;
        self
    }

    const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    const fn default(mut self, text: &'static str) -> Self {
        self.default = Some(text);
        self
    }

    const fn append(mut self) -> Self {
        self.merge = Merge::Append;
        self
    }

    const fn user_only(mut self) -> Self {
        self.trust = Trust::UserOnly;
        self
    }

    const fn named(mut self) -> Self {
        self.trust = Trust::Named;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self.user_only()
    }

    const fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    const fn later(mut self) -> Self {
        self.used = false;
        self
    }
}

const fn key(path: &'static str, kind: Kind, help: &'static str) -> Key {
    Key {
        path,
        aliases: &[],
        env: &[],
        flag: None,
        kind,
        default: None,
        merge: Merge::Replace,
        trust: Trust::Anyone,
        used: true,
        secret: false,
        strict: false,
        help,
    }
}

const TARGETS: Kind = Kind::Choice(&["linux", "macos", "windows"]);
const WINDOWS: Kind = Kind::Choice(&["normal", "wsl2"]);
const NETWORKS: Kind = Kind::Choice(&["auto", "public", "tailscale"]);
const PLUGIN_POLICY: Kind = Kind::Choice(&["all", "signed", "allowlist", "first-party", "none"]);
const LIBRARIES: Kind = Kind::Choice(&["off", "first-party", "allow"]);
const MARKETS: Kind = Kind::Choice(&["spot", "on-demand"]);

/// The setting a path means, by its own or another spelling.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path || key.aliases.contains(&path))
}

/// True if some setting lies below this path.
pub fn is_branch(path: &str) -> bool {
    let below = |known: &str| known.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    KEYS.iter().any(|key| below(key.path) || key.aliases.iter().any(|alias| below(alias)))
}

/// Every setting of the kernel, in the order the documentation shows them.
#[rustfmt::skip]
pub static KEYS: &[Key] = &[
    key("profile", Kind::Text, "Name of the profile in force; also a label on leases.").env(&["CRABBOX_PROFILE"]).flag("profile").default("default"),
    key("provider", Kind::Text, "Where boxes come from; without it the built-in box on this machine is used.").alias(&["broker.provider"]).env(&["CRABBOX_PROVIDER"]).flag("provider"),
    key("target", TARGETS, "Operating system of the box.").alias(&["targetOS"]).env(&["CRABBOX_TARGET", "CRABBOX_TARGET_OS"]).flag("target").default("linux").strict(),
    key("windows.mode", WINDOWS, "How commands run on a Windows box.").env(&["CRABBOX_WINDOWS_MODE"]).flag("windows-mode").default("normal").strict(),
    key("desktop", Kind::Bool, "Ask for a box with a desktop.").env(&["CRABBOX_DESKTOP"]).flag("desktop").default("false"),
    key("browser", Kind::Bool, "Ask for a box with a browser.").env(&["CRABBOX_BROWSER"]).flag("browser").default("false"),
    key("code", Kind::Bool, "Ask for a box with an editor server.").env(&["CRABBOX_CODE"]).flag("code").default("false"),
    key("network", NETWORKS, "Which address of a box is dialled: its own, or the one it has in your tailnet. `auto` is its own, unless the box was made with `tailscale`.").alias(&["tailscale.network"]).env(&["CRABBOX_NETWORK"]).flag("network").default("auto").strict(),
    key("class", Kind::Text, "Size class of the box.").env(&["CRABBOX_DEFAULT_CLASS"]).flag("class").default("beast"),
    key("serverType", Kind::Text, "The provider's own name of a machine type; overrides the class.").env(&["CRABBOX_SERVER_TYPE"]).flag("type"),
    key("workRoot", Kind::BoxPath, "Folder on the box that holds work directories, as an absolute path; each provider has its own default.").env(&["CRABBOX_WORK_ROOT"]).strict(),
    key("ttl", Kind::Duration, "Hard limit of a lease's life.").alias(&["lease.ttl"]).env(&["CRABBOX_TTL"]).flag("ttl").default("90m"),
    key("idleTimeout", Kind::Duration, "A lease unused for this long may be given back.").alias(&["lease.idleTimeout"]).env(&["CRABBOX_IDLE_TIMEOUT"]).flag("idle-timeout").default("30m"),
    key("lock.wait", Kind::Duration, "How long a run waits for another run on the same work directory.").default("1h"),
    key("coordinator", Kind::Text, "URL of a coordinator.").alias(&["broker.url"]).env(&["CRABBOX_COORDINATOR"]).user_only().later(),
    key("coordinatorToken", Kind::Text, "Token for the coordinator.").alias(&["broker.token"]).env(&["CRABBOX_COORDINATOR_TOKEN"]).secret().later(),
    key("broker.adminToken", Kind::Text, "Administrator's token for the coordinator.").env(&["CRABBOX_COORDINATOR_ADMIN_TOKEN", "CRABBOX_ADMIN_TOKEN"]).secret().later(),
    key("broker.access.clientId", Kind::Text, "Client id of an access proxy before the coordinator.").env(&["CRABBOX_ACCESS_CLIENT_ID", "CF_ACCESS_CLIENT_ID"]).secret().later(),
    key("broker.access.clientSecret", Kind::Text, "Client secret of that proxy.").env(&["CRABBOX_ACCESS_CLIENT_SECRET", "CF_ACCESS_CLIENT_SECRET"]).secret().later(),
    key("broker.access.token", Kind::Text, "Token for that proxy.").env(&["CRABBOX_ACCESS_TOKEN", "CF_ACCESS_TOKEN"]).secret().later(),
    key("owner", Kind::Text, "Who the coordinator is told is asking.").env(&["CRABBOX_OWNER"]).user_only().later(),
    key("org", Kind::Text, "On whose behalf.").env(&["CRABBOX_ORG"]).user_only().later(),
    key("ssh.user", Kind::Text, "Login name on boxes whose provider names none.").env(&["CRABBOX_SSH_USER"]).default("crabbox").user_only(),
    key("ssh.key", Kind::Text, "Private key for boxes without a key of their own.").env(&["CRABBOX_SSH_KEY"]).default("~/.ssh/id_ed25519").user_only(),
    key("ssh.port", Kind::Port, "First port to try on boxes whose provider names none.").env(&["CRABBOX_SSH_PORT"]).default("2222").user_only(),
    key("ssh.fallbackPorts", Kind::Ports, "Further ports, tried in order; `[]` or `none` means none.").env(&["CRABBOX_SSH_FALLBACK_PORTS"]).default("22").user_only(),
    key("ssh.keepalive", Kind::Duration, "Silence after which a box is asked for a sign of life; three times as long counts as a broken connection.").env(&["CRABBOX_SSH_KEEPALIVE"]).default("15s").user_only(),
    key("sync.exclude", Kind::List, "Patterns, as in `.gitignore`, of files that stay here.").alias(&["sync.excludes"]).append(),
    key("sync.include", Kind::List, "Patterns whose files are sent although git ignores them or a default excludes them.").append(),
    key("sync.delete", Kind::Bool, "Remove files from the box that are gone here.").env(&["CRABBOX_SYNC_DELETE"]).default("true"),
    key("sync.checksum", Kind::Bool, "Read every byte on both sides instead of trusting times and sizes.").env(&["CRABBOX_SYNC_CHECKSUM"]).flag("checksum").default("false"),
    key("sync.gitSeed", Kind::Bool, "Let the box fetch contents from the repository's public origin while a large sync goes on.").env(&["CRABBOX_SYNC_GIT_SEED"]).default("true"),
    key("sync.fingerprint", Kind::Bool, "Skip the sync when nothing changed; this version asks the box itself.").env(&["CRABBOX_SYNC_FINGERPRINT"]).default("true").later(),
    key("sync.baseRef", Kind::Text, "Make the tree on the box a git checkout that also knows this reference, for commands that ask what changed. A submodule has changed there when another commit of it is checked out.").env(&["CRABBOX_SYNC_BASE_REF"]),
    key("sync.timeout", Kind::Duration, "Longest a sync may take.").env(&["CRABBOX_SYNC_TIMEOUT"]).default("15m"),
    key("sync.warnFiles", Kind::Integer, "Warn above this many files.").env(&["CRABBOX_SYNC_WARN_FILES"]).default("50000"),
    key("sync.warnBytes", Kind::Bytes, "Warn above this many bytes.").env(&["CRABBOX_SYNC_WARN_BYTES"]).default("5GiB"),
    key("sync.failFiles", Kind::Integer, "Refuse above this many files.").env(&["CRABBOX_SYNC_FAIL_FILES"]).default("150000"),
    key("sync.failBytes", Kind::Bytes, "Refuse above this many bytes.").env(&["CRABBOX_SYNC_FAIL_BYTES"]).default("20GiB"),
    key("sync.allowLarge", Kind::Bool, "Lift the two limits above.").env(&["CRABBOX_SYNC_ALLOW_LARGE"]).flag("force-sync-large").default("false"),
    key("sync.allowMassDeletions", Kind::Bool, "Lift the guard against deleting 200 or more tracked files.").env(&["CRABBOX_ALLOW_MASS_DELETIONS"]).default("false"),
    key("env.allow", Kind::List, "Names of variables passed to the command when they are set here; a trailing `*` matches any ending. A repository's file names no endings and no secrets.").env(&["CRABBOX_ENV_ALLOW"]).default("CI,NODE_OPTIONS").named(),
    key("capacity.market", MARKETS, "Kind of capacity to ask for.").env(&["CRABBOX_CAPACITY_MARKET"]).flag("market").default("spot"),
    key("capacity.strategy", Kind::Text, "How to choose between candidates.").env(&["CRABBOX_CAPACITY_STRATEGY"]).default("most-available").later(),
    key("capacity.fallback", Kind::Text, "What to do when there is no capacity.").env(&["CRABBOX_CAPACITY_FALLBACK"]).default("on-demand-after-120s"),
    key("capacity.regions", Kind::List, "Regions to try.").env(&["CRABBOX_CAPACITY_REGIONS"]),
    key("capacity.availabilityZones", Kind::List, "Zones to try.").env(&["CRABBOX_CAPACITY_AVAILABILITY_ZONES"]),
    key("capacity.hints", Kind::Bool, "Give advice when there is no capacity.").env(&["CRABBOX_CAPACITY_HINTS"]).default("true").later(),
    key("actions.repo", Kind::Text, "Repository whose workflow prepares the box.").env(&["CRABBOX_ACTIONS_REPO"]).later(),
    key("actions.workflow", Kind::Text, "That workflow.").env(&["CRABBOX_ACTIONS_WORKFLOW"]),
    key("actions.job", Kind::Text, "A job of it.").env(&["CRABBOX_ACTIONS_JOB"]),
    key("actions.ref", Kind::Text, "Git reference it runs at.").env(&["CRABBOX_ACTIONS_REF"]),
    key("actions.fields", Kind::List, "Inputs of the workflow as `name=value`.").later(),
    key("actions.runnerLabels", Kind::List, "Labels of the runner.").env(&["CRABBOX_ACTIONS_RUNNER_LABELS"]).later(),
    key("actions.runnerVersion", Kind::Text, "Version of the runner.").env(&["CRABBOX_ACTIONS_RUNNER_VERSION"]).default("latest").later(),
    key("actions.ephemeral", Kind::Bool, "The runner serves one job.").env(&["CRABBOX_ACTIONS_EPHEMERAL"]).default("true").later(),
    key("run.reconnect", Kind::Duration, "How long a run tries to reach its box again when the connection breaks; `0` gives up at once.").env(&["CRABBOX_RUN_RECONNECT"]).flag("reconnect").default("10m"),
    key("results.junit", Kind::List, "JUnit reports on the box to read after a run.").env(&["CRABBOX_RESULTS_JUNIT"]).flag("junit"),
    key("cache.pnpm", Kind::Bool, "Keep the pnpm cache.").env(&["CRABBOX_CACHE_PNPM"]).default("true").later(),
    key("cache.npm", Kind::Bool, "Keep the npm cache.").env(&["CRABBOX_CACHE_NPM"]).default("true").later(),
    key("cache.docker", Kind::Bool, "Keep the docker cache.").env(&["CRABBOX_CACHE_DOCKER"]).default("true").later(),
    key("cache.git", Kind::Bool, "Keep the git cache.").env(&["CRABBOX_CACHE_GIT"]).default("true").later(),
    key("cache.maxGB", Kind::Integer, "Largest size of the caches, in GB.").env(&["CRABBOX_CACHE_MAX_GB"]).default("80").later(),
    key("cache.purgeOnRelease", Kind::Bool, "Empty the caches when a lease is given back.").env(&["CRABBOX_CACHE_PURGE_ON_RELEASE"]).default("false").later(),
    key("tailscale.enabled", Kind::Bool, "Join the box to a tailnet.").env(&["CRABBOX_TAILSCALE"]).flag("tailscale").default("false").user_only(),
    key("tailscale.tags", Kind::List, "Tags of the box in the tailnet.").env(&["CRABBOX_TAILSCALE_TAGS"]).flag("tailscale-tags").default("tag:crabbox").user_only(),
    key("tailscale.hostnameTemplate", Kind::Text, "Name of the box in the tailnet.").env(&["CRABBOX_TAILSCALE_HOSTNAME_TEMPLATE"]).flag("tailscale-hostname-template").default("crabbox-{slug}"),
    key("tailscale.authKeyEnv", Kind::Text, "Environment name that holds the join key.").env(&["CRABBOX_TAILSCALE_AUTH_KEY_ENV"]).flag("tailscale-auth-key-env").default("CRABBOX_TAILSCALE_AUTH_KEY").user_only(),
    key("tailscale.exitNode", Kind::Text, "Exit node of the box; only with `network: tailscale`.").env(&["CRABBOX_TAILSCALE_EXIT_NODE"]).flag("tailscale-exit-node").user_only(),
    key("tailscale.exitNodeAllowLanAccess", Kind::Bool, "Keep the box's own network reachable beside the exit node.").env(&["CRABBOX_TAILSCALE_EXIT_NODE_ALLOW_LAN_ACCESS"]).flag("tailscale-exit-node-allow-lan-access").default("false").user_only(),
    key("daemon.enabled", Kind::Bool, "Keep connections to boxes that stay in a process of their own; off by default where `CI` is set.").env(&["CRABBOX_DAEMON"]).default("true").user_only(),
    key("daemon.idleTimeout", Kind::Duration, "That process and its connections end when they are unused for this long.").env(&["CRABBOX_DAEMON_IDLE_TIMEOUT"]).default("30m").user_only(),
    key("history.maxRuns", Kind::Integer, "Runs kept on this machine.").default("200"),
    key("history.maxAge", Kind::Duration, "How long a run is kept.").default("30d"),
    key("history.maxBytes", Kind::Bytes, "Output kept of each stream of a run.").default("64MiB"),
    key("plugins.path", Kind::List, "Folders with further plugins.").user_only().later(),
    key("plugins.policy", PLUGIN_POLICY, "Which plugins may be agreed to.").env(&["CRABBOX_PLUGINS_POLICY"]).default("all").strict().user_only(),
    key("plugins.allow", Kind::List, "Ids of the plugins that policy `allowlist` allows.").user_only(),
    key("plugins.revoked", Kind::List, "Digests of plugins that must never run.").user_only(),
    key("plugins.prefer", Kind::List, "Which plugin offers a provider that several offer, as `provider=publisher/name`.").user_only(),
    key("plugins.runtime", Kind::List, "How a plugin with several artifacts is run, as `provider=wasm`, `stdio`, `wasi-stdio` or `native`; the manifest's first that runs here without.").user_only(),
    key("plugins.native", LIBRARIES, "Whether a plugin may run as a library: none, those of this crabbox, or any.").default("off").strict().user_only(),
    key("plugins.requires", Kind::List, "Plugins that work here needs, as `publisher/name@^1.2`; they are never fetched.").append(),
    key("plugins.startTimeout", Kind::Duration, "How long a plugin may take to introduce itself.").default("10s"),
    key("trust.repositories", Kind::List, "Absolute paths of repositories whose files may set everything.").user_only(),
];
