//! Finds plugins beside the executable, without running any and without searching PATH.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::About;
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::{Artifact, Manifest, ProviderEntry, Runtime};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::manifest;
use crate::settings::{Flag, flags};

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
    /// The program that is run.
    pub program: PathBuf,
    /// The arguments it is run with.
    pub args: Vec<String>,
    digest: Arc<OnceLock<String>>,
}

impl Entry {
    /// Which plugin this is, with the digest of its program (computed once, on first use).
    pub fn pin(&self) -> Result<PluginPin> {
        let digest = match self.digest.get() {
            Some(digest) => digest.clone(),
            None => {
                let digest = digest(&self.program).map_err(|e| self.missing(&e))?;
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

    fn names(&self) -> impl Iterator<Item = &str> {
        self.provider.aliases.iter().chain([&self.provider.name]).map(String::as_str)
    }
}

/// Every provider that was found.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    entries: Vec<Entry>,
}

impl Catalog {
    /// The providers in name order.
    pub fn providers(&self) -> &[Entry] {
        &self.entries
    }

    /// The provider with this name or alias.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.names().any(|n| n.eq_ignore_ascii_case(name)))
    }

    /// The provider used when none is configured.
    pub fn embedded_default(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.provider.embedded_default)
    }

    fn add(&mut self, entry: Entry) -> Result<()> {
        for name in entry.names() {
            if let Some(other) = self.find(name) {
                return Err(KernelError::new(
                    ErrorCode::Config,
                    format!(
                        "plugins {} and {} both offer a provider called {name}",
                        other.manifest.id, entry.manifest.id
                    ),
                )
                .hint("remove one of the two plugin folders"));
            }
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// Finds the plugins bundled with the executable, and those in `extra` folders, each one plugin.
pub fn discover(exe: &Path, extra: &[PathBuf]) -> Result<Catalog> {
    let exe_dir = exe.parent().unwrap_or(Path::new("/"));
    let mut folders = subfolders(&exe_dir.join("plugins"));
    folders.extend(subfolders(&exe_dir.join("../lib/crabbox/plugins")));
    let checkout = exe_dir.join("../..");
    if checkout.join("Cargo.toml").is_file() {
        folders.extend(subfolders(&checkout.join("plugins")));
    }
    folders.extend(extra.iter().cloned());
    let mut catalog = Catalog::default();
    let mut seen = Vec::new();
    for folder in folders {
        let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        if !seen.contains(&real) {
            load(&real, exe_dir, &mut catalog)?;
            seen.push(real);
        }
    }
    catalog.entries.sort_by(|a, b| a.provider.name.cmp(&b.provider.name));
    Ok(catalog)
}

/// Subfolders that hold a manifest, in name order.
fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut folders: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join(manifest::FILE).is_file())
        .collect();
    folders.sort();
    folders
}

fn load(folder: &Path, exe_dir: &Path, catalog: &mut Catalog) -> Result<()> {
    let manifest = Arc::new(manifest::read(&folder.join(manifest::FILE))?);
    let Some(artifact) = manifest.artifacts.iter().find(|a| a.runtime == Runtime::Stdio) else {
        return Ok(());
    };
    let program = resolve(artifact, folder, exe_dir);
    let digest = Arc::new(OnceLock::new());
    for provider in &manifest.providers {
        let schema = schema(folder, provider)?;
        catalog.add(Entry {
            flags: flags(&provider.name, &schema),
            schema: Arc::new(schema),
            provider: provider.clone(),
            manifest: Arc::clone(&manifest),
            program: program.clone(),
            args: artifact.args.clone(),
            digest: Arc::clone(&digest),
        })?;
    }
    Ok(())
}

fn resolve(artifact: &Artifact, folder: &Path, exe_dir: &Path) -> PathBuf {
    let beside_manifest = folder.join(&artifact.path);
    match beside_manifest.is_file() {
        true => beside_manifest,
        false => exe_dir.join(&artifact.path),
    }
}

fn schema(folder: &Path, provider: &ProviderEntry) -> Result<Value> {
    let Some(name) = &provider.config_schema else {
        return Ok(serde_json::json!({"type": "object", "additionalProperties": false}));
    };
    let path = folder.join(name);
    let bad = || {
        KernelError::new(ErrorCode::Config, format!("unusable settings schema {}", path.display()))
            .hint("repair or remove that plugin's folder")
    };
    let text = std::fs::read_to_string(&path).map_err(|e| bad().because(&e))?;
    serde_json::from_str(&text).map_err(|e| bad().because(&e))
}

fn digest(program: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(program)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}
