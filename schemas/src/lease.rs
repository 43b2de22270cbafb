//! What was wanted (`Desired`, `BoxRequest`) and what was got (`Lease`, `SshEndpoint`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::LeaseId;

/// The identity the kernel chose before anything was created; providers echo it exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// The lease's id, always the kernel's.
    pub lease_id: LeaseId,
    /// The short human name, such as `blue-prawn`.
    pub slug: String,
    /// The name for the provider's machine, such as `crabbox-blue-prawn-c80c2195`.
    pub name: String,
}

/// What kind of box is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BoxRequest {
    /// Operating system: `linux`, `macos` or `windows`.
    pub target: String,
    /// What commands on Windows run in: `normal`, which is Windows itself, or `wsl2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows_mode: Option<String>,
    /// Size class: `standard`, `fast`, `large`, `beast`, or a literal machine type.
    pub class: String,
    /// Exact machine type; when set only this one is tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// `spot` or `on-demand`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub market: Option<String>,
    /// Hard limit of the lease, seconds from its creation.
    pub ttl_secs: u64,
    /// Idle limit of the lease, seconds from its last touch.
    pub idle_timeout_secs: u64,
    /// Whether the user asked to keep the box after the command.
    pub keep: bool,
    /// Directory on the box the user wants work below; providers that place their boxes themselves ignore it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_root: Option<String>,
    /// What the box shall have beside the usual: `browser`, `code`. The kernel sees to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

impl BoxRequest {
    /// Whether commands would run in Windows itself.
    pub fn is_native_windows(&self) -> bool {
        self.target == "windows" && self.windows_mode.as_deref() != Some("wsl2")
    }
}

/// A box a provider handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// The kernel's id for it.
    pub lease_id: LeaseId,
    /// The short human name.
    #[serde(default)]
    pub slug: String,
    /// The provider's machine name.
    #[serde(default)]
    pub name: String,
    /// The provider's own immutable id; the kernel never guesses it.
    #[serde(default)]
    pub cloud_id: String,
    /// `leased`, `ready`, `running`, `released`, `failed`, `expired`, `active`.
    #[serde(default = "ready")]
    pub status: String,
    /// Machine type as the provider names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server_type: String,
    /// Labels on the provider's resource, as in the label table of the configuration page.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Directory on the box below which work directories are made; absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_root: Option<String>,
    /// How to reach it; absent for delegated providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshEndpoint>,
}

fn ready() -> String {
    "ready".to_owned()
}

/// Where and as whom to connect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SshEndpoint {
    /// Login name; empty means the user's own SSH configuration decides.
    pub user: String,
    /// The user name is a secret token and must not be shown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub user_secret: bool,
    /// Host name, address, or an alias of the user's SSH configuration (only with `auth: user`).
    pub host: String,
    /// First port to try; 0 means the user's own SSH configuration decides.
    pub port: u16,
    /// Further ports, raced in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallback_ports: Vec<u16>,
    /// Host keys in OpenSSH one-line form, when the provider can say; otherwise pinned on first use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_keys: Vec<String>,
    /// How to prove who we are.
    pub auth: SshAuth,
    /// Private key file, only with `auth: key-file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// Shell command that must succeed before the box counts as ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_check: Option<String>,
}

/// How the kernel authenticates to a box.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SshAuth {
    /// With the key pair the kernel made for this lease.
    #[default]
    KernelKey,
    /// As the user's own OpenSSH would: configuration file, agent, default keys, known hosts.
    User,
    /// With `keyFile`, else as `user`.
    KeyFile,
}

/// How a new machine becomes a box: made by the kernel once for all providers, carried to the machine by the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// What the machine's first start reads: for cloud-init on Linux, for root's shell on a Mac, for PowerShell on
    /// Windows. A private host key is in it: pass it on, keep it nowhere.
    pub user_data: String,
    /// Login name it makes.
    pub user: String,
    /// Ports its SSH server listens on, the preferred one first.
    pub ports: Vec<u16>,
    /// Directory below which work directories are made.
    pub work_root: String,
    /// Host keys the machine will show, OpenSSH one-line form.
    pub host_keys: Vec<String>,
    /// Shell command that succeeds once the machine is a box.
    pub ready_check: String,
}

impl Bootstrap {
    /// How to reach the machine at this address.
    pub fn endpoint(&self, host: &str) -> SshEndpoint {
        SshEndpoint {
            user: self.user.clone(),
            host: host.to_owned(),
            port: self.ports.first().copied().unwrap_or(22),
            fallback_ports: self.ports.iter().skip(1).copied().collect(),
            host_keys: self.host_keys.clone(),
            ready_check: Some(self.ready_check.clone()),
            ..SshEndpoint::default()
        }
    }
}

/// A match constraint for destructive calls: what must be true of the resource before it is touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Expected {
    /// The lease the resource must be labelled with.
    pub lease_id: LeaseId,
    /// The provider id it must have, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_id: Option<String>,
}

/// How a release ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseOutcome {
    /// It existed and is gone now.
    Released,
    /// It was already gone.
    AlreadyGone,
    /// Deletion was accepted and is still under way.
    Pending,
    /// The provider keeps it by design, such as a host the user owns.
    Retained,
}
