//! Where a text stands that should stand nowhere.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether bytes hold a text.
pub fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Every plain file below a folder that holds the text.
pub fn holders(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(holders(&path, text)),
            Ok(kind) if kind.is_file() && holds(&fs::read(&path).unwrap_or_default(), text) => {
                found.push(path);
            }
            _ => {}
        }
    }
    found
}
