//! What was read of each plugin's folder, kept in one file, so that finding many plugins costs few reads.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::write_atomic;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::{Manifest, ProviderEntry};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::manifest;
use crate::settings::flags;

/// Version of the file; another one is read anew.
const VERSION: u32 = 3;
/// Longest schema in bytes.
const LONGEST: u64 = 1 << 20;

/// A plugin's folder as it was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Known {
    /// The files that were read, and how they looked.
    looks: Vec<(PathBuf, Look)>,
    pub(crate) manifest: Manifest,
    /// Schema and flags of each provider, in the manifest's order.
    pub(crate) settings: Vec<(Box<RawValue>, Box<RawValue>)>,
}

/// What was read and is decoded when it is first looked at: of many providers, one is used.
#[derive(Debug)]
pub(crate) struct Later<T> {
    raw: Box<RawValue>,
    value: OnceLock<T>,
}

impl<T: DeserializeOwned + Default> Later<T> {
    pub(crate) fn new(raw: Box<RawValue>) -> Self {
        Self { raw, value: OnceLock::new() }
    }

    /// What was encoded by the program that decodes it is never unreadable; it would be empty.
    pub(crate) fn get(&self) -> &T {
        self.value.get_or_init(|| serde_json::from_str(self.raw.get()).unwrap_or_default())
    }
}

/// How a file looked: inode, length, changes of content and of facts.
type Look = (u64, u64, i64, i64, i64, i64);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    version: u32,
    folders: BTreeMap<PathBuf, Known>,
}

/// What is known of folders.
#[derive(Debug, Default)]
pub(crate) struct Index {
    path: Option<PathBuf>,
    kept: Kept,
    asked: BTreeMap<PathBuf, Known>,
    changed: bool,
}

impl Index {
    /// Opens the file; one that cannot be read knows nothing. Without a path nothing is kept.
    pub(crate) fn open(path: Option<&Path>) -> Self {
        let kept = path.and_then(|path| serde_json::from_slice(&std::fs::read(path).ok()?).ok());
        let kept = kept.filter(|kept: &Kept| kept.version == VERSION).unwrap_or_default();
        Self { path: path.map(Path::to_owned), kept, ..Self::default() }
    }

    /// A plugin's folder, read now or before.
    pub(crate) fn read(&mut self, folder: &Path) -> Result<Known> {
        let known = self.kept.folders.remove(folder);
        let read =
            match known.filter(|read| read.looks.iter().all(|(at, was)| look(at) == Some(*was))) {
                Some(read) => read,
                None => {
                    self.changed = true;
                    read(folder)?
                }
            };
        self.asked.insert(folder.to_owned(), read.clone());
        Ok(read)
    }

    /// Keeps what was asked for. A file that cannot be written costs time only.
    pub(crate) fn close(self) {
        let gone = !self.kept.folders.is_empty();
        if let Some(path) = self.path.filter(|_| self.changed || gone) {
            let kept = Kept { version: VERSION, folders: self.asked };
            let _ = serde_json::to_vec(&kept).map(|bytes| write_atomic(&path, &bytes));
        }
    }
}

fn read(folder: &Path) -> Result<Known> {
    let path = folder.join(manifest::FILE);
    let mut looks = vec![(path.clone(), look(&path).unwrap_or_default())];
    let manifest = manifest::read(&path)?;
    let mut settings = Vec::new();
    for provider in &manifest.providers {
        if let Some(name) = &provider.config_schema {
            let path = folder.join(name);
            looks.push((path.clone(), look(&path).unwrap_or_default()));
        }
        let schema = schema(folder, provider)?;
        let flags = flags(&provider.name, &schema);
        let raw = to_raw_value(&schema).and_then(|schema| Ok((schema, to_raw_value(&flags)?)));
        settings.push(raw.map_err(|e| unusable(&path).because(&e))?);
    }
    Ok(Known { looks, manifest, settings })
}

fn look(path: &Path) -> Option<Look> {
    let f: Metadata = std::fs::metadata(path).ok()?;
    Some((f.ino(), f.len(), f.mtime(), f.mtime_nsec(), f.ctime(), f.ctime_nsec()))
}

fn schema(folder: &Path, provider: &ProviderEntry) -> Result<Value> {
    let Some(name) = &provider.config_schema else {
        return Ok(serde_json::json!({"type": "object", "additionalProperties": false}));
    };
    let path = folder.join(name);
    let text = text(&path, LONGEST).map_err(|e| unusable(&path).because(&e))?;
    serde_json::from_str(&text).map_err(|e| unusable(&path).because(&e))
}

fn unusable(schema: &Path) -> KernelError {
    KernelError::new(ErrorCode::Config, format!("unusable settings schema {}", schema.display()))
        .hint("repair or remove that plugin's folder")
}

/// A file's text, unless it is too long.
pub(crate) fn text(path: &Path, longest: u64) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(longest + 1).read_to_string(&mut text)?;
    match text.len() as u64 > longest {
        true => Err(Error::new(ErrorKind::InvalidData, format!("longer than {longest} bytes"))),
        false => Ok(text),
    }
}
