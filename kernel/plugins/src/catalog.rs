//! The providers that were found: names, settings, and how their plugins are run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::lease::acquire::OWN_LEASE_IDS;
use crabbox_kernel::ports::About;
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::{Artifact, Manifest, ProviderEntry, Runtime};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::digest;
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
    /// The settings' JSON Schema; an empty object schema when it has none.
    pub schema: Arc<Value>,
    /// The settings as flags and environment names.
    pub flags: Vec<Flag>,
    /// The folder its manifest is in.
    pub folder: PathBuf,
    /// Where that was found.
    pub place: Place,
    /// How it is run; nothing of a plugin without an artifact for this machine.
    pub runtime: Option<Runtime>,
    /// The program that is run.
    pub program: PathBuf,
    /// The arguments it is run with.
    pub args: Vec<String>,
    /// Digest of what is run, once somebody asked.
    pub(crate) digest: Arc<OnceLock<String>>,
}

impl Entry {
    /// Which plugin this is, with the digest of what is run: all files of a user's plugin, the program of one that
    /// came with crabbox. Computed once, on first use.
    pub fn pin(&self) -> Result<PluginPin> {
        let digest = match self.digest.get() {
            Some(digest) => digest.clone(),
            None => {
                let digest = match self.place {
                    Place::User => digest::content(&self.folder)?.digest,
                    _ => digest::of_file(&self.program).map_err(|e| self.missing(&e))?,
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

    /// What is known of the provider with these settings, without running it.
    pub fn about(&self, config: &Map<String, Value>) -> About {
        let sorted: BTreeMap<_, _> = config.iter().collect();
        let digest = Sha256::digest(serde_json::json!(sorted).to_string());
        About {
            provider: self.provider.name.clone(),
            kind: self.provider.kind,
            features: self.provider.features.clone(),
            settings: digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    fn missing(&self, error: &std::io::Error) -> KernelError {
        let name = &self.provider.name;
        KernelError::new(
            ErrorCode::PluginFault,
            format!("cannot read the {name} plugin's program {}", self.program.display()),
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
        .hint(format!("it has {}; ask its publisher for this machine's", has.join(", ")))
    }

    /// Whether its boxes existed before crabbox and have names of their own.
    pub fn owns_lease_ids(&self) -> bool {
        self.provider.features.iter().any(|feature| feature == OWN_LEASE_IDS)
    }

    /// Every name it answers to.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.provider.aliases.iter().chain([&self.provider.name]).map(String::as_str)
    }

    fn answers_to(&self, name: &str) -> bool {
        self.names().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// The artifact that runs here, and how: runtime, program, arguments. `programs` is the folder of crabbox's own.
pub(crate) fn runnable(
    manifest: &Manifest,
    folder: &Path,
    programs: &Path,
) -> Option<(Runtime, PathBuf, Vec<String>)> {
    let usable = |artifact: &&Artifact| match artifact.runtime {
        Runtime::Stdio => artifact.target.as_deref().is_none_or(is_this_machine),
        _ => false,
    };
    let artifact = manifest.artifacts.iter().find(usable)?;
    let beside = folder.join(&artifact.path);
    let program = if beside.is_file() { beside } else { programs.join(&artifact.path) };
    Some((artifact.runtime, program, artifact.args.clone()))
}

/// Whether programs for a target triple run here.
fn is_this_machine(triple: &str) -> bool {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let mut parts = triple.split('-');
    parts.next() == Some(std::env::consts::ARCH) && parts.any(|part| part == system)
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

    /// Keeps of rivals only the one of the plugin the user prefers: `(provider, plugin id)`.
    pub fn prefer(&mut self, choices: &[(String, String)]) {
        self.entries.retain(|entry| {
            choices.iter().all(|(name, id)| !entry.answers_to(name) || entry.manifest.id == *id)
        });
    }
}
