//! A setting's text into its value, and back into what a person reads.

use serde_json::Value;

use super::keys::Kind;
use super::read::{Data, Node};
use crate::time::{format_duration, parse_duration};

/// Reads a text; the error says what was expected.
pub fn parse(kind: Kind, text: &str) -> Result<Value, String> {
    let text = text.trim();
    let wrong = |expected: &str| format!("{text:?} is not {expected}");
    match kind {
        Kind::Text => Ok(text.into()),
        Kind::Bool => parse_bool(text).map(Value::from).ok_or_else(|| wrong("true or false")),
        Kind::Integer => {
            let digits = text.replace('_', "");
            digits.parse::<u64>().map(Value::from).map_err(|_| wrong("a whole number"))
        }
        Kind::Number => {
            let number = text.parse::<serde_json::Number>();
            number.map(Value::Number).map_err(|_| wrong("a number"))
        }
        Kind::Bytes => {
            let expected = "a number of bytes such as 1048576 or 64MiB";
            parse_bytes(text).map(Value::from).ok_or_else(|| wrong(expected))
        }
        Kind::BoxPath if is_absolute(text) => Ok(text.into()),
        Kind::BoxPath => Err(wrong("an absolute path")),
        Kind::Duration => parse_duration(text)
            .map(|time| format_duration(time).into())
            .ok_or_else(|| wrong("a duration such as 90m")),
        Kind::Port => parse_port(text).ok_or_else(|| wrong("a port between 1 and 65535")),
        Kind::List => Ok(split(text).map(Value::from).collect()),
        Kind::Ports if text.eq_ignore_ascii_case("none") => Ok(Value::Array(Vec::new())),
        Kind::Ports => split(text)
            .map(|port| parse_port(port).ok_or_else(|| wrong("ports between 1 and 65535")))
            .collect(),
        Kind::Table => match serde_json::from_str(text) {
            Ok(Value::Object(table)) => Ok(table.into()),
            _ => Err("this is not a JSON object".to_owned()),
        },
        Kind::Choice(words) => {
            let lower = text.to_ascii_lowercase();
            let known = words.iter().find(|known| **known == canonical(&lower));
            known
                .map(|w| Value::from(*w))
                .ok_or_else(|| wrong(&format!("one of {}", words.join(", "))))
        }
    }
}

/// Reads a node; `None` means not set.
pub(super) fn parse_node(kind: Kind, node: &Node) -> Result<Option<Value>, String> {
    match &node.data {
        Data::Empty => Ok(None),
        Data::Scalar { text, .. } => parse(kind, text).map(Some),
        Data::List(items) if kind.is_list() => {
            let each = items.iter().filter_map(|item| parse_item(kind, item).transpose());
            each.collect::<Result<Vec<_>, _>>().map(|items| Some(items.into()))
        }
        Data::List(_) => Err("expected one value, not a list".to_owned()),
        Data::Map(_) => Err("expected a value, not a mapping".to_owned()),
    }
}

fn parse_item(kind: Kind, item: &Node) -> Result<Option<Value>, String> {
    let one = if kind == Kind::Ports { Kind::Port } else { Kind::Text };
    match &item.data {
        Data::Empty => Ok(None),
        Data::Scalar { text, .. } => parse(one, text).map(Some),
        _ => Err("expected a list of plain values".to_owned()),
    }
}

/// What stands between commas; `[]` is none, as in a file.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let text = if text == "[]" { "" } else { text };
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn canonical(word: &str) -> &str {
    match word {
        "darwin" | "mac" | "osx" => "macos",
        "win" | "win32" => "windows",
        "wsl" => "wsl2",
        "ondemand" => "on-demand",
        other => other,
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn parse_port(text: &str) -> Option<Value> {
    let port: u16 = text.parse().ok()?;
    (port > 0).then(|| port.to_string().into())
}

/// `/work`, or `C:\\work` where the box runs Windows.
fn is_absolute(path: &str) -> bool {
    let drive = path.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    path.starts_with('/') || drive && [":\\", ":/"].contains(&path.get(1..3).unwrap_or_default())
}

fn parse_bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let number: u64 = text[..end].replace('_', "").parse().ok()?;
    let shift = match text[end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// A value as one line for people.
pub fn print(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(print).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::KEYS;
    use super::*;

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        for key in KEYS {
            if let Some(text) = key.default {
                parse(key.kind, text).unwrap_or_else(|why| panic!("{}: {why}", key.path));
            }
        }
    }

    #[test]
    fn texts_read_as_their_kind_says() {
        for (kind, text, value) in [
            (Kind::Bool, "YES", Value::from(true)),
            (Kind::Bool, "off", Value::from(false)),
            (Kind::Integer, "50_000", Value::from(50_000)),
            (Kind::Number, "1.5", Value::from(1.5)),
            (Kind::Bytes, "5GiB", Value::from(5_368_709_120_u64)),
            (Kind::Bytes, "12", Value::from(12)),
            (Kind::Duration, "90m", Value::from("1h30m0s")),
            (Kind::BoxPath, "/work/crabbox", Value::from("/work/crabbox")),
            (Kind::BoxPath, "C:\\crabbox", Value::from("C:\\crabbox")),
            (Kind::Port, "2222", Value::from("2222")),
            (Kind::Ports, "none", serde_json::json!([])),
            (Kind::Ports, "22, 2022", serde_json::json!(["22", "2022"])),
            (Kind::List, "a, b,,c", serde_json::json!(["a", "b", "c"])),
            (Kind::List, " [] ", serde_json::json!([])),
            (Kind::Ports, "[]", serde_json::json!([])),
            (Kind::Choice(&["linux", "macos"]), "Darwin", Value::from("macos")),
        ] {
            assert_eq!(parse(kind, text).unwrap(), value, "{kind:?} {text}");
        }
    }

    #[test]
    fn wrong_texts_are_refused_with_what_was_expected() {
        for (kind, text, said) in [
            (Kind::Bool, "maybe", "true or false"),
            (Kind::Integer, "-1", "whole number"),
            (Kind::Integer, "many", "whole number"),
            (Kind::Bytes, "5 parsecs", "64MiB"),
            (Kind::Bytes, "99999999999TiB", "64MiB"),
            (Kind::Duration, "soon", "90m"),
            (Kind::BoxPath, "work/crabbox", "absolute"),
            (Kind::BoxPath, "~/crabbox", "absolute"),
            (Kind::Port, "0", "65535"),
            (Kind::Port, "70000", "65535"),
            (Kind::Choice(&["linux", "macos"]), "plan9", "one of linux, macos"),
        ] {
            let why = parse(kind, text).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }
}
