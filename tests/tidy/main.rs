//! Rules of the repository that run: who imports whom, who may speak, how long things may be, which docs are current.

mod docs;
mod imports;
mod lockfile;
mod source;
mod words;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The top of the repository.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests live below the top").to_path_buf()
}

/// Every Rust file of the repository: its path from the top, and its text.
fn rust_files() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let short =
                    path.strip_prefix(&root).expect("below the top").to_string_lossy().into_owned();
                found.push((short, fs::read_to_string(&path).expect("a readable file")));
            }
        }
    }
    assert!(found.len() > 30, "found only {} Rust files", found.len());
    found.sort();
    found
}

/// The text without its inline tests, which come last in a file.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

/// Whether a file is a test or serves only tests, or is the beginning of somebody else's provider.
fn is_test(path: &str) -> bool {
    static INLINE: LazyLock<HashSet<String>> = LazyLock::new(test_modules);
    ["tests/", "plugin-sdk/templates/"].iter().any(|dir| path.starts_with(dir))
        || path.contains("/tests/")
        || INLINE.contains(path)
}

/// Files that are declared as `#[cfg(test)] mod name;`.
fn test_modules() -> HashSet<String> {
    let mut found = HashSet::new();
    for (path, text) in rust_files() {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", &path));
        let folder = match file {
            "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
            _ => format!("{folder}/{}", file.trim_end_matches(".rs")),
        };
        for rest in text.split("#[cfg(test)]\nmod ").skip(1) {
            if let Some((name, _)) = rest.split_once(';').filter(|(name, _)| !name.contains(' ')) {
                found.extend([format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")]);
            }
        }
    }
    found
}

/// Fails with every broken rule in one list.
fn report(broken: &[String], advice: &str) {
    assert!(broken.is_empty(), "\n{}\n{advice}\n", broken.join("\n"));
}
