//! Finds the configuration files, reads them, and stacks them under the environment and the flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crabbox_schemas::error::ErrorCode;

use super::layer::{self, Said, Walk, child};
use super::read::{self, Data, Node};
use super::settings::{ConfigFact, Layer, Settings, Warning};
use crate::error::{KernelError, Result};

/// File names a repository may use, lowest first.
const REPOSITORY_FILES: [(&str, Layer); 2] =
    [("crabbox.yaml", Layer::Repository), (".crabbox.yaml", Layer::RepositoryHidden)];

/// Everything loading looks at; the kernel itself never asks the process.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Where the user stands.
    pub cwd: PathBuf,
    /// Root of the git work tree around it.
    pub git_root: Option<PathBuf>,
    /// The user's folder for crabbox, which holds `config.yaml`.
    pub user_config_dir: PathBuf,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Flags as pairs of a setting's path and its text.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The file `CRABBOX_CONFIG` names, which replaces all others.
    pub fn explicit(&self) -> Option<PathBuf> {
        let path = self.env.get("CRABBOX_CONFIG").filter(|path| !path.is_empty())?;
        Some(self.cwd.join(path))
    }

    /// The file that is the user's own.
    pub fn user_file(&self) -> PathBuf {
        self.explicit().unwrap_or_else(|| self.user_config_dir.join("config.yaml"))
    }

    fn home(&self) -> Option<PathBuf> {
        self.env.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
    }

    /// The nearest file of that name from here up to the root of the work tree.
    fn nearest(&self, name: &str) -> Option<PathBuf> {
        let top = self.git_root.as_deref().filter(|root| self.cwd.starts_with(root));
        let top = top.unwrap_or(&self.cwd);
        self.cwd
            .ancestors()
            .take_while(|dir| dir.starts_with(top))
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
    }
}

/// Loads every setting. Values that make no sense are passed over with a warning; a file that cannot be
/// read, an impossible target or network, and a key a repository may not set are errors.
pub fn load(sources: &Sources) -> Result<(Settings, Vec<Warning>)> {
    let files = read_files(sources)?;
    let env = layer::environment(&sources.env)?;
    let flags = layer::flags(&sources.flags)?;
    let profile = profile(&files, &env, &flags);
    let mut said = Said::default();
    for (file, root) in &files {
        said.stack(Walk::file(file, root, &profile)?);
        if file.is_exposed() {
            said.warnings.push(exposed(&file.path));
        }
    }
    if !said.refused.is_empty() {
        return Err(untrusted(&said.refused));
    }
    said.stack(env);
    said.stack(flags);
    let settings = Settings {
        values: layer::resolve(&said.given),
        entries: said.entries,
        unknown: said.unknown,
        files: files.into_iter().map(|(file, _)| file).collect(),
        home: sources.home(),
    };
    Ok((settings, said.warnings))
}

/// A repository's file set what only the user may set.
pub(super) fn untrusted(refused: &[String]) -> KernelError {
    KernelError::new(
        ErrorCode::ConfigUntrusted,
        format!("a repository's file may not set {}", refused.join(", ")),
    )
    .at("config")
    .hint(
        "set it in your own configuration (`crabbox config path`), in the environment or by flag; or, if you \
         trust this repository, add its path to `trust.repositories` there",
    )
}

fn exposed(path: &Path) -> Warning {
    Warning {
        place: path.display().to_string(),
        message: format!("others can read this file; run `chmod 600 {}`", path.display()),
    }
}

fn read_files(sources: &Sources) -> Result<Vec<(ConfigFact, Node)>> {
    let user = sources.user_file();
    let mut files = Vec::new();
    if let Some(root) = read::read(&user)? {
        files.push((fact(user, Layer::User, true), root));
    } else if sources.explicit().is_some() {
        return Err(KernelError::new(
            ErrorCode::Config,
            format!("CRABBOX_CONFIG names {}, which does not exist", user.display()),
        )
        .hint("create the file or unset CRABBOX_CONFIG"));
    }
    if sources.explicit().is_some() {
        return Ok(files);
    }
    let trusted = files.first().is_some_and(|(_, root)| trusts(root, sources));
    for (name, layer) in REPOSITORY_FILES {
        let Some(path) = sources.nearest(name) else { continue };
        if let Some(root) = read::read(&path)? {
            files.push((fact(path, layer, trusted), root));
        }
    }
    Ok(files)
}

fn fact(path: PathBuf, layer: Layer, trusted: bool) -> ConfigFact {
    let mode = mode(&path);
    ConfigFact { path, layer, mode, trusted }
}

#[cfg(unix)]
fn mode(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o7777)
}

#[cfg(not(unix))]
fn mode(_path: &Path) -> Option<u32> {
    None
}

/// Whether the user's file lists this repository as trusted.
fn trusts(user: &Node, sources: &Sources) -> bool {
    let repository = real(sources.git_root.as_deref().unwrap_or(&sources.cwd));
    let Some(list) = child(user, "trust").and_then(|trust| child(trust, "repositories")) else {
        return false;
    };
    let Data::List(items) = &list.data else { return false };
    let home = sources.home();
    items.iter().filter_map(|item| item.to_json().as_str().map(str::to_owned)).any(|path| {
        let path = expand(&path, home.as_deref());
        path.is_absolute() && real(&path) == repository
    })
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// Replaces a leading `~/` by the home directory.
pub(super) fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// The profile in force; files are asked for their own `profile` only, not for one inside a profile.
fn profile(files: &[(ConfigFact, Node)], env: &Said, flags: &Said) -> String {
    let spoken = [flags, env].into_iter().find_map(|said| {
        let given = said.given.iter().find(|given| given.key.path == "profile")?;
        given.value.as_str().map(str::to_owned)
    });
    let written = || {
        files.iter().rev().find_map(|(_, root)| match &child(root, "profile")?.data {
            Data::Scalar { text, .. } => Some(text.clone()),
            _ => None,
        })
    };
    spoken.or_else(written).unwrap_or_else(|| "default".to_owned())
}
