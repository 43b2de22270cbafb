//! What `config show` prints: every value with its origin, secrets only as present or absent.

use std::collections::BTreeMap;

use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::{AccessAuth, ConfigFileView, ConfigView, Presence, UnusedSetting};
use serde_json::{Map, Value, json};

use super::block::{Block, Property, same};
use super::keys::{KEYS, Key};
use super::settings::{Layer, Settings};
use super::text;

/// The block of one provider, as it is to be shown.
#[derive(Debug, Clone, Copy)]
pub struct ShownBlock<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// All names its block may have, as in [`super::BlockRequest::names`].
    pub names: &'a [&'a str],
    /// Top-level blocks that also mean this provider: the JSON repeats the block under these.
    pub config_aliases: &'a [String],
    /// Its schema's properties.
    pub properties: &'a [Property],
    /// The merged block.
    pub block: &'a Block,
}

/// Keys the original shows at the top level under another name.
const FLAT: [(&str, &str); 5] = [
    ("windows.mode", "windowsMode"),
    ("ssh.key", "sshKey"),
    ("ssh.user", "sshUser"),
    ("ssh.port", "sshPort"),
    ("ssh.fallbackPorts", "sshFallbackPorts"),
];

/// Everything in the configuration that has no effect, and why.
pub fn unused(settings: &Settings, blocks: &[ShownBlock<'_>]) -> Vec<UnusedSetting> {
    let item = |path: &str, origin: String, reason: &str| UnusedSetting {
        path: path.to_owned(),
        origin,
        reason: reason.to_owned(),
    };
    let mut unused: Vec<UnusedSetting> = KEYS
        .iter()
        .filter(|key| !key.used)
        .filter_map(|key| Some((key, settings.of(key)?)))
        .filter(|(_, setting)| setting.from.layer > Layer::Default)
        .map(|(key, setting)| {
            item(key.path, setting.from.to_string(), "this version does not act on it yet")
        })
        .collect();
    let unknown = settings.unknown.iter().map(|(path, from)| (path, from, "no such setting"));
    let foreign = settings.entries().iter().filter(|entry| {
        !blocks.iter().any(|block| block.names.iter().any(|name| same(name, &entry.block)))
    });
    let foreign = foreign.map(|entry| (&entry.path, &entry.from, "no installed provider uses it"));
    let strange = blocks.iter().flat_map(|b| b.block.unknown.iter().chain(&b.block.wrong));
    let strange = strange.map(|stray| (&stray.path, &stray.from, stray.why.as_str()));
    for (path, from, reason) in unknown.chain(foreign).chain(strange) {
        unused.push(item(path, from.to_string(), reason));
    }
    unused
}

/// One line a setting: path, value, origin; then what has no effect.
pub fn lines(settings: &Settings, blocks: &[ShownBlock<'_>]) -> Vec<String> {
    let mut rows: Vec<(String, String, String)> = KEYS
        .iter()
        .filter_map(|key| Some((key, settings.of(key)?)))
        .map(|(key, setting)| {
            (key.path.to_owned(), shown(key, &setting.value), setting.from.to_string())
        })
        .collect();
    for block in blocks {
        for (name, from) in &block.block.origins {
            let value = lookup(&block.block.values, name);
            let value = if is_secret(block, name) { json!("configured") } else { value };
            let path = format!("providers.{}.{name}", block.provider);
            rows.push((path, text::print(&value), from.to_string()));
        }
    }
    let width = |of: fn(&(String, String, String)) -> &String, most: usize| {
        rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0).min(most)
    };
    let (first, second) = (width(|row| &row.0, 44), width(|row| &row.1, 40));
    let mut lines: Vec<String> = rows
        .iter()
        .map(|(path, value, from)| format!("{path:<first$}  {value:<second$}  {from}"))
        .collect();
    lines.extend(
        unused(settings, blocks)
            .iter()
            .map(|u| format!("unused {} ({}): {}", u.path, u.origin, u.reason)),
    );
    lines
}

fn shown(key: &Key, value: &Value) -> String {
    match (key.secret, value) {
        (true, Value::Null) => "missing".to_owned(),
        (true, _) => "configured".to_owned(),
        (false, Value::Null) => "-".to_owned(),
        (false, Value::Array(items)) if items.is_empty() => "-".to_owned(),
        (false, value) => text::print(value),
    }
}

fn is_secret(block: &ShownBlock<'_>, name: &str) -> bool {
    block.properties.iter().any(|property| property.secret && property.name == name)
}

fn lookup(values: &Map<String, Value>, name: &str) -> Value {
    let found = match name.split_once('.') {
        Some((outer, inner)) => values.get(outer).and_then(|value| value.get(inner)),
        None => values.get(name),
    };
    found.cloned().unwrap_or_default()
}

/// The document of `config show --json`.
pub fn document(settings: &Settings, blocks: &[ShownBlock<'_>]) -> ConfigView {
    let (mut shown, mut origins) = (Map::new(), BTreeMap::new());
    for key in KEYS {
        let Some(setting) = settings.of(key) else { continue };
        origins.insert(key.path.to_owned(), setting.from.to_string());
        if !key.secret {
            place(&mut shown, flat(key.path), or_empty(&setting.value));
        }
    }
    let mut providers = BTreeMap::new();
    for block in blocks {
        let values = redacted(block);
        for (name, from) in &block.block.origins {
            origins.insert(format!("providers.{}.{name}", block.provider), from.to_string());
        }
        for alias in block.config_aliases {
            shown.entry(alias.clone()).or_insert_with(|| values.clone().into());
        }
        providers.insert(block.provider.to_owned(), values);
    }
    let presence = |path: &str| match has(settings, path) {
        true => Presence::Configured,
        false => Presence::Missing,
    };
    ConfigView {
        schema_version: SCHEMA_VERSION,
        settings: shown,
        server_type_explicit: settings.origin("serverType").layer > Layer::Default,
        broker_auth: presence("coordinatorToken"),
        broker_admin_auth: presence("broker.adminToken"),
        access_auth: access(settings),
        providers,
        origins,
        unused: unused(settings, blocks),
        files: files(settings),
    }
}

fn flat(path: &'static str) -> &'static str {
    FLAT.iter().find(|(known, _)| *known == path).map_or(path, |(_, name)| name)
}

fn or_empty(value: &Value) -> Value {
    if value.is_null() { json!("") } else { value.clone() }
}

/// Puts a value at a dotted path.
fn place(root: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            root.insert(path.to_owned(), value);
        }
        Some((outer, rest)) => {
            let branch = root.entry(outer).or_insert_with(|| Map::new().into());
            if let Value::Object(branch) = branch {
                place(branch, rest, value);
            }
        }
    }
}

fn has(settings: &Settings, path: &str) -> bool {
    settings.get(path).is_some_and(|setting| !setting.value.is_null())
}

fn access(settings: &Settings) -> AccessAuth {
    let [id, secret, token] = ["clientId", "clientSecret", "token"]
        .map(|name| has(settings, &format!("broker.access.{name}")));
    match (id, secret, token) {
        (true, true, true) => AccessAuth::Both,
        (true, true, false) => AccessAuth::ServiceToken,
        (false, false, true) => AccessAuth::Token,
        (false, false, false) => AccessAuth::Missing,
        _ => AccessAuth::Incomplete,
    }
}

/// A block's values, secrets replaced by `configured`.
fn redacted(block: &ShownBlock<'_>) -> Map<String, Value> {
    let mut values = block.block.values.clone();
    for name in block.block.origins.keys().filter(|name| is_secret(block, name)) {
        place(&mut values, name, json!("configured"));
    }
    values
}

fn files(settings: &Settings) -> Vec<ConfigFileView> {
    let each = settings.files.iter().map(|file| ConfigFileView {
        path: file.path.display().to_string(),
        kind: if file.layer.is_repository() { "repository" } else { "user" }.to_owned(),
        trusted: file.trusted,
        mode: file.mode.map(|mode| format!("{mode:04o}")),
    });
    each.collect()
}
