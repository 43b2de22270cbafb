//! The part of JSON Schema that settings may use. What a schema says beyond it is refused, never ignored.

use std::fmt;

use regex::Regex;
use serde_json::{Map, Value};

/// Keywords that ask for nothing; those that begin with `x-` are crabbox's or others'.
const REMARKS: &[&str] = &[
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "format",
    "readOnly",
    "writeOnly",
];

/// What a keyword asks of a value: `None` when the keyword itself is nonsense. Values of other types are let be.
type Rule = fn(asked: &Value, value: &Value) -> Option<bool>;

/// The keywords that look at one value, and what is wrong with one that fails.
const RULES: &[(&str, &str, Rule)] = &[
    ("type", "is not of type", of_type),
    ("enum", "is none of", |asked, value| {
        Some(asked.as_array()?.iter().any(|one| same(one, value)))
    }),
    ("const", "is not", |asked, value| Some(same(asked, value))),
    ("pattern", "does not match", pattern),
    ("minLength", "has fewer characters than", |asked, value| length(asked, value, |n, m| n >= m)),
    ("maxLength", "has more characters than", |asked, value| length(asked, value, |n, m| n <= m)),
    ("minimum", "is less than", |asked, value| number(asked, value, |n, m| n >= m)),
    ("maximum", "is more than", |asked, value| number(asked, value, |n, m| n <= m)),
    ("exclusiveMinimum", "is not more than", |asked, value| number(asked, value, |n, m| n > m)),
    ("exclusiveMaximum", "is not less than", |asked, value| number(asked, value, |n, m| n < m)),
    ("minItems", "has fewer entries than", |asked, value| entries(asked, value, |n, m| n >= m)),
    ("maxItems", "has more entries than", |asked, value| entries(asked, value, |n, m| n <= m)),
];

pub(crate) const TYPES: &[&str] =
    &["array", "boolean", "integer", "null", "number", "object", "string"];

/// What in a schema is outside the subset, and where.
pub fn beyond(schema: &Value) -> Option<String> {
    unsound(schema, "").err()
}

/// What is wrong with a value, and the JSON pointer of the part that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) at: String,
    what: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at.is_empty() {
            write!(f, "at {}: ", self.at)?;
        }
        f.write_str(&self.what)
    }
}

/// The first thing that is wrong with a value: both schema and value were read from files.
pub(crate) fn mismatch(schema: &Value, value: &Value) -> Option<Mismatch> {
    fits(schema, value, "").err()
}

fn unsound(schema: &Value, at: &str) -> Result<(), String> {
    let place = if at.is_empty() { "its top" } else { at };
    let keywords = schema.as_object().ok_or(format!("at {place} is no object"))?;
    // One value of each type that a rule looks into: with one of them it shows whether the rule makes sense.
    let probes = [Value::from(""), Value::from(0), Value::Array(Vec::new())];
    for (keyword, asked) in keywords {
        let sense = match keyword.as_str() {
            "properties" => {
                let properties =
                    asked.as_object().ok_or(format!("`properties` at {place} is no object"))?;
                for (name, property) in properties {
                    unsound(property, &format!("{at}/{name}"))?;
                }
                true
            }
            "items" => unsound(asked, &format!("{at}/*")).map(|()| true)?,
            "additionalProperties" => asked.is_boolean(),
            "required" => texts(asked).is_some(),
            word if REMARKS.contains(&word) || word.starts_with("x-") => true,
            word => match RULES.iter().find(|(keyword, ..)| *keyword == word) {
                Some((.., rule)) => probes.iter().all(|value| rule(asked, value).is_some()),
                None => return Err(format!("`{word}` at {place} is more than crabbox checks")),
            },
        };
        if !sense {
            return Err(format!("`{keyword}` at {place} cannot be {asked}"));
        }
    }
    Ok(())
}

fn fits(schema: &Value, value: &Value, at: &str) -> Result<(), Mismatch> {
    let Some(keywords) = schema.as_object() else { return Ok(()) };
    // Whoever writes a secret where only its place belongs shall not find it in a log.
    let hidden = keywords.get("x-crabbox-secret") == Some(&Value::Bool(true));
    let wrong_here = |what| Mismatch { at: at.to_owned(), what };
    for (keyword, wrong, rule) in RULES {
        if let Some(asked) = keywords.get(*keyword)
            && rule(asked, value) == Some(false)
        {
            let shown = if hidden { "its value".to_owned() } else { value.to_string() };
            return Err(wrong_here(format!("{shown} {wrong} {}", words(asked))));
        }
    }
    if let Value::Object(members) = value {
        object(keywords, members, at)?;
    }
    if let (Value::Array(entries), Some(each)) = (value, keywords.get("items")) {
        for (n, entry) in entries.iter().enumerate() {
            fits(each, entry, &format!("{at}/{n}"))?;
        }
    }
    Ok(())
}

fn object(
    keywords: &Map<String, Value>,
    members: &Map<String, Value>,
    at: &str,
) -> Result<(), Mismatch> {
    let wrong_here = |what| Err(Mismatch { at: at.to_owned(), what });
    let required = keywords.get("required").and_then(texts).unwrap_or_default();
    if let Some(missing) = required.into_iter().find(|name| !members.contains_key(*name)) {
        return wrong_here(format!("`{missing}` is not set"));
    }
    let properties = keywords.get("properties").and_then(Value::as_object);
    let closed = keywords.get("additionalProperties") == Some(&Value::Bool(false));
    for (name, member) in members {
        match properties.and_then(|known| known.get(name)) {
            Some(property) => fits(property, member, &format!("{at}/{name}"))?,
            None if closed => return wrong_here(format!("`{name}` is no setting of it")),
            None => {}
        }
    }
    Ok(())
}

/// What was asked for, as in a sentence.
fn words(asked: &Value) -> String {
    match asked {
        Value::String(text) => text.clone(),
        Value::Array(choices) => {
            choices.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn texts(asked: &Value) -> Option<Vec<&str>> {
    asked.as_array()?.iter().map(Value::as_str).collect()
}

fn of_type(asked: &Value, value: &Value) -> Option<bool> {
    let names = asked.as_str().map(|name| vec![name]).or_else(|| texts(asked))?;
    let is = |name: &str| match name {
        "array" => value.is_array(),
        "boolean" => value.is_boolean(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        "null" => value.is_null(),
        "number" => value.is_number(),
        "object" => value.is_object(),
        _ => value.is_string(),
    };
    names.iter().all(|name| TYPES.contains(name)).then(|| names.into_iter().any(is))
}

/// Whether two values are equal; a number is, however it is written.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            x == y || x.as_f64() == y.as_f64() && (x.is_f64() || y.is_f64())
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn pattern(asked: &Value, value: &Value) -> Option<bool> {
    let Some(text) = value.as_str() else { return Some(true) };
    Some(Regex::new(asked.as_str()?).ok()?.is_match(text))
}

fn length(asked: &Value, value: &Value, holds: fn(u64, u64) -> bool) -> Option<bool> {
    let asked = asked.as_u64()?;
    Some(value.as_str().is_none_or(|text| holds(text.chars().count() as u64, asked)))
}

fn entries(asked: &Value, value: &Value, holds: fn(u64, u64) -> bool) -> Option<bool> {
    let asked = asked.as_u64()?;
    Some(value.as_array().is_none_or(|entries| holds(entries.len() as u64, asked)))
}

fn number(asked: &Value, value: &Value, holds: fn(f64, f64) -> bool) -> Option<bool> {
    let asked = asked.as_f64()?;
    Some(value.as_f64().is_none_or(|number| holds(number, asked)))
}
