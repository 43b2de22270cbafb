//! Reads `crabbox-plugin.toml` and checks what the type cannot say.

use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::Manifest;
use crabbox_schemas::plugin::PROTOCOLS;

/// The manifest's file name.
pub const FILE: &str = "crabbox-plugin.toml";

/// Longest manifest in bytes.
const LONGEST: u64 = 256 * 1024;

/// Reads and checks one manifest.
pub fn read(path: &Path) -> Result<Manifest> {
    let text = crate::index::text(path, LONGEST).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => none(path),
        _ => bad(path).because(&e),
    })?;
    let manifest: Manifest = toml::from_str(&text).map_err(|e| bad(path).because(&e))?;
    match problem(&manifest) {
        Some(problem) => Err(KernelError { causes: vec![problem], ..bad(path) }),
        None => Ok(manifest),
    }
}

/// There is no manifest, because there is no folder, or because it is another folder.
fn none(path: &Path) -> KernelError {
    let folder = path.parent().unwrap_or(path);
    let what = match folder.is_dir() {
        true => format!("there is no plugin in {}: it has no {FILE}", folder.display()),
        false => format!("there is no folder {}", folder.display()),
    };
    KernelError::new(ErrorCode::NotFound, what)
        .hint(format!("name a folder with {FILE} in it; `crabbox plugin new` begins one"))
}

fn bad(path: &Path) -> KernelError {
    KernelError::new(ErrorCode::Config, format!("unusable plugin manifest {}", path.display()))
        .hint("repair or remove that plugin's folder")
}

fn problem(manifest: &Manifest) -> Option<String> {
    if manifest.manifest != 1 {
        return Some(format!("manifest format {} is not 1", manifest.manifest));
    }
    if !is_id(&manifest.id) {
        return Some(format!("id {:?} is not publisher/name in lower case", manifest.id));
    }
    if let Err(error) = semver::Version::parse(&manifest.version) {
        return Some(format!("version {:?} is not a semantic version: {error}", manifest.version));
    }
    if manifest.providers.is_empty() {
        return Some("it offers no provider".to_owned());
    }
    if manifest.artifacts.is_empty() {
        return Some("it has no artifact".to_owned());
    }
    let names = manifest.providers.iter().flat_map(|p| p.aliases.iter().chain([&p.name]));
    let bad_name = names
        .filter(|name| !is_name(name))
        .map(|name| format!("provider name {name:?} is not lower-case letters, digits and dashes"));
    let schemas = manifest.providers.iter().filter_map(|provider| provider.config_schema.as_ref());
    let paths = manifest.artifacts.iter().map(|artifact| &artifact.path).chain(schemas);
    let bad_path = paths
        .filter(|path| !is_inside(path))
        .map(|path| format!("{path:?} is not a path below its folder"));
    let memory = manifest.artifacts.iter().filter_map(|artifact| artifact.memory_mib);
    let bad_memory = memory
        .filter(|mib| !(1..=512).contains(mib))
        .map(|mib| format!("memory-mib {mib} is not between 1 and 512"));
    bad_name.chain(bad_path).chain(bad_memory).next()
}

/// Whether a path names a file below the folder it is in.
fn is_inside(path: &str) -> bool {
    let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    !path.is_empty() && !path.contains(['\0', '\\']) && Path::new(path).components().all(plain)
}

/// Whether it is `publisher/name`.
pub fn is_id(id: &str) -> bool {
    let part = |p: &str| p.split('.').all(is_name);
    id.split_once('/').is_some_and(|(publisher, name)| part(publisher) && is_name(name))
}

fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(inner)
}

/// Whether plugin and host share a protocol major; the error names both lists.
pub fn check_protocols(manifest: &Manifest) -> Result<()> {
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    let ours = |theirs: &String| PROTOCOLS.iter().any(|our| major(our) == major(theirs));
    if manifest.protocols.iter().any(ours) {
        return Ok(());
    }
    Err(KernelError::new(
        ErrorCode::Unsupported,
        format!(
            "plugin {} {} speaks protocol {}, this crabbox speaks {}",
            manifest.id,
            manifest.version,
            manifest.protocols.join(", "),
            PROTOCOLS.join(", "),
        ),
    )
    .hint("install versions of crabbox and the plugin that belong together"))
}
