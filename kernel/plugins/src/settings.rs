//! A provider's settings: checked against its schema, and turned into flags and environment names.

use std::collections::BTreeMap;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::catalog::Entry;
use crate::schema;

/// One setting of a provider, as the command line and the environment see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flag {
    /// Long flag without dashes; `None` when the schema hides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Environment names, first wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Key below the provider's block; a dot separates the one level of nesting.
    pub config_key: String,
    /// What values it takes.
    pub kind: FlagKind,
    /// One line for `--help`.
    pub help: String,
    /// Used when nobody says anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Its value is a reference such as `env:NAME`, never the secret itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
    /// A repository's file may not set it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub user_only: bool,
    /// The kernel's setting that counts when nobody set this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
}

/// What values a flag takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlagKind {
    /// Any text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// `--x` and `--no-x`.
    Boolean,
    /// Texts, by repeating the flag.
    List,
    /// A mapping with any names: a part of the configuration, and a flag of JSON where the schema names one.
    Table,
    /// One of these.
    Choice(Vec<String>),
}

/// Where a secret may live.
const REFERENCES: &[&str] = &["env:", "file:", "keyring:", "cmd:"];

/// The flags a settings schema gives; properties outside the supported subset give none.
pub(crate) fn flags(provider: &str, schema: &Value) -> Vec<Flag> {
    let mut flags = Vec::new();
    for (key, property) in properties(schema) {
        match flag(provider, key, property) {
            Some(flag) => flags.push(flag),
            None => flags.extend(properties(property).filter_map(|(inner, property)| {
                flag(provider, &format!("{key}.{inner}"), property)
            })),
        }
    }
    flags
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn flag(provider: &str, key: &str, property: &Value) -> Option<Flag> {
    let kind = kind(property)?;
    let word = |name: &str| property.get(name).and_then(Value::as_str);
    let kebab = kebab(key);
    let name = match property.get("x-crabbox-flag") {
        Some(Value::Bool(false)) => None,
        Some(Value::String(name)) => Some(name.trim_start_matches('-').to_owned()),
        _ if kind == FlagKind::Table => None,
        _ => Some(format!("{provider}-{kebab}")),
    };
    let secret = property.get("x-crabbox-secret") == Some(&Value::Bool(true));
    let mut env = vec![shout(&format!("crabbox-{provider}-{kebab}"))];
    match property.get("x-crabbox-env") {
        Some(Value::String(name)) => env.push(name.clone()),
        Some(Value::Array(names)) => {
            env.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        _ => {}
    }
    env.dedup();
    Some(Flag {
        name,
        env,
        config_key: key.to_owned(),
        kind,
        help: word("description").unwrap_or_default().to_owned(),
        default: property.get("default").cloned(),
        secret,
        // Where a secret is, and the command that prints it, is the user's to say.
        user_only: secret || word("x-crabbox-source") == Some("user"),
        fallback: word("x-crabbox-fallback").map(str::to_owned),
    })
}

fn kind(property: &Value) -> Option<FlagKind> {
    if let Some(choices) = property.get("enum").and_then(Value::as_array) {
        let choices = choices.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        return Some(FlagKind::Choice(choices));
    }
    match property.get("type").and_then(Value::as_str)? {
        "string" => Some(FlagKind::Text),
        "integer" => Some(FlagKind::Integer),
        "number" => Some(FlagKind::Number),
        "boolean" => Some(FlagKind::Boolean),
        "array" => {
            (property.pointer("/items/type") == Some(&json!("string"))).then_some(FlagKind::List)
        }
        "object" => {
            (property.get("additionalProperties") == Some(&json!(true))).then_some(FlagKind::Table)
        }
        _ => None,
    }
}

/// `workRoot` and `ssh.port` as `work-root` and `ssh-port`.
fn kebab(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        match c {
            '.' | '_' => out.push('-'),
            c if c.is_ascii_uppercase() => {
                if !out.is_empty() && !out.ends_with('-') {
                    out.push('-');
                }
                out.push(c.to_ascii_lowercase());
            }
            c => out.push(c),
        }
    }
    out
}

fn shout(kebab: &str) -> String {
    kebab.replace('-', "_").to_ascii_uppercase()
}

/// Checks the schema of a provider's settings.
pub(crate) fn check_schema(entry: &Entry) -> Result<()> {
    let Some(beyond) = schema::beyond(entry.schema()) else { return Ok(()) };
    let name = &entry.provider.name;
    let what = format!("the {name} plugin's settings schema is unusable: {beyond}");
    Err(KernelError::new(ErrorCode::Config, what)
        .hint("docs/protocol.md, \"The manifest\", lists the keywords; its author can check more in config.validate"))
}

/// Where each of a provider's settings was written, by [`Flag::config_key`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written(pub BTreeMap<String, String>);

impl Written {
    /// The place of what a JSON pointer names, or of what that is in.
    pub fn at(&self, pointer: &str) -> Option<&str> {
        let mut key = pointer.trim_start_matches('/').replace('/', ".");
        while !self.0.contains_key(&key) {
            key.truncate(key.rfind('.')?);
        }
        self.0.get(&key).map(String::as_str)
    }
}

/// Checks a provider's settings; the error points at the first setting that is wrong.
pub fn check(entry: &Entry, config: &Map<String, Value>, written: &Written) -> Result<()> {
    let name = &entry.provider.name;
    check_schema(entry)?;
    if let Some(wrong) = schema::mismatch(entry.schema(), &Value::Object(config.clone())) {
        let place = written.at(&wrong.at).map(|place| format!("{place}: ")).unwrap_or_default();
        let what = format!("{place}bad setting for provider {name}: {wrong}");
        return Err(KernelError::new(ErrorCode::Config, what)
            .hint(format!("`crabbox providers describe {name}` lists its settings")));
    }
    entry.flags().iter().filter(|flag| flag.secret).try_for_each(|flag| {
        match lookup(config, &flag.config_key).and_then(Value::as_str) {
            Some(text) if !REFERENCES.iter().any(|kind| text.starts_with(kind)) => {
                Err(literal(name, flag))
            }
            _ => Ok(()),
        }
    })
}

fn literal(provider: &str, flag: &Flag) -> KernelError {
    KernelError::new(
        ErrorCode::Config,
        format!("provider {provider}: {} must name where the secret lives", flag.config_key),
    )
    .hint("write env:NAME, file:PATH, keyring:SERVICE/USER or cmd:COMMAND instead of the secret")
}

fn lookup<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((outer, inner)) => config.get(outer)?.get(inner),
        None => config.get(key),
    }
}

/// The settings as the plugin gets them: secrets become `{"$secret": key}`.
pub fn hide_secrets(flags: &[Flag], config: &Map<String, Value>) -> Map<String, Value> {
    let mut config = config.clone();
    for flag in flags.iter().filter(|flag| flag.secret) {
        let place = match flag.config_key.split_once('.') {
            Some((outer, inner)) => config.get_mut(outer).and_then(|value| value.get_mut(inner)),
            None => config.get_mut(&flag.config_key),
        };
        if let Some(place) = place {
            *place = json!({"$secret": flag.config_key});
        }
    }
    config
}
