//! Which artifact of a plugin runs here, and by what command.

use std::path::{Path, PathBuf};

use crabbox_schemas::manifest::{Artifact, Grants, Manifest, Runtime, SecretMode};

/// The program that runs WebAssembly, beside crabbox itself.
pub const RUNNER: &str = "crabbox-wasm-runner";
/// The program that compiles it.
pub const COMPILER: &str = "crabbox-wasm-compile";

/// The program that loads libraries.
const NATIVE_RUNNER: &str = "crabbox-native-runner";

/// An artifact as it is run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Run {
    pub(crate) runtime: Option<Runtime>,
    /// The artifact's own file.
    pub(crate) artifact: PathBuf,
    /// What is started: the artifact, or what runs it.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
}

/// The artifact that runs here; of several the first, or the first of this runtime. `programs` is the folder of
/// crabbox's own. A library is never the first: somebody has to want it.
pub(crate) fn runnable(
    manifest: &Manifest,
    folder: &Path,
    programs: &Path,
    runtime: Option<Runtime>,
) -> Option<Run> {
    let (runner, native) = (programs.join(RUNNER), programs.join(NATIVE_RUNNER));
    let here = |artifact: &Artifact| artifact.target.as_deref().is_none_or(is_this_machine);
    let usable = |artifact: &&Artifact| match artifact.runtime {
        _ if runtime.is_some_and(|wanted| wanted != artifact.runtime) => false,
        Runtime::Stdio => here(artifact),
        Runtime::Wasm | Runtime::WasiStdio => {
            runner.is_file() && file(artifact, folder, programs).is_file()
        }
        Runtime::Native => {
            runtime.is_some()
                && here(artifact)
                && native.is_file()
                && file(artifact, folder, programs).is_file()
        }
    };
    let found = manifest.artifacts.iter().find(usable)?;
    let artifact = file(found, folder, programs);
    let (program, args) = match found.runtime {
        Runtime::Wasm | Runtime::WasiStdio => {
            let args = confined(found, &manifest.grants, &artifact);
            (runner, args)
        }
        Runtime::Native => (native, vec![artifact.display().to_string()]),
        Runtime::Stdio => (artifact.clone(), found.args.clone()),
    };
    Some(Run { runtime: Some(found.runtime), artifact, program, args })
}

fn file(artifact: &Artifact, folder: &Path, programs: &Path) -> PathBuf {
    let beside = folder.join(&artifact.path);
    if beside.is_file() { beside } else { programs.join(&artifact.path) }
}

/// What the runner is told: the file, and all that the guest may reach.
fn confined(artifact: &Artifact, grants: &Grants, file: &Path) -> Vec<String> {
    let mut args = Vec::new();
    if artifact.runtime == Runtime::WasiStdio {
        args.push("--command".to_owned());
    }
    if let Some(mib) = artifact.memory_mib {
        args.extend(["--memory-mib".to_owned(), mib.to_string()]);
    }
    let said = |option: &str, value: &str| [option.to_owned(), value.to_owned()];
    args.extend(powers(grants).into_iter().flat_map(|power| said("--allow", power)));
    args.extend(grants.env.iter().flat_map(|name| said("--env", name)));
    args.push(file.display().to_string());
    args
}

/// The runner's words for what these grants open to a guest.
pub(crate) fn powers(grants: &Grants) -> Vec<&'static str> {
    let reveals = grants.secrets.iter().any(|secret| secret.mode == SecretMode::Reveal);
    let rows = [
        ("exec", !grants.exec.is_empty()),
        ("files", grants.powers.iter().any(|power| power == "files")),
        ("http", !grants.http.is_empty()),
        ("reveal", reveals),
        ("ws", !grants.http.is_empty()),
    ];
    rows.into_iter().filter(|row| row.1).map(|row| row.0).collect()
}

/// Whether programs for a target triple run here.
fn is_this_machine(triple: &str) -> bool {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let mut parts = triple.split('-');
    parts.next() == Some(std::env::consts::ARCH) && parts.any(|part| part == system)
}
