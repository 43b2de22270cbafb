//! The user's own plugins: folders that were dropped in, installed copies, and what the user agreed to.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::{failed, make_dir, write_atomic};
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lock::{Lock, TrustFile, Trusted};
use crabbox_schemas::manifest::Manifest;
use serde::{Deserialize, Serialize};

use crate::catalog::{Entry, Place};
use crate::{digest, discover, lock};

/// The folder of one user's plugins.
///
/// Folders with a manifest were dropped in. `store/<digest>` holds read-only copies of everything that was installed
/// or agreed to; `crabbox.lock` says which of them are installed, and `trust.json` which may run.
#[derive(Debug, Clone)]
pub struct Shelf {
    root: PathBuf,
}

/// How a plugin stands with the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// These files may run with these grants.
    Trusted,
    /// Something of this name may run, but it was other than this.
    Changed,
    /// Never agreed to.
    Unknown,
}

/// Digests of folders by how they looked: `looks.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Looks(BTreeMap<PathBuf, (String, String)>);

impl Shelf {
    /// The shelf in this folder, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder plugins are dropped into.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the index of what was found is kept.
    pub fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    /// Every active plugin's folder: those dropped in, then those installed.
    pub fn folders(&self) -> Vec<PathBuf> {
        let mut folders = discover::subfolders(&self.root);
        let locked = self.lock().unwrap_or_default();
        folders.extend(locked.plugins.values().filter_map(|plugin| self.copy(&plugin.files)));
        folders
    }

    /// What is installed.
    pub fn lock(&self) -> Result<Lock> {
        lock::read(&self.root.join(lock::FILE))
    }

    /// Says what is installed.
    pub fn set_lock(&self, lock: &Lock) -> Result<()> {
        lock::write(&self.root.join(lock::FILE), lock)
    }

    /// What the user agreed to.
    pub fn trust(&self) -> Result<TrustFile> {
        let path = self.root.join("trust.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| damaged(&path).because(&e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(TrustFile::default()),
            Err(e) => Err(failed("cannot read", &path, &e)),
        }
    }

    /// Says what the user agreed to.
    pub fn set_trust(&self, trust: &TrustFile) -> Result<()> {
        write_json(&self.root.join("trust.json"), trust)
    }

    /// How these files with these grants stand.
    pub fn standing(&self, manifest: &Manifest, files: &str) -> Result<Standing> {
        let grants = digest::of_grants(&manifest.grants);
        let trust = self.trust()?;
        let mine: Vec<_> = trust.plugins.iter().filter(|p| p.id == manifest.id).collect();
        Ok(match mine.iter().any(|p| p.files == files && p.grants == grants) {
            true => Standing::Trusted,
            false if mine.is_empty() => Standing::Unknown,
            false => Standing::Changed,
        })
    }

    /// The user agrees to these files with these grants; they are copied to the store, and run from there.
    pub fn agree(&self, folder: &Path, manifest: &Manifest, files: &str) -> Result<PathBuf> {
        let copy = self.keep(folder, files)?;
        let mut trust = self.trust()?;
        trust.plugins.retain(|p| p.id != manifest.id || p.files != files);
        trust.plugins.push(Trusted {
            id: manifest.id.clone(),
            files: files.to_owned(),
            grants: digest::of_grants(&manifest.grants),
            allowed: manifest.grants.clone(),
        });
        self.set_trust(&trust)?;
        Ok(copy)
    }

    /// Digest of a folder's files; they are read only when they look other than when they were read last.
    pub fn digest(&self, folder: &Path) -> Result<String> {
        let path = self.root.join("looks.json");
        let look = digest::look(folder)?;
        let bytes = fs::read(&path).unwrap_or_default();
        let mut looks: Looks = serde_json::from_slice(&bytes).unwrap_or_default();
        if let Some((_, digest)) = looks.0.get(folder).filter(|(known, _)| *known == look) {
            return Ok(digest.clone());
        }
        let content = digest::content(folder)?;
        looks.0.retain(|folder, _| folder.is_dir());
        looks.0.insert(folder.to_owned(), (content.look, content.digest.clone()));
        // A cache that cannot be written costs time only.
        let _ = write_json(&path, &looks);
        Ok(content.digest)
    }

    /// The stored copy of files with this digest.
    pub fn copy(&self, files: &str) -> Option<PathBuf> {
        let hex = files.strip_prefix("sha256:").filter(|hex| is_hex(hex))?;
        Some(self.store().join(hex)).filter(|folder| folder.is_dir())
    }

    /// The providers of the plugin that made a lease, when its files are still there.
    pub fn pinned(&self, pin: &PluginPin, programs: &Path) -> Result<Option<Vec<Entry>>> {
        let Some(folder) = self.copy(&pin.digest) else { return Ok(None) };
        self.intact(&folder, &pin.digest)?;
        discover::load(&folder, Place::User, programs).map(Some)
    }

    /// A stored copy must still be what its name says.
    pub(crate) fn intact(&self, folder: &Path, files: &str) -> Result<()> {
        if self.digest(folder)? == files {
            return Ok(());
        }
        Err(KernelError::new(
            ErrorCode::PluginUntrusted,
            format!("the installed plugin in {} was changed", folder.display()),
        )
        .hint("remove it with `crabbox plugin remove ID` and install it again"))
    }

    /// Fails when this is a copy in the store that is no longer what was put there.
    pub fn untouched(&self, folder: &Path) -> Result<()> {
        let name = folder.file_name().and_then(|name| name.to_str()).filter(|name| is_hex(name));
        let store = self.store().canonicalize().ok();
        match (name, folder.parent().and_then(|parent| parent.canonicalize().ok())) {
            (Some(name), Some(parent)) if Some(&parent) == store.as_ref() => {
                self.intact(folder, &format!("sha256:{name}"))
            }
            _ => Ok(()),
        }
    }

    /// Copies a folder to the store, unless it is there.
    pub fn keep(&self, folder: &Path, files: &str) -> Result<PathBuf> {
        if let Some(copy) = self.copy(files) {
            self.intact(&copy, files)?;
            return Ok(copy);
        }
        make_dir(&self.store())?;
        let fault = |e: &std::io::Error| failed("cannot copy the plugin to", &self.store(), e);
        let aside = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempdir_in(self.store())
            .map_err(|e| fault(&e))?;
        for item in digest::content(folder)?.files {
            let to = aside.path().join(&item.path);
            if let Some(dir) = to.parent() {
                fs::create_dir_all(dir).map_err(|e| fault(&e))?;
            }
            fs::copy(folder.join(&item.path), &to).map_err(|e| fault(&e))?;
            let mode = if item.exec { 0o555 } else { 0o444 };
            fs::set_permissions(&to, Permissions::from_mode(mode)).map_err(|e| fault(&e))?;
        }
        if digest::content(aside.path())?.digest != files {
            return Err(KernelError::new(
                ErrorCode::PluginUntrusted,
                format!("{} was changed while it was copied", folder.display()),
            )
            .hint("try again when nobody writes to it"));
        }
        let hex = files.trim_start_matches("sha256:");
        let home = self.store().join(hex);
        fs::rename(aside.keep(), &home).map_err(|e| fault(&e))?;
        Ok(home)
    }

    /// Removes stored copies whose digest is not among these; how many.
    pub fn sweep(&self, wanted: &[String]) -> Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(self.store()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let keeps = wanted.iter().any(|digest| digest.ends_with(&name));
            if !keeps && (is_hex(&name) || name.starts_with(".tmp-")) {
                fs::remove_dir_all(entry.path())
                    .map_err(|e| failed("cannot remove", &entry.path(), &e))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn store(&self) -> PathBuf {
        self.root.join("store")
    }
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|e| damaged(path).because(&e))?;
    write_atomic(path, &bytes)
}

fn damaged(path: &Path) -> KernelError {
    KernelError::new(ErrorCode::State, format!("{} is damaged", path.display()))
        .hint("move it away; plugins have to be agreed to again then")
}
