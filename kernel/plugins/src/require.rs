//! What a repository requires of plugins: versions in its configuration, files in its `crabbox.lock`.

use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::Manifest;
use semver::{Version, VersionReq};

use crate::lock;

/// Checks a plugin against `publisher/name@range` lines; other plugins' lines do not matter.
pub fn check_version(manifest: &Manifest, requires: &[String]) -> Result<()> {
    for line in requires {
        let (id, range) = parse(line)?;
        let version = Version::parse(&manifest.version);
        if id == manifest.id && !version.is_ok_and(|version| range.matches(&version)) {
            return Err(KernelError::new(
                ErrorCode::Precondition,
                format!("plugin {id} {} is not {range}, which is required here", manifest.version),
            )
            .hint("install another version of the plugin, or change `plugins.requires`"));
        }
    }
    Ok(())
}

/// The lines that nothing of these plugins meets. A line that can mean nothing is an error.
pub fn unmet<'a>(requires: &'a [String], here: &[(&str, &str)]) -> Result<Vec<&'a str>> {
    let mut unmet = Vec::new();
    for line in requires {
        let (id, range) = parse(line)?;
        let meets = |(known, version): &(&str, &str)| {
            *known == id && Version::parse(version).is_ok_and(|version| range.matches(&version))
        };
        if !here.iter().any(meets) {
            unmet.push(line.as_str());
        }
    }
    Ok(unmet)
}

/// A line as plugin id and range of versions.
fn parse(line: &str) -> Result<(&str, VersionReq)> {
    let (id, range) = line.split_once('@').unwrap_or((line, "*"));
    let wrong = |what: &str| {
        KernelError::new(ErrorCode::Config, format!("`plugins.requires`: {line} names no {what}"))
            .hint("write publisher/name@^1.2")
    };
    if !id.contains('/') {
        return Err(wrong("plugin"));
    }
    let range = VersionReq::parse(range).map_err(|e| wrong("versions").because(&e))?;
    Ok((id, range))
}

/// Checks a plugin's files against the lock a repository has committed, if it has one.
pub fn check_lock(root: &Path, manifest: &Manifest, files: &str) -> Result<()> {
    let path = root.join(lock::FILE);
    let lock = lock::read(&path)?;
    match lock.plugins.get(&manifest.id) {
        Some(locked) if locked.files != files => Err(KernelError::new(
            ErrorCode::PluginUntrusted,
            format!("plugin {} is not the one {} locks", manifest.id, path.display()),
        )
        .hint(format!(
            "it locks {} from {}; install that one, or lock this one anew",
            locked.version, locked.source
        ))),
        _ => Ok(()),
    }
}
