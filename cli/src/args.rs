//! Flags that several commands share, and how they become settings.

/// Flags every command takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Global {
    /// Print one JSON document to stdout instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing but warnings, errors and the command's own output
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Say what happens in detail
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    /// Work without the process that keeps connections
    #[arg(long, global = true)]
    pub(crate) no_daemon: bool,
    /// Use the plugin in this folder, unchecked, while you work on it
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) plugin_dev: Vec<std::path::PathBuf>,
    /// Write what crabbox and the provider's plugin say to each other to this file, without secrets
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) plugin_transcript: Option<std::path::PathBuf>,
    /// Named group of settings to use
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
}

/// Which box to lease.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Lease")]
pub(crate) struct LeaseFlags {
    /// Provider to lease from
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// Size class: standard, fast, large, beast, or a machine type
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Exact machine type; only this one is tried
    #[arg(long = "type", value_name = "TYPE")]
    machine_type: Option<String>,
    /// spot or on-demand
    #[arg(long, value_name = "MARKET")]
    market: Option<String>,
    /// Operating system: linux, macos or windows
    #[arg(long, value_name = "OS")]
    target: Option<String>,
    /// What commands on a Windows box run in: wsl2, or normal, which is Windows itself and runs none of ours
    #[arg(long, value_name = "MODE")]
    windows_mode: Option<String>,
    /// Which address to dial: auto, tailscale or public
    #[arg(long, value_name = "NET", hide = true)]
    network: Option<String>,
    /// Hard limit of the lease, such as 90m
    #[arg(long, value_name = "TIME")]
    ttl: Option<String>,
    /// Idle limit of the lease, such as 30m
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<String>,
    /// Set the box up with a desktop that only the box itself reaches (DISPLAY, VNC); for providers of bare Linux machines
    #[arg(long)]
    desktop: bool,
    /// Set the box up with a browser; for providers of bare Linux machines
    #[arg(long)]
    browser: bool,
    /// Set the box up with an editor server, code-server; for providers of bare Linux machines
    #[arg(long)]
    code: bool,
    /// Join the box to your tailnet with the key in CRABBOX_TAILSCALE_AUTH_KEY; for providers of bare Linux machines
    #[arg(long)]
    tailscale: bool,
    /// Tags of the box in the tailnet
    #[arg(long, value_name = "TAGS", hide = true)]
    tailscale_tags: Option<String>,
    /// Name of the box in the tailnet
    #[arg(long, value_name = "NAME", hide = true)]
    tailscale_hostname_template: Option<String>,
    /// Variable that holds the key
    #[arg(long, value_name = "NAME", hide = true)]
    tailscale_auth_key_env: Option<String>,
    /// Node in the tailnet the box reaches everything else through; with --network tailscale
    #[arg(long, value_name = "NODE", hide = true)]
    tailscale_exit_node: Option<String>,
    /// Keep the box's own network reachable beside it
    #[arg(long, hide = true)]
    tailscale_exit_node_allow_lan_access: bool,
    /// Name the box yourself
    #[arg(long, value_name = "NAME")]
    pub(crate) slug: Option<String>,
    /// Use a lease that belongs to another checkout
    #[arg(long)]
    pub(crate) reclaim: bool,
}

impl LeaseFlags {
    /// The flags that were given and say what a new box should be.
    pub(crate) fn about_new_boxes(&self) -> Vec<&'static str> {
        let given = [
            ("--class", &self.class),
            ("--type", &self.machine_type),
            ("--market", &self.market),
            ("--ttl", &self.ttl),
            ("--idle-timeout", &self.idle_timeout),
            ("--slug", &self.slug),
        ];
        let given = given.into_iter().filter(|(_, value)| value.is_some()).map(|(flag, _)| flag);
        given.chain(self.features().map(|(_, flag)| flag)).collect()
    }

    /// What the box shall have beside the usual: keys and flags.
    fn features(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let all = [
            (self.desktop, ("desktop", "--desktop")),
            (self.browser, ("browser", "--browser")),
            (self.code, ("code", "--code")),
            (self.tailscale, ("tailscale.enabled", "--tailscale")),
        ];
        all.into_iter().filter(|(asked, _)| *asked).map(|(_, names)| names)
    }

    /// Configuration keys these flags set.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let pairs = [
            ("provider", &self.provider),
            ("class", &self.class),
            ("serverType", &self.machine_type),
            ("capacity.market", &self.market),
            ("target", &self.target),
            ("windows.mode", &self.windows_mode),
            ("network", &self.network),
            ("ttl", &self.ttl),
            ("idleTimeout", &self.idle_timeout),
            ("tailscale.tags", &self.tailscale_tags),
            ("tailscale.hostnameTemplate", &self.tailscale_hostname_template),
            ("tailscale.authKeyEnv", &self.tailscale_auth_key_env),
            ("tailscale.exitNode", &self.tailscale_exit_node),
        ];
        pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)))
            .chain(self.features().map(|(key, _)| (key.to_owned(), "true".to_owned())))
            .chain(
                self.tailscale_exit_node_allow_lan_access
                    .then(|| ("tailscale.exitNodeAllowLanAccess".to_owned(), "true".to_owned())),
            )
            .collect()
    }
}

/// An existing lease.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ByName {
    /// Lease id, slug, machine name or provider id
    #[arg(value_name = "BOX")]
    name: Option<String>,
    /// The same as BOX
    #[arg(long, value_name = "BOX", conflicts_with = "name")]
    id: Option<String>,
    /// Provider to look at, for a box without a local claim
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
}

impl ByName {
    /// The name, wherever it was given.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref().or(self.id.as_deref())
    }
}
