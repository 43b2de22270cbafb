//! Documents that commands print with `--json` about what they did: `stop`, `cleanup`, `init`, `connect`, `plugin …`;
//! and about crabbox itself: `version`, `providers`, paths.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::lock::Locked;
use crate::plugin::ProviderKind;
use crate::run::RunRecord;
use crate::view::PluginImport;

/// Gives each document its version, in front.
macro_rules! documents {
    ($($(#[$meta:meta])* $name:ident { $($(#[$of:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Version of this document.
            pub schema_version: u32,
            $($(#[$of])* pub $field: $type,)*
        }
    )*};
}

documents! {
    /// `stop --json`.
    StopView {
        /// What was named, in that order.
        stopped: Vec<Stopped>,
    }

    /// `cleanup --json`.
    CleanupView {
        /// Nothing was done, only said.
        dry_run: bool,
        /// What was looked at.
        actions: Vec<CleanupAction>,
        /// Providers whose boxes could not be looked at.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unseen: Vec<String>,
    }

    /// `init --json`.
    InitView {
        /// The files, from the repository's root.
        wrote: Vec<String>,
    }

    /// `connect --json` and `ssh --json`.
    ConnectView {
        /// How to connect with OpenSSH.
        command: String,
    }

    /// `logs --json`.
    LogsView {
        /// The run.
        run: RunRecord,
        /// Everything it printed; bytes that are not UTF-8 are replaced.
        log: String,
    }

    /// `daemon stop --json`.
    DaemonStopView {
        /// Whether there was one to end.
        stopped: bool,
    }

    /// `version --json`.
    VersionView {
        /// Of crabbox.
        version: String,
        /// Of the plugin protocol, newest first.
        plugin_protocols: Vec<String>,
    }

    /// `config path --json` and `plugin path --json`.
    PathView {
        /// Where it is, or would be.
        path: String,
    }

    /// `config show --json`: each setting at its own place, as a configuration file would have it, and where it is from.
    ConfigView {
        /// The settings, under names that no schema lists: those of this version, and the blocks that mean a
        /// provider (such as `aws`). Secrets are left out; what nobody set and has no default is an empty text.
        #[serde(flatten)]
        settings: Map<String, Value>,
        /// Somebody chose `serverType`.
        server_type_explicit: bool,
        /// The coordinator's token.
        broker_auth: Presence,
        /// The coordinator's token for administrators.
        broker_admin_auth: Presence,
        /// What goes through the access proxy in front of the coordinator.
        access_auth: AccessAuth,
        /// The settings of each provider by its name, secrets as `configured`.
        providers: BTreeMap<String, Map<String, Value>>,
        /// The layer, file or variable that each setting is from, by its dotted path.
        origins: BTreeMap<String, String>,
        /// What stands in the configuration and has no effect.
        unused: Vec<UnusedSetting>,
        /// The files that were read.
        files: Vec<ConfigFileView>,
    }

    /// `providers --json`.
    ProvidersView {
        /// Every provider of every plugin, without its settings.
        providers: Vec<Offer>,
    }

    /// `providers describe --json`.
    ProviderView {
        /// The provider.
        #[serde(flatten)]
        offer: Offer,
    }

    /// `plugin new --json`.
    PluginNewView {
        /// The folder that was made.
        folder: String,
        /// The provider's name.
        provider: String,
        /// The command that builds it, if it must be built.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        build: Option<String>,
    }

    /// `plugin pack --json`.
    PluginPackView {
        /// The package.
        path: String,
        /// Its size.
        bytes: u64,
        /// Its digest: `sha256:` and hex.
        digest: String,
    }

    /// `plugin install --json` and `plugin update --json`.
    PluginInstallView {
        /// `publisher/name`.
        id: String,
        /// What was installed.
        plugin: Locked,
    }

    /// `plugin remove --json`.
    PluginRemoveView {
        /// `publisher/name`.
        removed: String,
        /// Names of its leases, which can still be used and stopped.
        leases: Vec<String>,
    }

    /// `plugin gc --json`.
    PluginGcView {
        /// How many stored copies were removed.
        copies: u64,
    }

    /// `plugin trust --json`: what may run now, or whose key was forgotten.
    PluginTrustView {
        /// `publisher/name`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// Its version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// Digest of its files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<String>,
        /// Digest of what it may do.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grants: Option<String>,
        /// The publisher whose key was forgotten.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        forgot_key: Option<String>,
    }

    /// `plugin info FILE.wasm --json`.
    PluginImportsView {
        /// What the file imports.
        imports: Vec<PluginImport>,
    }

    /// `plugin test --json`.
    PluginTestView {
        /// Each provider by each artifact that was tested.
        providers: Vec<TestedProvider>,
    }
}

/// Whether there is a secret; never which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// There is one, or a reference to one.
    Configured,
    /// There is none.
    Missing,
}

/// What there is for an access proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessAuth {
    /// A client's id and secret, and a token.
    #[serde(rename = "service-token+token")]
    Both,
    /// A client's id and secret.
    #[serde(rename = "service-token")]
    ServiceToken,
    /// A token.
    #[serde(rename = "token")]
    Token,
    /// Nothing.
    #[serde(rename = "missing")]
    Missing,
    /// A client's id without its secret, or the other way round.
    #[serde(rename = "incomplete")]
    Incomplete,
}

/// Something that stands in the configuration and has no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnusedSetting {
    /// Its dotted path.
    pub path: String,
    /// Where it stands.
    pub origin: String,
    /// Why it has no effect.
    pub reason: String,
}

/// A configuration file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigFileView {
    /// Where it is.
    pub path: String,
    /// `repository` or `user`.
    pub kind: String,
    /// It may set what is the user's.
    pub trusted: bool,
    /// Its permission bits in octal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// One box or run that was to be stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// As it was named.
    pub name: String,
    /// The lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<String>,
    /// Its provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// How it ended: `released`, `already_gone`, `pending`, `retained`; of a run `stopped` or what it was before.
    pub outcome: String,
}

/// One lease that `cleanup` looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CleanupAction {
    /// `delete`; `forget` for a lease of which nothing was there; `skip` or `failed`.
    pub action: String,
    /// The lease.
    pub lease_id: String,
    /// Its short name.
    pub slug: String,
    /// Its provider.
    pub provider: String,
    /// Why.
    pub reason: String,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a plugin offers under one provider name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// The provider's name.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// What it does.
    pub kind: ProviderKind,
    /// Optional powers by name.
    pub features: Vec<String>,
    /// Operating systems of its boxes.
    pub targets: Vec<String>,
    /// `publisher/name` of its plugin.
    pub plugin: String,
    /// The plugin's version.
    pub version: String,
    /// What the plugin says of itself.
    pub description: String,
    /// Its settings; `providers describe` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<OfferSetting>,
}

/// One setting of a provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferSetting {
    /// Below `providers.NAME` in a configuration file.
    pub key: String,
    /// Its flag, without dashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
    /// Environment variables that set it.
    pub env: Vec<String>,
    /// What it is.
    pub help: String,
    /// Its value when nobody sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// It names a secret.
    pub secret: bool,
    /// A repository's file may not set it.
    pub user_only: bool,
}

/// How a provider did in the kit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestedProvider {
    /// Its name.
    pub provider: String,
    /// `publisher/name` of its plugin.
    pub plugin: String,
    /// The plugin's version.
    pub version: String,
    /// `stdio`, `wasm`, `wasi-stdio` or `native`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Checks that passed.
    pub passed: u64,
    /// Checks of level `must` that failed.
    pub failed: u64,
    /// Checks of level `should` that failed.
    pub warnings: u64,
    /// Checks that do not apply.
    pub skipped: u64,
    /// Every check.
    pub checks: Vec<TestedCheck>,
}

/// How one check of the kit went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestedCheck {
    /// A letter for the subject, and a number.
    pub id: String,
    /// `must` or `should`.
    pub level: String,
    /// What is right.
    pub title: String,
    /// The heading of the protocol page that says so.
    pub section: String,
    /// `passed`, `failed` or `skipped`.
    pub verdict: String,
    /// What was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// What must come of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub got: Option<String>,
    /// What usually mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// Why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
