//! The helpers we can bring along: one program a target, beside our own.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use crabbox_tree::{content_hash, hex};

/// How the files are named; the target follows.
const PREFIX: &str = "crabbox-helper-";
/// Largest program taken for a helper, bytes.
const LARGEST: u64 = 32 << 20;

/// The folder with `crabbox-helper-<os>-<arch>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    dir: Option<PathBuf>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Binary {
    /// `linux-x86_64`, …
    pub(super) target: String,
    /// The hash of the program, 64 hex digits.
    pub(super) hash: String,
    /// The program.
    pub(super) program: Bytes,
}

impl Binaries {
    /// Those in a folder.
    pub fn in_dir(dir: PathBuf) -> Self {
        Self { dir: Some(dir) }
    }

    /// None: every box is worked with sh and tar.
    pub fn none() -> Self {
        Self { dir: None }
    }

    /// Reads them. What cannot be read is not there.
    pub(super) fn read(&self) -> Vec<Binary> {
        let files = self.dir.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
        let mut found: Vec<Binary> =
            files.flatten().filter_map(|file| read(&file.path())).collect();
        found.sort_by(|a, b| a.target.cmp(&b.target));
        found
    }
}

fn read(path: &Path) -> Option<Binary> {
    let target = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.to_owned();
    let meta = path.metadata().ok()?;
    if !meta.is_file() || meta.len() == 0 || meta.len() > LARGEST {
        return None;
    }
    let program = Bytes::from(std::fs::read(path).ok()?);
    Some(Binary { target, hash: hex(&content_hash(&program)), program })
}
