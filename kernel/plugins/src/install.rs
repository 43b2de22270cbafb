//! Installing: a folder or a package is opened, checked and proposed; with consent it is copied and locked.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::failed;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lock::Locked;
use crabbox_schemas::manifest::Manifest;

use crate::catalog::{Entry, Place};
use crate::digest::{Content, content};
use crate::policy::Policy;
use crate::shelf::{Shelf, Standing};
use crate::sign::{self, Signature};
use crate::sound::sound;
use crate::vet::{Proposal, propose};
use crate::{discover, lock, package};

/// A plugin that was opened and checked, and is not installed yet.
#[derive(Debug)]
pub struct Candidate {
    folder: PathBuf,
    content: Content,
    entries: Vec<Entry>,
    signature: Option<Signature>,
    source: String,
    /// Holds what was unpacked.
    _unpacked: Option<tempfile::TempDir>,
}

impl Candidate {
    /// Opens a folder or a package; `source` is what the lock says of where it came from.
    pub fn open(path: &Path, source: &str, shelf: &Shelf, programs: &Path) -> Result<Self> {
        let unreadable = |e: std::io::Error| {
            failed("cannot read", path, &e).hint("name a folder or a package that you may read")
        };
        let facts = path.metadata().map_err(unreadable)?;
        let (unpacked, folder) = match facts.is_dir() {
            true => (None, path.canonicalize().map_err(unreadable)?),
            false => {
                let dir = tempfile::tempdir().map_err(unreadable)?;
                package::unpack(File::open(path).map_err(unreadable)?, dir.path())?;
                let folder = dir.path().to_owned();
                (Some(dir), folder)
            }
        };
        let entries = discover::load(&folder, Place::User, programs)?;
        let mut candidate = Self {
            content: content(&folder)?,
            folder,
            entries,
            signature: None,
            source: source.to_owned(),
            _unpacked: unpacked,
        };
        let signature = std::fs::read_to_string(sign::beside(path)).ok();
        let package = match (&signature, facts.is_dir()) {
            (Some(_), false) => std::fs::read(path).map_err(unreadable)?,
            _ => Vec::new(),
        };
        let manifest = candidate.manifest()?;
        candidate.signature = sign::check(shelf, &manifest, &package, signature.as_deref())?;
        Ok(candidate)
    }

    /// What it says of itself.
    pub fn manifest(&self) -> Result<Arc<Manifest>> {
        self.first().map(|entry| Arc::clone(&entry.manifest))
    }

    /// The providers it offers.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn first(&self) -> Result<&Entry> {
        self.entries
            .first()
            .ok_or_else(|| KernelError::new(ErrorCode::Config, "the plugin offers no provider"))
    }

    /// What the user has to be asked; `None` when these files, or files that asked for no less, were agreed to.
    pub fn proposal(&self, shelf: &Shelf, policy: &Policy) -> Result<Option<Proposal>> {
        let entry = self.first()?;
        let files = &self.content.digest;
        policy.check(entry, Some(files), self.signature.is_some())?;
        if entry.runtime.is_none() {
            return Err(entry.unusable());
        }
        sound(&self.entries)?;
        let signer = self.signature.as_ref().map(|signature| match signature.is_new {
            true => format!("{}, seen for the first time", signature.key),
            false => signature.key.clone(),
        });
        let standing = shelf.standing(&entry.manifest, files)?;
        let is_change = standing == Standing::Changed;
        let mut proposal = propose(entry, shelf, files.clone(), signer, is_change)?;
        proposal.source = self.source.clone();
        let nothing_new = is_change && proposal.lines.is_empty();
        Ok((standing != Standing::Trusted && !nothing_new).then_some(proposal))
    }

    /// Copies and locks it; the user has agreed.
    pub fn install(self, shelf: &Shelf) -> Result<Locked> {
        let manifest = self.manifest()?;
        let signer = self.signature.as_ref().map(|signature| signature.key.clone());
        let locked =
            lock::locked(&self.folder, &manifest, &self.content, &self.source, signer.clone())?;
        shelf.agree(&self.folder, &manifest, &self.content.digest)?;
        if let Some(key) = signer {
            let mut trust = shelf.trust()?;
            trust.publishers.insert(sign::publisher(&manifest.id).to_owned(), key);
            shelf.set_trust(&trust)?;
        }
        let mut lock = shelf.lock()?;
        lock.plugins.insert(manifest.id.clone(), locked.clone());
        shelf.set_lock(&lock)?;
        Ok(locked)
    }
}
