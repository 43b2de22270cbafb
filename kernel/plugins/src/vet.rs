//! Decides whether a plugin may run, and from which files.

use std::path::Path;

use crabbox_kernel::error::Result;
use crabbox_schemas::manifest::Runtime;

use crate::catalog::{Entry, Place};
use crate::digest::of_grants;
use crate::grants::{Line, lines, lines_of};
use crate::imports::check_imports;
use crate::policy::Policy;
use crate::shelf::{Shelf, Standing};
use crate::{discover, sign};

/// What came of looking at a plugin.
#[derive(Debug)]
pub enum Verdict {
    /// It may run, exactly like this.
    Run(Box<Entry>),
    /// The user has to be asked.
    Ask(Box<Proposal>),
}

/// What the user is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// `publisher/name`.
    pub id: String,
    /// Its version.
    pub version: String,
    /// What it says of itself.
    pub description: String,
    /// Where its files are.
    pub source: String,
    /// Digest of its files.
    pub files: String,
    /// Digest of what it asks for.
    pub grants: String,
    /// Who signed it, in words.
    pub signature: String,
    /// How it is run.
    pub runtime: &'static str,
    /// What it asks for, in words; when other files of it were agreed to, only what is new.
    pub lines: Vec<Line>,
    /// Whether other files of it were agreed to.
    pub is_change: bool,
}

impl Proposal {
    /// The command that agrees without being asked.
    pub fn command(&self) -> String {
        format!("crabbox plugin trust {}@{} --grants {}", self.id, self.files, self.grants)
    }
}

/// Looks at a plugin before it is started. `programs` is the folder of crabbox's own programs.
pub fn vet(entry: &Entry, shelf: &Shelf, policy: &Policy, programs: &Path) -> Result<Verdict> {
    if entry.place != Place::User {
        policy.check(entry, None, false)?;
        return Ok(Verdict::Run(Box::new(entry.clone())));
    }
    let files = shelf.digest(&entry.folder)?;
    let signer = sign::signer(shelf, &entry.manifest.id, &files)?;
    policy.check(entry, Some(&files), signer.is_some())?;
    match shelf.standing(&entry.manifest, &files)? {
        Standing::Trusted => run(entry, shelf, &files, programs),
        standing => {
            let is_change = standing == Standing::Changed;
            Ok(Verdict::Ask(Box::new(propose(entry, shelf, files, signer, is_change)?)))
        }
    }
}

/// From the stored copy: what was agreed to is what runs.
fn run(entry: &Entry, shelf: &Shelf, files: &str, programs: &Path) -> Result<Verdict> {
    let copy = shelf.keep(&entry.folder, files)?;
    shelf.intact(&copy, files)?;
    let same = |loaded: &Entry| loaded.provider.name == entry.provider.name;
    let stored = discover::load(&copy, Place::User, programs)?.into_iter().find(same);
    let stored = stored.unwrap_or_else(|| entry.clone());
    let chosen = entry.runtime.filter(|runtime| stored.runtime != Some(*runtime));
    let stored = chosen.and_then(|runtime| stored.by(runtime, programs)).unwrap_or(stored);
    let _ = stored.digest.set(files.to_owned());
    Ok(Verdict::Run(Box::new(stored)))
}

/// What the user is asked about files that are not trusted.
pub(crate) fn propose(
    entry: &Entry,
    shelf: &Shelf,
    files: String,
    signer: Option<String>,
    is_change: bool,
) -> Result<Proposal> {
    let manifest = &entry.manifest;
    check_imports(manifest, &entry.folder)?;
    let runtime = entry.runtime.unwrap_or(Runtime::Stdio);
    let mut asked = lines(entry);
    if is_change {
        for known in shelf.trust()?.plugins.iter().filter(|known| known.id == manifest.id) {
            let allowed = lines_of(entry, &known.allowed);
            asked.retain(|line| !allowed.contains(line));
        }
    }
    let signature = match signer {
        Some(key) => format!("signed with {key}"),
        None => "not signed".to_owned(),
    };
    Ok(Proposal {
        id: manifest.id.clone(),
        version: manifest.version.clone(),
        description: manifest.description.clone(),
        source: entry.folder.display().to_string(),
        files,
        grants: of_grants(&manifest.grants),
        signature,
        runtime: runtime.word(),
        lines: asked,
        is_change,
    })
}
