//! A provider's own settings: an opaque block merged from files, environment and flags by its schema's names.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use super::keys::Kind;
use super::load::untrusted;
use super::settings::{Entry, Layer, Origin, Settings};
use super::text;
use crate::error::{KernelError, Result};
use crate::nearest::{nearest, plain};

/// What the kernel needs to know of one property of a provider's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name in the schema; `outer.inner` for a property of a nested object.
    pub name: String,
    /// How its text in the environment or a flag reads.
    pub kind: Kind,
    /// Its flag, without dashes, where it has one.
    pub flag: Option<String>,
    /// Environment names; the first that is not empty counts.
    pub env: Vec<String>,
    /// Whether a repository's file must not set it.
    pub user_only: bool,
    /// Whether it is shown only as `configured` or `missing`.
    pub secret: bool,
    /// The general setting that counts when nobody set this one, such as `ssh.user`.
    pub fallback: Option<String>,
}

/// Which block is wanted.
#[derive(Debug, Clone, Copy)]
pub struct BlockRequest<'a> {
    /// The provider's name, its aliases, and the top-level blocks that are also its.
    pub names: &'a [&'a str],
    /// Its schema's properties.
    pub properties: &'a [Property],
    /// The whole environment.
    pub env: &'a BTreeMap<String, String>,
    /// Flags as pairs of a property's name and its text.
    pub flags: &'a [(String, String)],
}

/// A provider's settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    /// Values by the schema's names.
    pub values: Map<String, Value>,
    /// Where each came from, by [`Property::name`].
    pub origins: BTreeMap<String, Origin>,
    /// Entries the schema does not name.
    pub unknown: Vec<Stray>,
    /// Values that make no sense.
    pub wrong: Vec<Stray>,
}

/// Something in a block that cannot count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Its path as written, or the name of the property it was meant for.
    pub path: String,
    /// Where it stands.
    pub from: Origin,
    /// A lowercase fragment.
    pub why: String,
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`: {}", self.from, self.path, self.why)
    }
}

impl Block {
    fn set(&mut self, name: &str, value: Value, from: Origin) {
        let (map, key) = match name.split_once('.') {
            None => (Some(&mut self.values), name),
            Some((outer, inner)) => {
                let nested = self.values.entry(outer).or_insert_with(|| Map::new().into());
                (nested.as_object_mut(), inner)
            }
        };
        map.map(|map| map.insert(key.to_owned(), value));
        self.origins.insert(name.to_owned(), from);
    }
}

impl Settings {
    /// Merges a provider's block: flags over environment over files. Fails if an untrusted file sets a
    /// property that is the user's alone.
    pub fn provider_block(&self, request: &BlockRequest<'_>) -> Result<Block> {
        let user_only: Vec<_> = request.properties.iter().filter(|p| p.user_only).collect();
        self.check_block(request.names, &user_only)?;
        let mut block = Block::default();
        for entry in self.block_entries(request.names) {
            let property = request.properties.iter().find(|p| holds(&p.name, p.kind, &entry.name));
            match (property, entry.name.split_once('.')) {
                // What is in a table keeps its name.
                (Some(Property { kind: Kind::Table, name, .. }), Some((_, inner))) => {
                    block.set(&format!("{name}.{inner}"), entry.value.clone(), entry.from.clone());
                }
                (Some(property), _) => {
                    let value = meant(property.kind, &entry.value);
                    block.set(&property.name, value, entry.from.clone());
                }
                (None, _) => block.unknown.push(unknown(entry, request.properties)),
            }
        }
        for property in request.properties {
            let mut set =
                property.env.iter().filter_map(|name| Some((name, request.env.get(name)?)));
            let Some((name, text)) = set.find(|(_, text)| !text.is_empty()) else { continue };
            let from = Origin::env(name);
            // The variable holds the secret, or says where it is; the settings never hold one.
            let place = (property.secret && !is_place(text)).then(|| format!("env:{name}"));
            match text::parse(property.kind, place.as_deref().unwrap_or(text)) {
                Ok(value) => block.set(&property.name, value, from),
                Err(why) => block.wrong.push(Stray { path: property.name.clone(), from, why }),
            }
        }
        flags_of(request, &mut block)?;
        for property in request.properties {
            self.fall_back(property, &mut block);
        }
        Ok(block)
    }

    /// Takes the general setting when nobody set the property; a default is nobody's word.
    fn fall_back(&self, property: &Property, block: &mut Block) {
        let general = property.fallback.as_deref().and_then(|path| self.get(path));
        let Some(setting) = general.filter(|s| s.from.layer > Layer::Default) else { return };
        if block.values.contains_key(&property.name) {
            return;
        }
        let value = match &setting.value {
            Value::String(words) => text::parse(property.kind, words).ok(),
            other => Some(other.clone()),
        };
        if let Some(value) = value {
            block.set(&property.name, value, setting.from.clone());
        }
    }

    /// Refuses properties that only the user may set and an untrusted repository's file sets.
    pub fn check_block(&self, names: &[&str], user_only: &[&Property]) -> Result<()> {
        let refused: Vec<String> = self
            .block_entries(names)
            .filter(|entry| {
                !entry.trusted && user_only.iter().any(|p| holds(&p.name, p.kind, &entry.name))
            })
            .map(|entry| format!("`{}` ({})", entry.path, entry.from.place))
            .collect();
        if refused.is_empty() { Ok(()) } else { Err(untrusted(&refused)) }
    }

    fn block_entries<'a>(&'a self, names: &'a [&'a str]) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| names.iter().any(|name| same(name, &entry.block)))
    }
}

/// What is wrong with an entry that no property has, and which one was probably meant.
fn unknown(entry: &Entry, properties: &[Property]) -> Stray {
    let known = properties.iter().map(|property| property.name.as_str());
    let why = match nearest(&entry.name, known) {
        Some(near) => format!("the provider has no such setting; perhaps `{near}` was meant"),
        None => "the provider has no such setting".to_owned(),
    };
    Stray { path: entry.path.clone(), from: entry.from.clone(), why }
}

/// Whether a text says where a secret is.
fn is_place(text: &str) -> bool {
    ["env:", "file:", "keyring:", "cmd:"].iter().any(|kind| text.starts_with(kind))
}

/// A quoted number or switch in a file means the number or switch.
fn meant(kind: Kind, value: &Value) -> Value {
    match (kind, value) {
        (Kind::Integer | Kind::Number | Kind::Bool, Value::String(words)) => {
            text::parse(kind, words).unwrap_or_else(|_| value.clone())
        }
        _ => value.clone(),
    }
}

fn flags_of(request: &BlockRequest<'_>, block: &mut Block) -> Result<(), KernelError> {
    let mut lists: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (name, text) in request.flags {
        let Some(property) = request.properties.iter().find(|p| same(&p.name, name)) else {
            continue;
        };
        let from = Origin::flag(property.flag.as_deref().unwrap_or(name));
        let value = text::parse(property.kind, text).map_err(|why| {
            KernelError::new(
                crabbox_schemas::error::ErrorCode::Usage,
                format!("{}: {why}", from.place),
            )
        })?;
        let value = match value {
            Value::Array(more) => {
                let list = lists.entry(&property.name).or_default();
                list.extend(more);
                Value::Array(list.clone())
            }
            one => one,
        };
        block.set(&property.name, value, from);
    }
    Ok(())
}

/// Whether an entry of a file is a property's, or is in its table.
fn holds(property: &str, kind: Kind, entry: &str) -> bool {
    let outer = entry.split_once('.').map_or(entry, |(outer, _)| outer);
    same(property, if kind == Kind::Table { outer } else { entry })
}

/// True if two names differ in case and dashes only: `workRoot` and `work-root`.
pub(super) fn same(a: &str, b: &str) -> bool {
    plain(a) == plain(b)
}
