//! What makes a plugin useless wherever it runs: said before anybody packs it, or is asked to agree to it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::{Manifest, Runtime};

use crate::catalog::Entry;
use crate::manifest::check_protocols;
use crate::settings::check_schema;

/// Whether its protocol and its settings are ones that this crabbox knows, and what would run here is there.
pub(crate) fn sound(entries: &[Entry]) -> Result<()> {
    for entry in entries {
        check_protocols(&entry.manifest)?;
        check_schema(entry)?;
        if let Some(runtime) = entry.runtime {
            there(&entry.artifact, runtime)?;
        }
    }
    Ok(())
}

/// Whether all of its artifacts are in its folder, for whatever machine they are.
pub(crate) fn complete(folder: &Path, manifest: &Manifest) -> Result<()> {
    let mut artifacts = manifest.artifacts.iter();
    artifacts.try_for_each(|each| there(&folder.join(&each.path), each.runtime))
}

fn there(artifact: &Path, runtime: Runtime) -> Result<()> {
    let bad = |what: &str, hint: &str| {
        let what = format!("the plugin's {} {what}", artifact.display());
        Err(KernelError::new(ErrorCode::Config, what).hint(hint))
    };
    match artifact.metadata().map(|facts| (facts.is_file(), facts.permissions().mode() & 0o111)) {
        Ok((true, 0)) if runtime == Runtime::Stdio => {
            bad("cannot be executed", "`chmod +x` it: with `runtime = \"stdio\"` it is a program")
        }
        Ok((true, _)) => Ok(()),
        _ => bad("is not there", "build it first, or correct `path` in its [[artifact]]"),
    }
}
