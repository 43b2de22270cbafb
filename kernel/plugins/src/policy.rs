//! What the user or administrator allows at all, before anybody is asked.

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;

use crate::catalog::{Entry, Place};

/// Which plugins may be agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rule {
    /// Any.
    #[default]
    All,
    /// Those signed by a publisher whose key is known, the administrator's, and those of this crabbox.
    Signed,
    /// Those on the list, and those of this crabbox.
    Allowlist,
    /// Those of this crabbox only.
    FirstParty,
    /// None at all.
    None,
}

impl Rule {
    /// Every rule by its word in the configuration.
    pub const WORDS: &[(&str, Self)] = &[
        ("all", Self::All),
        ("signed", Self::Signed),
        ("allowlist", Self::Allowlist),
        ("first-party", Self::FirstParty),
        ("none", Self::None),
    ];
}

/// What is allowed at all.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The rule.
    pub rule: Rule,
    /// Plugin ids, for [`Rule::Allowlist`].
    pub allow: Vec<String>,
    /// Digests that must never run, `sha256:` and hex.
    pub revoked: Vec<String>,
}

impl Policy {
    /// Whether files may run at all, be it only to end a lease they made.
    pub fn check_revoked(&self, id: &str, files: &str) -> Result<()> {
        match self.revoked.iter().any(|digest| digest == files) {
            true => Err(refused(id, "`plugins.revoked` names these files")),
            false => Ok(()),
        }
    }

    /// Whether a plugin may be agreed to or run; the error says which rule stands against it.
    pub fn check(&self, entry: &Entry, files: Option<&str>, signed: bool) -> Result<()> {
        let id = &entry.manifest.id;
        files.map_or(Ok(()), |files| self.check_revoked(id, files))?;
        let ours = entry.place == Place::Bundled;
        match self.rule {
            Rule::All => Ok(()),
            Rule::Signed if ours || signed || entry.place == Place::System => Ok(()),
            Rule::Allowlist if self.allow.is_empty() => Err(KernelError::new(
                ErrorCode::Config,
                "`plugins.policy` is allowlist, but `plugins.allow` is empty",
            )
            .hint("list plugin ids in `plugins.allow`, or choose `first-party`")),
            Rule::Allowlist if ours || self.allow.contains(id) => Ok(()),
            Rule::FirstParty if ours => Ok(()),
            rule => {
                let word = Rule::WORDS.iter().find(|(_, known)| *known == rule);
                let word = word.map_or("none", |(word, _)| word);
                Err(refused(id, &format!("`plugins.policy` is {word}")))
            }
        }
    }
}

/// Which plugins may run as libraries: these are checked less than any other artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Libraries {
    /// None.
    #[default]
    Off,
    /// Those of this crabbox.
    FirstParty,
    /// Any.
    Allow,
}

impl Libraries {
    /// The rule of a word in the configuration; an unknown one allows nothing.
    pub fn of(word: &str) -> Self {
        match word {
            "first-party" => Self::FirstParty,
            "allow" => Self::Allow,
            _ => Self::Off,
        }
    }

    /// Whether this plugin may; the error says what would let it.
    pub fn check(self, entry: &Entry) -> Result<()> {
        let (id, ours) = (&entry.manifest.id, entry.place == Place::Bundled);
        match (self, ours) {
            (Self::Allow, _) | (Self::FirstParty, true) => Ok(()),
            (_, true) => Err(refused(id, "`plugins.native` is off, and this is a library")
                .hint("set `plugins.native: first-party` in your own configuration")),
            (_, false) => Err(refused(id, "it is a library, and not of this crabbox")),
        }
    }
}

fn refused(id: &str, why: &str) -> KernelError {
    KernelError::new(ErrorCode::PluginUntrusted, format!("plugin {id} may not run: {why}"))
        .hint("the user's or administrator's configuration decides; a repository cannot")
}
