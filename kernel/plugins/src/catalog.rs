//! The providers that were found: names, settings, and how their plugins are run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::lease::acquire::OWN_LEASE_IDS;
use crabbox_kernel::ports::About;
use crabbox_kernel::run::delegated::OWN_SYNC;
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::{Manifest, ProviderEntry, Runtime, SecretGrant};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::artifact::{COMPILER, RUNNER, Run, runnable};
use crate::digest;
use crate::index::Later;
use crate::settings::Flag;

/// Where a plugin was found; of one plugin in several places the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A folder its developer named.
    Developer,
    /// The user's own folder: installed or dropped in.
    User,
    /// The administrator's folders.
    System,
    /// Beside the executable.
    Bundled,
}

impl Place {
    /// The word for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Developer => "developer",
            Self::User => "user",
            Self::System => "system",
            Self::Bundled => "bundled",
        }
    }
}

/// One provider of one plugin, known without running it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The plugin.
    pub manifest: Arc<Manifest>,
    /// The provider: name, aliases, kind, features, targets, config aliases.
    pub provider: ProviderEntry,
    /// See [`Entry::schema`].
    pub(crate) schema: Arc<Later<Value>>,
    /// See [`Entry::flags`].
    pub(crate) flags: Arc<Later<Vec<Flag>>>,
    /// The folder its manifest is in.
    pub folder: PathBuf,
    /// Where that was found.
    pub place: Place,
    /// How it is run; nothing of a plugin without an artifact for this machine.
    pub runtime: Option<Runtime>,
    /// The artifact's file: a program, or what a runner runs.
    pub artifact: PathBuf,
    /// The program that is run: the artifact itself, or its runner.
    pub program: PathBuf,
    /// The arguments it is run with.
    pub args: Vec<String>,
    /// Digest of what is run, once somebody asked.
    pub(crate) digest: Arc<OnceLock<String>>,
}

impl Entry {
    /// The settings' JSON Schema; an empty object schema when it has none.
    pub fn schema(&self) -> &Value {
        self.schema.get()
    }

    /// The settings as flags and environment names.
    pub fn flags(&self) -> &[Flag] {
        self.flags.get()
    }

    /// Which plugin this is, with the digest of what is run: all files of a user's plugin, the artifact of one that
    /// came with crabbox. Computed once, on first use.
    pub fn pin(&self) -> Result<PluginPin> {
        let digest = match self.digest.get() {
            Some(digest) => digest.clone(),
            None => {
                let digest = match self.place {
                    Place::User => digest::content(&self.folder)?.digest,
                    _ => digest::of_file(&self.artifact).map_err(|e| self.missing(&e))?,
                };
                self.digest.get_or_init(|| digest).clone()
            }
        };
        Ok(PluginPin {
            id: self.manifest.id.clone(),
            version: self.manifest.version.clone(),
            digest,
        })
    }

    /// A setting that names an URL, and whether the user wrote it. What a repository may set names none: it could
    /// send secrets anywhere.
    pub fn url_setting(&self, config: &Map<String, Value>, name: &str) -> Option<(String, bool)> {
        let flag = self.flags().iter().find(|flag| flag.config_key == name)?;
        let said = match name.split_once('.') {
            Some((outer, inner)) => config.get(outer).and_then(|block| block.get(inner)),
            None => config.get(name),
        };
        let (url, own) = match said {
            Some(_) if !flag.user_only => return None,
            Some(url) => (url, true),
            None => (flag.default.as_ref()?, false),
        };
        Some((url.as_str()?.to_owned(), own))
    }

    /// What it may use of secrets. Files and credentials of other programs are for plugins that ship with crabbox
    /// alone.
    pub fn secrets(&self) -> Vec<SecretGrant> {
        let mut secrets = self.manifest.grants.secrets.clone();
        if self.place != Place::Bundled {
            secrets.iter_mut().for_each(|grant| (grant.file, grant.chain) = (None, None));
        }
        secrets
    }

    /// What is known of the provider with these settings, without running it.
    pub fn about(&self, config: &Map<String, Value>) -> About {
        let sorted: BTreeMap<_, _> = config.iter().collect();
        let digest = Sha256::digest(serde_json::json!(sorted).to_string());
        About {
            provider: self.provider.name.clone(),
            kind: self.provider.kind,
            // A power that has a setting of its name can be turned off.
            features: (self.provider.features.iter())
                .filter(|feature| config.get(*feature) != Some(&serde_json::Value::Bool(false)))
                .cloned()
                .collect(),
            settings: digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    fn missing(&self, error: &std::io::Error) -> KernelError {
        let name = &self.provider.name;
        KernelError::new(
            ErrorCode::PluginFault,
            format!("cannot read the {name} plugin's program {}", self.artifact.display()),
        )
        .because(error)
        .hint("reinstall crabbox; in a source checkout build the whole workspace")
    }

    /// That it has no artifact for this machine.
    pub fn unusable(&self) -> KernelError {
        let has: Vec<_> = self.manifest.artifacts.iter().map(|a| a.runtime.word()).collect();
        KernelError::new(
            ErrorCode::Unsupported,
            format!("plugin {} has nothing that runs here", self.manifest.id),
        )
        .hint(match self.manifest.artifacts.iter().any(|a| a.runtime.is_sandboxed()) {
            true => format!(
                "it has {}; WebAssembly needs {RUNNER} and {COMPILER} beside crabbox",
                has.join(", ")
            ),
            false => format!("it has {}; ask its publisher for this machine's", has.join(", ")),
        })
    }

    /// The same provider by another of its plugin's artifacts.
    pub fn by(&self, runtime: Runtime, programs: &Path) -> Option<Self> {
        let run = runnable(&self.manifest, &self.folder, programs, Some(runtime))?;
        let mut other = self.clone();
        other.digest = Arc::default();
        other.runs(run);
        Some(other)
    }

    pub(crate) fn runs(&mut self, run: Run) {
        self.runtime = run.runtime;
        self.artifact = run.artifact;
        self.program = run.program;
        self.args = run.args;
    }

    /// Whether its boxes existed before crabbox and have names of their own.
    pub fn owns_lease_ids(&self) -> bool {
        self.provider.features.iter().any(|feature| feature == OWN_LEASE_IDS)
    }

    /// Whether it sends the checkout with a tool of its own.
    pub fn sends_checkout(&self) -> bool {
        self.provider.features.iter().any(|feature| feature == OWN_SYNC)
    }

    /// Every name it answers to.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.provider.aliases.iter().chain([&self.provider.name]).map(String::as_str)
    }

    fn answers_to(&self, name: &str) -> bool {
        self.names().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// Every provider that was found.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub(crate) entries: Vec<Entry>,
    /// Folders that hold an unusable plugin: told when somebody looks for plugins.
    pub problems: Vec<KernelError>,
}

impl Catalog {
    /// The providers in name order.
    pub fn providers(&self) -> &[Entry] {
        &self.entries
    }

    /// The provider with this name or alias; of several the first.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.rivals(name).next()
    }

    /// Every provider with this name or alias; more than one must be chosen between.
    pub fn rivals(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.answers_to(name))
    }

    /// The provider used when none is configured.
    pub fn embedded_default(&self) -> Option<&Entry> {
        let mut all = self.entries.iter();
        all.find(|entry| entry.provider.embedded_default && entry.place == Place::Bundled)
    }

    /// Runs a provider's plugin by another of its artifacts: `provider=runtime`.
    pub fn choose(&mut self, choice: &str, programs: &Path) -> Result<()> {
        let (name, word) = choice.split_once('=').unwrap_or((choice, ""));
        let runtimes = [Runtime::Stdio, Runtime::Wasm, Runtime::WasiStdio, Runtime::Native];
        let Some(runtime) = runtimes.into_iter().find(|runtime| runtime.word() == word) else {
            let what = format!("`plugins.runtime` says {choice:?}");
            return Err(KernelError::new(ErrorCode::Config, what)
                .hint("write `provider=wasm`, or `stdio`, `wasi-stdio` or `native`"));
        };
        for entry in self.entries.iter_mut().filter(|entry| entry.answers_to(name)) {
            match entry.by(runtime, programs) {
                Some(other) => *entry = other,
                // Whoever uses it is told; nobody else need care.
                None => entry.runtime = None,
            }
        }
        Ok(())
    }

    /// Keeps of rivals only the one of the plugin the user prefers: `(provider, plugin id)`.
    pub fn prefer(&mut self, choices: &[(String, String)]) {
        self.entries.retain(|entry| {
            choices.iter().all(|(name, id)| !entry.answers_to(name) || entry.manifest.id == *id)
        });
    }
}
