//! Opens a provider: starts its plugin, shakes hands, and ends it again.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::{About, Stop};
use crabbox_kernel::state::make_dir;
use crabbox_net::{Blobs, Net, Setting};
use crabbox_plugins::{Entry, Written, check_protocols, check_settings, passes};
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::manifest::Runtime;
use crabbox_schemas::plugin::{BareParams, Limits, UserFacts, method};
use rustix::process::Signal;
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::broker::{Broker, NowMs, Prompt, private_folder};
use crate::call::{Call, Hands, call};
use crate::exec::{Keys, KillOnDrop, Tools};
use crate::handshake::{context, shake};
use crate::kv::Store;
use crate::link::Link;
use crate::secrets::Secrets;
use crate::spawn::{self, Program};
use crate::transcript::Transcript;

/// Where a plugin finds system programs, whatever the user's own search path says.
const PLUGIN_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every plugin gets of the user's environment.
const PASSED: &[&str] = &["LANG", "LC_ALL", "TZ", "TMPDIR"];

/// Everything a session is opened with.
#[derive(Clone)]
pub struct OpenOptions<'a> {
    /// Which provider.
    pub entry: Cow<'a, Entry>,
    /// Its settings; secrets by reference.
    pub config: Map<String, Value>,
    /// Where each of them was written, for messages.
    pub written: Written,
    /// The folder all plugins share; each gets a private folder below it.
    pub plugins_dir: PathBuf,
    /// The folder with the keys of leases, a folder a lease.
    pub keys_dir: PathBuf,
    /// The folder with the trails of leases.
    pub journal: PathBuf,
    /// The user's checkout.
    pub checkout: PathBuf,
    /// Facts some providers need.
    pub user: UserFacts,
    /// The user's environment; a plugin gets only granted and harmless names of it.
    pub env: Arc<BTreeMap<String, String>>,
    /// Asks the person; absent when nobody is there.
    pub prompt: Option<Prompt>,
    /// The caller's wall clock.
    pub now_ms: NowMs,
    /// Bounds of the session.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Where everything that is said is written down.
    pub transcript: Option<Arc<Transcript>>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From start to a good `initialize`.
    pub handshake: Duration,
    /// `lease.acquire` and `run.warmup`.
    pub acquire: Duration,
    /// Looking up, listing and `doctor`.
    pub read: Duration,
    /// `lease.release` and `run.stop`.
    pub release: Duration,
    /// `lease.touch`.
    pub touch: Duration,
    /// `run.start` when the user set no limit, and what it may take beyond the user's limit.
    pub run: (Duration, Duration),
    /// After a cancel of acquire and `run.start`, and of everything else.
    pub grace: (Duration, Duration),
    /// From the end of stdin to SIGTERM, and from there to SIGKILL.
    pub exit: (Duration, Duration),
}

impl Default for Timeouts {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            handshake: secs(15),
            acquire: secs(15 * 60),
            read: secs(60),
            release: secs(5 * 60),
            touch: secs(30),
            run: (secs(7 * 86_400), secs(60)),
            grace: (secs(30), secs(5)),
            exit: (secs(2), secs(3)),
        }
    }
}

/// One live plugin process, ready for calls. Dropping it kills the process group.
pub struct Session {
    pub(crate) about: About,
    pub(crate) plugin: PluginPin,
    pub(crate) link: Arc<Link>,
    /// What it answers.
    pub(crate) methods: Vec<String>,
    pub(crate) timeouts: Timeouts,
    /// Handles of the user names that were lent and not given back, with the lease of each.
    pub(crate) lent: Mutex<Vec<(LeaseId, String)>>,
    _guard: KillOnDrop,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("about", &self.about).finish_non_exhaustive()
    }
}

/// Starts a provider's plugin and shakes hands.
pub async fn open(options: OpenOptions<'_>) -> Result<Session> {
    let entry = &*options.entry;
    check_protocols(&entry.manifest)?;
    check_settings(entry, &options.config, &options.written)?;
    let plugin = entry.pin()?;
    let folder = private_folder(&options.plugins_dir, &entry.manifest.id);
    make_dir(&folder)?;
    let env = environment(&options, &folder);
    let confined = Some(entry.confined()).filter(|walls| walls.is_needed());
    let program = Program {
        path: entry.program.clone(),
        args: entry.args.clone(),
        env: match confined {
            Some(_) => with_own_tmp(env.clone(), &folder)?,
            None => env.clone(),
        },
        cwd: folder.clone(),
        confined,
    };
    let broker = broker(&options, env, &folder)?;
    let running = spawn::start(program).await.map_err(|e| cannot_start(entry, &e))?;
    let guard = KillOnDrop(Arc::clone(&running.group));
    let transcript = options.transcript.clone();
    transcript.iter().for_each(|transcript| transcript.begin(&entry.provider.name));
    let about = entry.about(&options.config);
    let (limits, written) = (options.limits, options.written.clone());
    let link = Link::attach(&about.provider, limits, running, broker, transcript, written);
    let methods = shake(&link, &options).await?;
    Ok(Session {
        about,
        plugin,
        link,
        methods,
        timeouts: options.timeouts,
        lent: Mutex::default(),
        _guard: guard,
    })
}

impl Session {
    /// Ends the plugin: asks, closes its stdin, then SIGTERM, then SIGKILL to its whole group.
    pub async fn close(self) {
        let (polite, firm) = self.timeouts.exit;
        let params = BareParams { ctx: context(polite, polite, "shutdown") };
        let shutdown = Call {
            method: method::SHUTDOWN,
            params: serde_json::to_value(params).unwrap_or_default(),
            deadline: polite,
            grace: Duration::ZERO,
            mutating: false,
            stop: &Stop::never(),
        };
        // Whatever it answers, its stdin is closed next.
        self.link.closes();
        let _ = call(&self.link, shutdown, Hands::default()).await;
        self.link.hang_up();
        self.link.broker.blobs.clear();
        let group = &self.link.group;
        for (wait, signal) in [(polite, Signal::TERM), (firm, Signal::KILL)] {
            if timeout(wait, group.ended()).await.is_ok() {
                return;
            }
            group.signal(signal);
        }
        // A killed leader ends; the bound is for a process stuck in the operating system.
        let _ = timeout(firm, group.ended()).await;
    }
}

fn environment(options: &OpenOptions<'_>, folder: &Path) -> BTreeMap<String, OsString> {
    // A runner keeps what it compiled with the user's other caches; its guest does not see the name.
    let runs = options.entry.runtime.is_some_and(Runtime::is_sandboxed);
    let wanted = |name: &str| {
        PASSED.contains(&name)
            || runs && name == "XDG_CACHE_HOME"
            || passes(&options.entry.manifest.grants, name)
    };
    let mut env: BTreeMap<String, OsString> = (options.env.iter())
        .filter(|(name, _)| wanted(name))
        .map(|(name, value)| (name.clone(), value.into()))
        .collect();
    let ours: [(&str, OsString); 6] = [
        ("PATH", PLUGIN_PATH.into()),
        ("HOME", options.user.home.clone().into()),
        // What was agreed to stays as it was.
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
        ("CRABBOX_PLUGIN", "1".into()),
        ("CRABBOX_PROTOCOLS", "1".into()),
        ("CRABBOX_STATE_DIR", folder.into()),
    ];
    env.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    env
}

/// A program that writes only into its own folder keeps its temporary files there.
fn with_own_tmp(
    mut env: BTreeMap<String, OsString>,
    folder: &Path,
) -> Result<BTreeMap<String, OsString>> {
    let tmp = folder.join("tmp");
    make_dir(&tmp)?;
    env.insert("TMPDIR".to_owned(), tmp.into());
    Ok(env)
}

fn broker(
    options: &OpenOptions<'_>,
    mut env: BTreeMap<String, OsString>,
    folder: &Path,
) -> Result<Broker> {
    let grants = options.entry.manifest.grants.clone();
    let has = |power: &str| grants.powers.iter().any(|asked| asked == power);
    let checkout = has("checkout").then(|| options.checkout.to_path_buf());
    let keys = has("lease-key").then(|| Keys {
        folder: options.keys_dir.clone(),
        journal: options.journal.clone(),
        plugin: options.entry.manifest.id.clone(),
    });
    let (entry, config) = (Entry::clone(&options.entry), options.config.clone());
    let secrets = Secrets {
        config: config.clone(),
        grants: entry.secrets(),
        env: Arc::clone(&options.env),
        home: options.user.home.clone().into(),
        found: tokio::sync::Mutex::default(),
        aws: tokio::sync::OnceCell::new(),
        now_ms: Arc::clone(&options.now_ms),
    };
    let granted = crabbox_plugins::programs(&options.entry, &options.config);
    let net = Net::new(crabbox_net::Options {
        grants,
        setting: Arc::new(move |name| {
            let (url, own) = entry.url_setting(&config, name)?;
            Some(Setting { url, own })
        }),
        source: secrets.source(),
        now_ms: Arc::clone(&options.now_ms),
        roots: Vec::new(),
        lookup: None,
    })
    .map_err(|what| bad_grants(&options.entry, what))?;
    env.retain(|name, _| !name.starts_with("CRABBOX_"));
    env.insert("PATH".to_owned(), options.user.path.clone().into());
    Ok(Broker {
        net,
        blobs: Blobs::new(folder),
        prompt: options.prompt.clone(),
        store: Store::new(folder.join("kv.json"), Arc::clone(&options.now_ms)),
        tools: Tools {
            path: options.user.path.clone(),
            env,
            cwd: folder.to_owned(),
            found: Mutex::new(HashMap::new()),
            granted,
            home: options.user.home.clone().into(),
            checkout,
            keys,
        },
    })
}

fn bad_grants(entry: &Entry, what: String) -> KernelError {
    let name = &entry.provider.name;
    KernelError {
        causes: vec![what],
        ..KernelError::new(ErrorCode::Config, format!("the {name} plugin's grants make no sense"))
    }
    .hint(format!("look at its manifest, and at the URLs in the settings of {name}"))
}

fn cannot_start(entry: &Entry, error: &std::io::Error) -> KernelError {
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "make the program executable",
        _ => "its program cannot run here: wrong architecture, or something it needs is missing",
    };
    KernelError::new(
        ErrorCode::PluginFault,
        format!("cannot start the {} plugin {}", entry.provider.name, entry.program.display()),
    )
    .because(error)
    .hint(hint)
}
