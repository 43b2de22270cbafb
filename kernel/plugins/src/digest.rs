//! Digests: of one file, of a plugin's whole folder, of what it asks for.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::Grants;
use sha2::{Digest, Sha256};

/// Most files a plugin may have.
const MOST_FILES: usize = 20_000;
/// Most bytes a plugin may have.
const MOST_BYTES: u64 = 1 << 30;
/// What tools leave in a folder and no plugin needs: neither counted nor copied.
const LEFT_OUT: &[&str] = &[".git", "__pycache__", ".DS_Store"];
/// Packages made of the folder, and their signatures: left out too, so that packing again gives the same bytes.
const PACKED: &[&str] = &[".cbxplugin", ".cbxplugin.minisig"];

/// Marks a folder of what can be made again (bford.info/cachedir), such as Cargo's `target`: left out too.
const CACHE_MARK: &str = "CACHEDIR.TAG";

/// What a plugin's folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// `sha256:` and hex, over the sorted list of modes, digests and paths.
    pub digest: String,
    /// Digest of the files' times, sizes and inodes: the same look means the same content.
    pub look: String,
    /// The files in the order of their paths.
    pub files: Vec<Item>,
}

/// One file of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Below the folder, with `/`.
    pub path: String,
    /// Whether it may be executed.
    pub exec: bool,
}

/// Digest of one file: `sha256:` and hex.
pub fn of_file(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(named(hash))
}

/// Digest of what a plugin asks for, whatever order it asks in.
pub fn of_grants(grants: &Grants) -> String {
    let mut grants = grants.clone();
    grants.http.iter_mut().for_each(|grant| grant.methods.sort());
    grants.http.sort_by_key(|grant| (grant.origin.clone(), grant.setting.clone()));
    grants.secrets.sort_by_key(|grant| grant.name.clone());
    grants.exec.sort();
    grants.env.sort();
    grants.powers.sort();
    // What a grant is said to be for is no part of what it allows.
    grants.http.iter_mut().for_each(|grant| grant.why.clear());
    let text = serde_json::to_string(&grants).unwrap_or_default();
    named(Sha256::new_with_prefix(text))
}

/// Reads a whole folder.
pub fn content(folder: &Path) -> Result<Content> {
    let files = files(folder)?;
    let mut hash = Sha256::new();
    for item in &files {
        let path = folder.join(&item.path);
        let digest = of_file(&path).map_err(|e| unreadable(&path, &e))?;
        let mode = if item.exec { 'x' } else { '-' };
        hash.update(format!("{mode} {digest} {}\n", item.path));
    }
    Ok(Content { digest: named(hash), look: look_of(folder, &files)?, files })
}

/// Whether a folder has nothing in it but these files: no copy of ours has what tools leave behind.
pub fn holds_only(folder: &Path, files: &[Item]) -> bool {
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(folder.join(&dir)) else { return false };
        for entry in entries.flatten() {
            let path = dir.join(entry.file_name());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(path);
            } else if !files.iter().any(|item| Path::new(&item.path) == path) {
                return false;
            }
        }
    }
    true
}

/// How a folder's files look, without reading them.
pub(crate) fn look(folder: &Path) -> Result<String> {
    look_of(folder, &files(folder)?)
}

fn look_of(folder: &Path, files: &[Item]) -> Result<String> {
    let mut hash = Sha256::new();
    for item in files {
        let path = folder.join(&item.path);
        let facts = fs::symlink_metadata(&path).map_err(|e| unreadable(&path, &e))?;
        let (m, c) = ((facts.mtime(), facts.mtime_nsec()), (facts.ctime(), facts.ctime_nsec()));
        hash.update(format!("{} {} {m:?} {c:?} {}\n", facts.ino(), facts.len(), item.path));
    }
    Ok(named(hash))
}

/// Every file of a folder; links and other things that are no files are refused.
fn files(folder: &Path) -> Result<Vec<Item>> {
    let (mut found, mut bytes, mut dirs) = (Vec::new(), 0, vec![PathBuf::new()]);
    while let Some(dir) = dirs.pop() {
        let here = folder.join(&dir);
        if dir != Path::new("") && here.join(CACHE_MARK).is_file() {
            continue;
        }
        for entry in fs::read_dir(&here).map_err(|e| unreadable(&here, &e))? {
            let entry = entry.map_err(|e| unreadable(&here, &e))?;
            let name = entry.file_name();
            let ends = |end: &&str| name.as_encoded_bytes().ends_with(end.as_bytes());
            if LEFT_OUT.iter().any(|left_out| name == *left_out) || PACKED.iter().any(ends) {
                continue;
            }
            let path = dir.join(&name);
            let facts = entry.metadata().map_err(|e| unreadable(&path, &e))?;
            if facts.is_dir() {
                dirs.push(path);
                continue;
            }
            let text = path.to_str().filter(|text| !text.contains('\n'));
            let (true, Some(text)) = (facts.is_file(), text) else {
                return Err(odd(&folder.join(&path)));
            };
            bytes += facts.len();
            found.push(Item {
                path: text.to_owned(),
                exec: facts.permissions().mode() & 0o111 != 0,
            });
            if found.len() > MOST_FILES || bytes > MOST_BYTES {
                return Err(too_much(folder));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn named(hash: Sha256) -> String {
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn unreadable(path: &Path, error: &std::io::Error) -> KernelError {
    KernelError::new(ErrorCode::State, format!("cannot read the plugin's {}", path.display()))
        .because(error)
}

fn odd(path: &Path) -> KernelError {
    KernelError::new(
        ErrorCode::Config,
        format!("a plugin holds plain files only, and {} is none", path.display()),
    )
    .hint("put a copy of the file in place of a link")
}

fn too_much(folder: &Path) -> KernelError {
    KernelError::new(
        ErrorCode::Config,
        format!(
            "{} is too large for a plugin: {MOST_FILES} files and 1 GiB at most",
            folder.display()
        ),
    )
    .hint("put the plugin into a folder of its own")
}
