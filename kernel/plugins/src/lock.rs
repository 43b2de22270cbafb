//! `crabbox.lock`: read, written, and made from a plugin's folder.

use std::collections::BTreeMap;
use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lock::{Lock, Locked};
use crabbox_schemas::manifest::Manifest;

use crate::digest::{Content, of_file, of_grants};
use crate::{index, manifest, shelf};

/// The file's name.
pub(crate) const FILE: &str = "crabbox.lock";
/// Longest lock in bytes.
const LONGEST: u64 = 4 << 20;

/// Reads a lock; without a file nothing is locked.
pub fn read(path: &Path) -> Result<Lock> {
    let bad = || {
        KernelError::new(ErrorCode::Config, format!("unusable lock {}", path.display()))
            .hint("restore it from its repository, or remove it and install the plugins again")
    };
    let text = match index::text(path, LONGEST) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Lock::default()),
        text => text.map_err(|e| bad().because(&e))?,
    };
    let lock: Lock = serde_json::from_str(&text).map_err(|e| bad().because(&e))?;
    match lock.lock {
        1 => Ok(lock),
        version => Err(KernelError { causes: vec![format!("its format is {version}")], ..bad() }),
    }
}

/// Replaces a lock.
pub(crate) fn write(path: &Path, lock: &Lock) -> Result<()> {
    shelf::write_json(path, lock)
}

/// A plugin's line in a lock.
pub(crate) fn locked(
    folder: &Path,
    plugin: &Manifest,
    content: &Content,
    source: &str,
    signer: Option<String>,
) -> Result<Locked> {
    let read = |path: &str| {
        of_file(&folder.join(path)).map_err(|e| {
            KernelError::new(ErrorCode::Config, format!("plugin {} has no {path}", plugin.id))
                .because(&e)
        })
    };
    let mut artifacts = BTreeMap::new();
    for artifact in &plugin.artifacts {
        let name = match &artifact.target {
            Some(target) => format!("{}:{target}", artifact.runtime.word()),
            None => artifact.runtime.word().to_owned(),
        };
        let digest = read(&artifact.path)?;
        if let Some(said) =
            artifact.sha256.as_ref().filter(|said| digest != format!("sha256:{said}"))
        {
            return Err(KernelError::new(
                ErrorCode::Config,
                format!("{} of plugin {} is not what its manifest says", artifact.path, plugin.id),
            )
            .hint(format!("the manifest says sha256 {said}; get the plugin anew")));
        }
        artifacts.insert(name, digest);
    }
    Ok(Locked {
        version: plugin.version.clone(),
        source: source.to_owned(),
        files: content.digest.clone(),
        manifest: read(manifest::FILE)?,
        artifacts,
        signer,
        grants: of_grants(&plugin.grants),
        protocols: plugin.protocols.clone(),
    })
}
