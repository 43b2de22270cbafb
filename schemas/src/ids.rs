//! Names that cross process borders: lease ids, run ids and their grammar.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A lease's identity: `cbx_` and 12 lowercase hex digits, or a provider's own form such as `static_<host>`.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
pub struct LeaseId(String);

/// A run's identity: `run_` and 12 lowercase hex digits.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl LeaseId {
    /// Makes the canonical id from six random bytes.
    pub fn mint(random: [u8; 6]) -> Self {
        Self(format!("cbx_{}", hex(random)))
    }

    /// Accepts any id a provider may use: a lowercase prefix, `_`, then letters, digits, `.`, `_` or `-`.
    pub fn parse(text: &str) -> Option<Self> {
        let (prefix, rest) = text.split_once('_')?;
        let prefix_ok = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_lowercase());
        let rest_ok = !rest.is_empty()
            && !rest.starts_with('.')
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        (prefix_ok && rest_ok && text.len() <= 128).then(|| Self(text.to_owned()))
    }

    /// True for `cbx_` followed by exactly 12 lowercase hex digits.
    pub fn is_canonical(&self) -> bool {
        self.0.strip_prefix("cbx_").is_some_and(is_hex12)
    }

    /// The id as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RunId {
    /// Makes an id from six random bytes.
    pub fn mint(random: [u8; 6]) -> Self {
        Self(format!("run_{}", hex(random)))
    }

    /// Accepts `run_` followed by exactly 12 lowercase hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        text.strip_prefix("run_").is_some_and(is_hex12).then(|| Self(text.to_owned()))
    }

    /// The id as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn hex(bytes: [u8; 6]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn is_hex12(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for LeaseId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("not a lease id: {text:?}"))
    }
}

impl TryFrom<String> for RunId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("not a run id: {text:?}"))
    }
}

impl From<LeaseId> for String {
    fn from(id: LeaseId) -> String {
        id.0
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> String {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_are_canonical() {
        assert_eq!(
            LeaseId::mint([0xab, 0xcd, 0xef, 0x12, 0x34, 0x56]).as_str(),
            "cbx_abcdef123456"
        );
        assert_eq!(RunId::mint([0; 6]).as_str(), "run_000000000000");
    }

    #[test]
    fn foreign_ids_pass_and_paths_do_not() {
        assert!(LeaseId::parse("static_build-1.example").is_some());
        for bad in ["", "cbx", "cbx_", "cbx_..", "cbx_a/b", "../x_y", "CBX_abc", "a_b c"] {
            assert!(LeaseId::parse(bad).is_none(), "{bad}");
        }
        assert!(!LeaseId::parse("static_x").is_some_and(|id| id.is_canonical()));
    }
}
