//! One file, the environment or the flags as a flat list of what they set; and the stacking of such lists.

use std::collections::BTreeMap;

use crabbox_schemas::error::ErrorCode;
use serde_json::Value;

use super::keys::{self, KEYS, Key, Merge};
use super::read::{Data, Node};
use super::settings::{ConfigFact, Entry, Origin, Setting, Warning};
use super::text;
use crate::error::{KernelError, Result};

/// One value one layer sets.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) key: &'static Key,
    pub(super) value: Value,
    pub(super) from: Origin,
    /// Whether another spelling than the setting's own path was used.
    pub(super) alias: bool,
}

/// What one layer says.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) given: Vec<Given>,
    pub(super) entries: Vec<Entry>,
    pub(super) unknown: Vec<(String, Origin)>,
    pub(super) warnings: Vec<Warning>,
    /// Settings an untrusted file must not make, as `key (place)`.
    pub(super) refused: Vec<String>,
}

impl Said {
    /// Adds a higher layer.
    pub(super) fn stack(&mut self, higher: Self) {
        self.given.extend(higher.given);
        self.entries.extend(higher.entries);
        self.unknown.extend(higher.unknown);
        self.warnings.extend(higher.warnings);
        self.refused.extend(higher.refused);
    }
}

/// Reads a file's tree: its own settings, or those of one of its profiles.
pub(super) struct Walk<'a> {
    pub(super) file: &'a ConfigFact,
    pub(super) profile: Option<&'a str>,
    pub(super) said: Said,
}

impl<'a> Walk<'a> {
    /// What the file says, with the profile's block above the rest.
    pub(super) fn file(file: &'a ConfigFact, root: &Node, profile: &'a str) -> Result<Said> {
        let mut plain = Self { file, profile: None, said: Said::default() };
        plain.top(root)?;
        let mut said = plain.finish();
        let block = child(root, "profiles").and_then(|profiles| child(profiles, profile));
        if let Some(block) = block {
            let mut overlay = Self { file, profile: Some(profile), said: Said::default() };
            overlay.top(block)?;
            said.stack(overlay.finish());
        }
        Ok(said)
    }

    fn top(&mut self, root: &Node) -> Result<()> {
        for (name, node) in entries(root) {
            match name.as_str() {
                "profiles" => {}
                "providers" => {
                    for (block, node) in entries(node) {
                        self.block(block, &format!("providers.{block}"), node);
                    }
                }
                _ if keys::find(name).is_some() || keys::is_branch(name) => {
                    self.setting(name, node)?;
                }
                _ => self.block(name, name, node),
            }
        }
        Ok(())
    }

    fn block(&mut self, block: &str, path: &str, node: &Node) {
        if !matches!(node.data, Data::Map(_)) {
            self.said.unknown.push((path.to_owned(), self.origin(node)));
            return;
        }
        self.entries_of(block, path, "", node);
    }

    /// Entries of a block; those of a mapping inside it are named `outer.inner`.
    fn entries_of(&mut self, block: &str, path: &str, outer: &str, node: &Node) {
        for (name, node) in entries(node) {
            let name = if outer.is_empty() { name.clone() } else { format!("{outer}.{name}") };
            match node.data {
                Data::Empty => {}
                Data::Map(_) if outer.is_empty() => self.entries_of(block, path, &name, node),
                _ => self.said.entries.push(Entry {
                    block: block.to_owned(),
                    path: format!("{path}.{name}"),
                    name,
                    value: node.to_json(),
                    from: self.origin(node),
                    trusted: self.file.trusted,
                }),
            }
        }
    }

    fn setting(&mut self, path: &str, node: &Node) -> Result<()> {
        if let Some(key) = keys::find(path) {
            return self.take(key, path, node);
        }
        if !keys::is_branch(path) {
            self.said.unknown.push((path.to_owned(), self.origin(node)));
            return Ok(());
        }
        if !matches!(node.data, Data::Map(_) | Data::Empty) {
            self.warn(node, format!("`{path}` is ignored: it should hold settings, not a value"));
        }
        entries(node)
            .iter()
            .try_for_each(|(name, node)| self.setting(&format!("{path}.{name}"), node))
    }

    fn take(&mut self, key: &'static Key, path: &str, node: &Node) -> Result<()> {
        let from = self.origin(node);
        match text::parse_node(key.kind, node) {
            Ok(None) => {}
            Ok(Some(value)) if !self.file.trusted && !key.trust.allows(&value) => {
                self.said.refused.push(format!("`{path}` ({})", from.place));
            }
            Ok(Some(value)) => {
                self.said.given.push(Given { key, value, from, alias: path != key.path });
            }
            Err(why) if key.strict => return Err(impossible(&from.place, path, &why)),
            Err(why) => self.warn(node, format!("`{path}` is ignored: {why}")),
        }
        Ok(())
    }

    fn warn(&mut self, node: &Node, message: String) {
        self.said.warnings.push(Warning { place: self.origin(node).place, message });
    }

    fn origin(&self, node: &Node) -> Origin {
        Origin {
            layer: self.file.layer,
            place: format!("{}:{}", self.file.path.display(), node.line),
            profile: self.profile.map(str::to_owned),
        }
    }

    /// Orders spellings within one file: a setting's own path beats its aliases.
    fn finish(mut self) -> Said {
        self.said.given.sort_by_key(|given| !given.alias);
        self.said.entries.sort_by_key(|entry| entry.path.starts_with("providers."));
        self.said
    }
}

fn entries(node: &Node) -> &[(String, Node)] {
    match &node.data {
        Data::Map(entries) => entries,
        _ => &[],
    }
}

/// The node under a name.
pub(super) fn child<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    entries(node).iter().find(|(known, _)| known == name).map(|(_, node)| node)
}

/// What the environment says.
pub(super) fn environment(env: &BTreeMap<String, String>) -> Result<Said> {
    let mut said = Said::default();
    for key in KEYS {
        let mut set = key.env.iter().filter_map(|name| Some((*name, env.get(*name)?)));
        let Some((name, text)) = set.find(|(_, text)| !text.trim().is_empty()) else { continue };
        let from = Origin::env(name);
        match text::parse(key.kind, text) {
            Ok(value) => said.given.push(Given { key, value, from, alias: false }),
            Err(why) if key.strict => return Err(impossible(&from.place, key.path, &why)),
            Err(why) => said.warnings.push(Warning {
                place: from.place,
                message: format!("ignored for `{}`: {why}", key.path),
            }),
        }
    }
    Ok(said)
}

/// What the flags say: pairs of a setting's path and its text; a list's path may repeat.
pub(super) fn flags(flags: &[(String, String)]) -> Result<Said> {
    let mut said = Said::default();
    for (path, text) in flags {
        let key = keys::find(path).ok_or_else(|| {
            KernelError::new(ErrorCode::Usage, format!("there is no setting `{path}`"))
        })?;
        let from = Origin::flag(key.flag.unwrap_or(key.path));
        let value = text::parse(key.kind, text)
            .map_err(|why| KernelError::new(ErrorCode::Usage, format!("{}: {why}", from.place)))?;
        let earlier = said.given.iter_mut().find(|given: &&mut Given| given.key.path == key.path);
        match (earlier.map(|given| &mut given.value), value) {
            (Some(Value::Array(have)), Value::Array(more)) => have.extend(more),
            (Some(have), value) => *have = value,
            (None, value) => said.given.push(Given { key, value, from, alias: false }),
        }
    }
    Ok(said)
}

fn impossible(place: &str, path: &str, why: &str) -> KernelError {
    KernelError::new(ErrorCode::Config, format!("{place}: `{path}`: {why}"))
}

/// Stacks what every layer gave, lowest first, on the defaults.
pub(super) fn resolve(given: &[Given]) -> BTreeMap<&'static str, Setting> {
    KEYS.iter().map(|key| (key.path, stack_one(key, given))).collect()
}

fn stack_one(key: &Key, given: &[Given]) -> Setting {
    let default = key.default.and_then(|text| text::parse(key.kind, text).ok());
    let empty = if key.kind.is_list() { Value::Array(Vec::new()) } else { Value::Null };
    let mut setting = Setting { value: default.unwrap_or(empty), from: Origin::default_value() };
    for next in given.iter().filter(|given| given.key.path == key.path) {
        match (&mut setting.value, &next.value) {
            (Value::Array(have), Value::Array(more)) if key.merge == Merge::Append => {
                for item in more {
                    if !have.contains(item) {
                        have.push(item.clone());
                    }
                }
            }
            (have, value) => *have = value.clone(),
        }
        setting.from = next.from.clone();
    }
    setting
}
