//! What every command has in hand: environment, settings, providers, local state, terminal. Built once.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crabbox_daemon::{Caller, WarmDialer};
use crabbox_host::{Lazy, OpenOptions, Session, Timeouts, Transcript};
use crabbox_kernel::bootstrap::TAILSCALE;
use crabbox_kernel::config::{Layer, Settings, TailscaleSettings, Values};
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::helper::Binaries;
use crabbox_kernel::lease::claim::Claims;
use crabbox_kernel::lease::network::Network;
use crabbox_kernel::lease::tailnet::{Exit, Tailnet};
use crabbox_kernel::lease::{Bench, Login, NewLease};
use crabbox_kernel::ports::{Clock, Provider, Stop, Urgency};
use crabbox_kernel::run::record::{Limits, Retention, RunStore};
use crabbox_kernel::slug::normalise;
use crabbox_kernel::state::State;
use crabbox_plugins::{Catalog, Entry, Shelf, Written};
use crabbox_remote::{SshDialer, Timing, UserSsh};
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::BoxRequest;
use crabbox_schemas::plugin::UserFacts;
use serde_json::{Map, Value};

use crate::args::Global;
use crate::clock::SystemClock;
use crate::signals::Wish;
use crate::terminal::Terminal;

/// The command's surroundings.
pub(crate) struct Context {
    /// The environment, read once.
    pub(crate) env: BTreeMap<String, String>,
    /// Where the command was started.
    pub(crate) cwd: PathBuf,
    /// This program's own file.
    pub(crate) exe: PathBuf,
    /// The helpers beside it, for boxes.
    pub(crate) binaries: Binaries,
    /// The root of the git work tree around it.
    pub(crate) git_root: Option<PathBuf>,
    /// Local state.
    pub(crate) state: State,
    /// Settings with their origins.
    pub(crate) settings: Settings,
    /// The user's own plugins.
    pub(crate) shelf: Shelf,
    /// The plugin that made the lease the command is about.
    pub(crate) pin: OnceCell<PluginPin>,
    /// Plugins that are not offered any more, but have leases.
    pub(crate) retired: OnceCell<Vec<Entry>>,
    /// Settings as plain values.
    pub(crate) values: Values,
    /// The providers that were found.
    pub(crate) catalog: Catalog,
    /// Provider settings given as flags: provider name, property, value.
    pub(crate) provider_flags: Vec<(String, String, String)>,
    /// Flags of every command.
    pub(crate) global: Global,
    /// Where what plugins say is written down.
    pub(crate) transcript: Option<Arc<Transcript>>,
    /// The standard streams.
    pub(crate) terminal: Terminal,
    /// Time.
    pub(crate) clock: SystemClock,
    /// The way to the daemon, once somebody needed it.
    pub(crate) daemon: OnceCell<Option<Rc<Caller>>>,
    /// The user's wish to stop.
    pub(crate) stop: Stop,
    /// Raises that wish.
    pub(crate) wish: Wish,
}

impl Context {
    /// Nobody reads what the command prints: it is stopped as a broken pipe would stop it here.
    pub(crate) fn stop_gently(&self) {
        self.wish.gently();
    }

    /// Whether a run was stopped though nobody wants this command to stop: it makes way for the next.
    pub(crate) fn is_superseded(&self, run: &Stop) -> bool {
        run.urgency() > Urgency::None && self.stop.urgency() == Urgency::None
    }

    /// The checkout's root as records name it.
    pub(crate) fn repo_root(&self) -> String {
        self.git_root.as_ref().unwrap_or(&self.cwd).to_string_lossy().into_owned()
    }

    /// The local claims.
    pub(crate) fn claims(&self) -> Claims {
        Claims::new(self.state.claims())
    }

    /// The recorded runs.
    pub(crate) fn runs(&self) -> RunStore {
        RunStore::new(&self.state)
    }

    /// How much of a run is kept.
    pub(crate) fn record_limits(&self) -> Limits {
        Limits { max_bytes: self.values.history.max_bytes }
    }

    /// How many runs are kept, and for how long.
    pub(crate) fn retention(&self) -> Retention {
        Retention {
            max_runs: usize::try_from(self.values.history.max_runs).unwrap_or(usize::MAX),
            max_age: self.values.history.max_age,
        }
    }

    /// The embedded provider that costs nothing, used when none is configured.
    pub(crate) fn default_provider(&self) -> Option<String> {
        self.catalog.embedded_default().map(|e| e.provider.name.clone())
    }

    /// Which provider a command talks to: the claim of the named box first, then flag, then configuration,
    /// then the embedded default, which is said aloud. A flag that contradicts the claim is refused.
    pub(crate) fn choose_provider(&self, name: Option<&str>, flag: Option<&str>) -> Result<String> {
        let flag = flag.map(|f| self.entry(f).map(|e| e.provider.name.clone())).transpose()?;
        let claim = name.map(|n| self.claims().find(n)).transpose()?.flatten();
        if let Some(claim) = claim.filter(|c| !c.provider.is_empty()) {
            let owner = self.entry(&claim.provider)?.provider.name.clone();
            if let Some(plugin) = claim.plugin {
                let _ = self.pin.set(plugin);
            }
            return match flag {
                Some(flag) if flag != owner => Err(KernelError::new(
                    ErrorCode::ProviderMismatch,
                    format!("lease {} is from {owner}, but --provider says {flag}", claim.lease_id),
                )
                .hint("leave --provider out; the claim knows")
                .at("plan")),
                _ => Ok(owner),
            };
        }
        if let Some(flag) = flag {
            return Ok(flag);
        }
        if let Some(configured) = &self.values.provider {
            return Ok(self.entry(configured)?.provider.name.clone());
        }
        let Some(default) = self.default_provider() else {
            return Err(KernelError::new(ErrorCode::ProviderUnknown, "no provider is configured")
                .hint("pass --provider NAME or set `provider` in the user's configuration")
                .at("plan"));
        };
        if name.is_none() {
            self.terminal
                .err(&format!("no provider is configured: using {default}, a box on this machine"));
        }
        Ok(default)
    }

    /// The system a new box should have: what was asked for, or this machine's for a box on it. Refused when
    /// the provider does not offer it, before anything is asked of it.
    fn target(&self, provider: &str) -> Result<String> {
        let entry = &self.entry(provider)?.provider;
        let unasked = self.settings.origin("target").layer == Layer::Default;
        let own = unasked && entry.embedded_default;
        let target = if own { std::env::consts::OS } else { &self.values.target };
        let offered = &entry.targets;
        if offered.iter().any(|offer| offer == target) {
            return Ok(target.to_owned());
        }
        Err(KernelError::new(ErrorCode::Unsupported, format!("{provider} has no {target} boxes"))
            .hint(format!(
                "it offers {}; `crabbox providers` lists the others",
                offered.join(" and ")
            ))
            .at("plan"))
    }

    /// The box a command means: the named one, or the only one this checkout has claimed.
    pub(crate) fn name_or_only_claim(&self, name: Option<&str>) -> Result<String> {
        if let Some(name) = name {
            return Ok(name.to_owned());
        }
        let here = self.repo_root();
        let mine: Vec<_> =
            self.claims().all().0.into_iter().filter(|c| c.repo_root == here).collect();
        match &mine[..] {
            [one] => Ok(one.lease_id.to_string()),
            [] => Err(KernelError::new(
                ErrorCode::Usage,
                "no box was named, and this checkout has claimed none",
            )
            .hint("`crabbox list` shows the provider's boxes")),
            many => Err(KernelError::new(
                ErrorCode::Ambiguous,
                format!(
                    "this checkout has {} boxes: {}",
                    many.len(),
                    many.iter().map(|c| c.slug.as_str()).collect::<Vec<_>>().join(", ")
                ),
            )
            .hint("name one of them")),
        }
    }

    /// Starts a provider's plugin with its settings, checked against its schema.
    pub(crate) async fn open_provider(&self, name: &str) -> Result<Session> {
        crabbox_host::open(self.plugin(name)?).await.map_err(|e| e.at("provider"))
    }

    /// A provider whose plugin is started when something is asked of it.
    pub(crate) fn provider(&self, name: &str) -> Result<Lazy<'_>> {
        self.plugin(name).map(Lazy::new)
    }

    /// What a provider's plugin is started with.
    fn plugin(&self, name: &str) -> Result<OpenOptions<'_>> {
        let entry = self.vetted(name)?;
        let env = Arc::new(self.env.clone());
        let user = UserFacts {
            home: self.env.get("HOME").cloned().unwrap_or_default(),
            path: self.env.get("PATH").cloned().unwrap_or_default(),
            login: self.login(),
        };
        let (config, written) = self.provider_config(&entry)?;
        Ok(OpenOptions {
            config,
            written,
            plugins_dir: self.state.plugins(),
            keys_dir: self.state.config.join("testboxes"),
            journal: self.state.journal(),
            checkout: self.git_root.clone().unwrap_or_else(|| self.cwd.clone()),
            user,
            entry,
            env,
            prompt: crate::prompt::questions(),
            now_ms: Arc::new(|| SystemClock::new().now_ms()),
            limits: crabbox_schemas::plugin::Limits::default(),
            timeouts: Timeouts {
                handshake: self.values.plugins.start_timeout,
                ..Timeouts::default()
            },
            transcript: self.transcript.clone(),
        })
    }

    /// The user's configuration file, whether or not it exists.
    pub(crate) fn user_config_file(&self) -> PathBuf {
        let explicit =
            self.env.get("CRABBOX_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        explicit.unwrap_or_else(|| self.state.config.join("config.yaml"))
    }

    /// The settings block of a provider, from all layers, and where each was written. What the block has beside
    /// them is told; a value that makes no sense could cost money, and is an error.
    fn provider_config(&self, entry: &Entry) -> Result<(Map<String, Value>, Written)> {
        let block = crate::flags::block(self, entry)?;
        let name = &entry.provider.name;
        if let Some(wrong) = block.wrong.first() {
            return Err(KernelError::new(ErrorCode::Config, wrong.to_string())
                .hint(format!("`crabbox providers describe {name}` lists its settings"))
                .at("config"));
        }
        block.unknown.iter().for_each(|stray| self.terminal.warn(&stray.to_string()));
        let written = block.origins.into_iter().map(|(key, from)| (key, from.to_string()));
        Ok((block.values, Written(written.collect())))
    }

    /// The user's login name.
    pub(crate) fn login(&self) -> String {
        ["USER", "LOGNAME"]
            .iter()
            .find_map(|n| self.env.get(*n))
            .cloned()
            .unwrap_or_else(|| "root".to_owned())
    }

    /// Who works where, for people: user, machine and process.
    pub(crate) fn whereabouts(&self) -> String {
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("{}@{machine} (process {})", self.login(), std::process::id())
    }

    /// Opens connections as this user.
    pub(crate) fn dialer(&self) -> WarmDialer<SshDialer> {
        WarmDialer::direct(self.ssh())
    }

    /// The same for boxes that stay: through the daemon, unless the user does not want one.
    pub(crate) fn warm_dialer(&self) -> WarmDialer<SshDialer> {
        match crate::warm::caller(self) {
            Some(daemon) => WarmDialer::through(Rc::clone(daemon), self.ssh()),
            None => self.dialer(),
        }
    }

    /// Opens connections in this process.
    pub(crate) fn ssh(&self) -> SshDialer {
        let home = PathBuf::from(self.env.get("HOME").cloned().unwrap_or_default());
        let user = UserSsh {
            agent_socket: self
                .env
                .get("SSH_AUTH_SOCK")
                .filter(|s| !s.is_empty())
                .map(PathBuf::from),
            ask: crate::prompt::passphrase(),
            env: self.env.clone(),
            ..UserSsh::new(home, self.login())
        };
        let keepalive = self.values.ssh.keepalive;
        SshDialer::with_timing(user, Timing { keepalive, ..Timing::default() })
    }

    /// The doors a lease is worked through.
    pub(crate) fn bench<'a, P: Provider>(
        &'a self,
        provider: &'a P,
        dialer: &'a WarmDialer<SshDialer>,
    ) -> Bench<'a, P, WarmDialer<SshDialer>, SystemClock> {
        Bench {
            provider,
            dialer,
            clock: &self.clock,
            state: &self.state,
            network: self.network(),
            binaries: &self.binaries,
        }
    }

    /// Which of its addresses a box is dialled at.
    pub(crate) fn network(&self) -> Network {
        Network::of(&self.values.network)
    }

    /// What a new box should be.
    pub(crate) fn new_lease(
        &self,
        provider: &str,
        keep: bool,
        slug: Option<&str>,
        reclaim: bool,
    ) -> Result<NewLease> {
        self.offered(provider)?;
        let values = &self.values;
        let slug = slug.map(normalise);
        if slug.as_deref() == Some("") {
            return Err(KernelError::new(ErrorCode::Usage, "--slug needs letters or digits"));
        }
        if slug.is_some() && self.entry(provider)?.owns_lease_ids() {
            return Err(KernelError::new(
                ErrorCode::Unsupported,
                format!("{provider} names its boxes itself, so --slug cannot be honoured"),
            )
            .hint("leave --slug out; `crabbox list` shows the name"));
        }
        check_limits(values.ttl, values.idle_timeout)?;
        let target = self.target(provider)?;
        let request = BoxRequest {
            windows_mode: (target == "windows").then(|| values.windows_mode.clone()),
            target,
            class: values.class.clone(),
            machine_type: values.server_type.clone(),
            market: Some(values.market.clone()),
            ttl_secs: values.ttl.as_secs(),
            idle_timeout_secs: values.idle_timeout.as_secs(),
            keep,
            work_root: values.work_root.clone(),
            features: values.features.clone(),
        };
        let mut ports = vec![values.ssh.port];
        ports.extend(values.ssh.fallback_ports.iter().filter(|port| **port != values.ssh.port));
        let login = Login { user: values.ssh.user.clone(), ports };
        let tailnet = self.tailnet()?;
        Ok(NewLease { request, profile: values.profile.clone(), slug, reclaim, login, tailnet })
    }

    /// The tailnet new boxes shall join, with the key from the user's environment.
    fn tailnet(&self) -> Result<Option<Tailnet>> {
        let inside = self.network() == Network::Tailscale;
        if !self.values.features.iter().any(|feature| feature == TAILSCALE) {
            if self.values.tailscale.exit_node.is_some() {
                let what = "tailscale.exitNode is for boxes that join your tailnet, and this one shall not";
                return Err(KernelError::new(ErrorCode::Usage, what)
                    .hint("add --tailscale --network tailscale, or leave it out"));
            }
            if !inside {
                return Ok(None);
            }
            let what = "--network tailscale needs a box that joins your tailnet";
            return Err(KernelError::new(ErrorCode::Usage, what).hint(
                "add --tailscale; of a host of your own write its address in the tailnet as static.host",
            ));
        }
        let TailscaleSettings { tags, hostname, key_env, exit_node, exit_lan } =
            &self.values.tailscale;
        if exit_node.is_some() && !inside {
            let what = "with tailscale.exitNode a box no longer answers at its own address";
            return Err(KernelError::new(ErrorCode::Usage, what)
                .hint("add --network tailscale on a machine in the tailnet, or leave it out"));
        }
        let exit = exit_node.clone().map(|node| Exit { node, lan: *exit_lan });
        let key = self.env.get(key_env.as_str()).map(|key| key.trim()).unwrap_or_default();
        if key.is_empty() || key.contains(char::is_whitespace) {
            let what = format!("--tailscale needs a key in {key_env}, and none is there");
            return Err(KernelError::new(ErrorCode::Usage, what)
                .hint("make an ephemeral, tagged auth key in Tailscale's console"));
        }
        let (tags, hostname) = (tags.clone(), hostname.clone());
        Ok(Some(Tailnet { key: key.to_owned(), tags, hostname, exit }))
    }
}

fn check_limits(ttl: Duration, idle: Duration) -> Result<()> {
    if ttl.as_secs() == 0 || idle.as_secs() == 0 {
        return Err(KernelError::new(
            ErrorCode::Usage,
            "a lease needs a ttl and an idle timeout of at least 1s",
        ));
    }
    Ok(())
}
