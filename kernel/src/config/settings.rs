//! What loading gives: every value, where it came from, and what nobody used.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use super::keys::Key;
use super::values::Values;

/// Who set a value, lowest first: a higher layer wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Built in.
    Default,
    /// The user's own file, or the one file `CRABBOX_CONFIG` names.
    User,
    /// `crabbox.yaml` of the repository.
    Repository,
    /// `.crabbox.yaml` of the repository.
    RepositoryHidden,
    /// An environment variable.
    Environment,
    /// A flag.
    Flag,
}

impl Layer {
    /// True for files that come with the code.
    pub fn is_repository(self) -> bool {
        matches!(self, Self::Repository | Self::RepositoryHidden)
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The layer.
    pub layer: Layer,
    /// `<file>:<line>`, `env NAME`, `--flag` or `default`.
    pub place: String,
    /// The profile whose block held it.
    pub profile: Option<String>,
}

impl Origin {
    /// Nobody said anything.
    pub fn default_value() -> Self {
        Self { layer: Layer::Default, place: "default".to_owned(), profile: None }
    }

    pub(super) fn env(name: &str) -> Self {
        Self { layer: Layer::Environment, place: format!("env {name}"), profile: None }
    }

    pub(super) fn flag(name: &str) -> Self {
        Self { layer: Layer::Flag, place: format!("--{name}"), profile: None }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        self.profile.iter().try_for_each(|profile| write!(f, " (profile {profile})"))
    }
}

/// A value and its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The value; null when not set.
    pub value: Value,
    /// Where it came from.
    pub from: Origin,
}

/// Something in the configuration that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where, as in [`Origin`].
    pub place: String,
    /// A lowercase fragment.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A configuration file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFact {
    /// The file.
    pub path: PathBuf,
    /// The layer it fills.
    pub layer: Layer,
    /// Permission bits, where the system has them.
    pub mode: Option<u32>,
    /// Whether its repository is trusted; true for the user's own file.
    pub trusted: bool,
}

impl ConfigFact {
    /// True if others may read the user's own file, which may hold tokens.
    pub fn is_exposed(&self) -> bool {
        self.layer == Layer::User && self.mode.is_some_and(|mode| mode & 0o077 != 0)
    }
}

/// One entry of a block the kernel does not know: some provider's, or nobody's.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name of the block: `x` for `x:` and for `providers.x:` alike.
    pub block: String,
    /// The entry's name; `outer.inner` for one inside a mapping.
    pub name: String,
    /// Its path as written.
    pub path: String,
    /// Its value.
    pub value: Value,
    /// Where it stands.
    pub from: Origin,
    /// Whether its file may set what only the user may set.
    pub trusted: bool,
}

/// Every setting in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub(super) values: BTreeMap<&'static str, Setting>,
    pub(super) entries: Vec<Entry>,
    /// Paths no setting has, and where they stand.
    pub unknown: Vec<(String, Origin)>,
    /// The files that were read, lowest layer first.
    pub files: Vec<ConfigFact>,
    /// The user's home directory, for `~/`.
    pub(super) home: Option<PathBuf>,
}

impl Settings {
    /// The built-in defaults alone.
    pub fn defaults() -> Self {
        Self {
            values: super::layer::resolve(&[]),
            entries: Vec::new(),
            unknown: Vec::new(),
            files: Vec::new(),
            home: None,
        }
    }

    /// A setting by its path; `None` if the table has no such path.
    pub fn get(&self, path: &str) -> Option<&Setting> {
        self.values.get(super::keys::find(path)?.path)
    }

    /// A setting of the table.
    pub fn of(&self, key: &Key) -> Option<&Setting> {
        self.values.get(key.path)
    }

    /// Where a setting came from.
    pub fn origin(&self, path: &str) -> Origin {
        self.get(path).map_or_else(Origin::default_value, |setting| setting.from.clone())
    }

    /// Entries of blocks that are not the kernel's, lowest layer first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The form the rest of the kernel reads.
    pub fn values(&self) -> Values {
        Values::of(self)
    }
}
