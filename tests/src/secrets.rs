//! Where a text stands that should stand nowhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{Room, binary};

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

/// The plugin of a provider, with every frame written down on its way.
pub fn tapped(room: &Room, provider: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(provider);
    let folder = room.at("tapped");
    fs::create_dir(&folder).expect("a plugin's folder");
    fs::copy(from.join("config.schema.json"), folder.join("config.schema.json"))
        .expect("a plugin's folder");
    let manifest = fs::read_to_string(from.join("crabbox-plugin.toml")).expect("a plugin's folder");
    let (head, grants) = (manifest.split("[[artifact]]").next(), manifest.split("[grants]").nth(1));
    let text = format!(
        "{}[[artifact]]\nruntime = \"stdio\"\npath = \"tap\"\n\n[grants]\npowers = [\"write\"]\n{}",
        head.expect("a plugin's folder"),
        grants.expect("a plugin's folder")
    );
    fs::write(folder.join("crabbox-plugin.toml"), text).expect("a plugin's folder");
    let frames = room.at("frames");
    let (program, frames) = (binary(&format!("crabbox-provider-{provider}")), frames.display());
    let tap =
        format!("#!/bin/sh\ntee -a {frames}.in | {} | tee -a {frames}.out\n", program.display());
    fs::write(folder.join("tap"), tap).expect("a plugin's folder");
    fs::set_permissions(folder.join("tap"), PermissionsExt::from_mode(0o755))
        .expect("a plugin's folder");
    folder
}
