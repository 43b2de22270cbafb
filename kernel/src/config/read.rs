//! YAML into a tree that knows its lines, within bounds that make a hostile file harmless.

use std::fmt;
use std::io::Read;
use std::path::Path;

use crabbox_schemas::error::ErrorCode;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::error::{KernelError, Result};

/// Largest configuration file.
const MAX_BYTES: u64 = 1 << 20;

/// One node of a configuration file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) data: Data,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    /// Nothing, or an empty text: not set.
    Empty,
    /// A scalar: the text as written, and what YAML makes of it.
    Scalar { text: String, value: Value },
    /// A list.
    List(Vec<Node>),
    /// A mapping, in order.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The node as JSON.
    pub(super) fn to_json(&self) -> Value {
        match &self.data {
            Data::Empty => Value::Null,
            Data::Scalar { value, .. } => value.clone(),
            Data::List(items) => items.iter().map(Self::to_json).collect(),
            Data::Map(entries) => {
                Value::Object(entries.iter().map(|(k, v)| (k.clone(), v.to_json())).collect())
            }
        }
    }

    fn from_yaml(yaml: Spanned<Yaml>, source: &str) -> Self {
        let span = yaml.defined.span();
        let data = match yaml.value {
            Yaml::Null => Data::Empty,
            Yaml::Scalar(Value::String(text)) if text.is_empty() => Data::Empty,
            Yaml::Scalar(Value::String(text)) => {
                Data::Scalar { value: Value::String(text.clone()), text }
            }
            Yaml::Scalar(value) => {
                let written = span.byte_offset().zip(span.byte_len()).and_then(|(from, len)| {
                    let from = usize::try_from(from).ok()?;
                    source.get(from..from.checked_add(usize::try_from(len).ok()?)?)
                });
                let text = written.map_or_else(|| value.to_string(), |t| t.trim().to_owned());
                Data::Scalar { text, value }
            }
            Yaml::List(items) => {
                Data::List(items.into_iter().map(|item| Self::from_yaml(item, source)).collect())
            }
            Yaml::Map(entries) => Data::Map(
                entries.into_iter().map(|(k, v)| (k, Self::from_yaml(v, source))).collect(),
            ),
        };
        Self { line: yaml.referenced.line(), data }
    }
}

/// Reads a file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Node>> {
    let text = match open(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(KernelError::new(
                ErrorCode::Config,
                format!("cannot read configuration {}", path.display()),
            )
            .because(&error)
            .hint("fix the file or its permissions, or move it away"));
        }
    };
    parse(&text).map(Some).map_err(|(line, why)| {
        KernelError::new(ErrorCode::Config, format!("{}:{line}: {why}", path.display()))
            .hint("correct the YAML at that line")
    })
}

fn open(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

/// Reads a document; the error is a line and a reason.
pub(super) fn parse(text: &str) -> Result<Node, (u64, String)> {
    let mut options = serde_saphyr::Options::default();
    options.strict_booleans = true;
    options.with_snippet = false;
    let mut budget = serde_saphyr::Budget::default();
    budget.max_depth = 32;
    budget.max_nodes = 50_000;
    budget.max_events = 200_000;
    budget.max_aliases = 100;
    budget.max_documents = 1;
    options.budget = Some(budget);
    options.alias_limits.max_total_replayed_events = 50_000;
    options.alias_limits.max_replay_stack_depth = 8;
    let empty = text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#'));
    if empty {
        return Ok(Node { line: 1, data: Data::Map(Vec::new()) });
    }
    let yaml: Spanned<Yaml> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|e| (e.location().map_or(1, |l| l.line()), e.to_string()))?;
    let node = Node::from_yaml(yaml, text);
    match node.data {
        Data::Map(_) => Ok(node),
        Data::Empty => Ok(Node { data: Data::Map(Vec::new()), ..node }),
        _ => Err((node.line, "expected settings as `name: value`".to_owned())),
    }
}

/// What the YAML reader hands over.
enum Yaml {
    Null,
    Scalar(Value),
    List(Vec<Spanned<Yaml>>),
    Map(Vec<(String, Spanned<Yaml>)>),
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setting")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(v.into()))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(v.into()))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(v.into()))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(v.into()))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(v.into()))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Yaml, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Yaml::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Yaml::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(node: &'a Node, key: &str) -> &'a Node {
        let Data::Map(entries) = &node.data else { panic!("no map: {node:?}") };
        &entries.iter().find(|(k, _)| k == key).unwrap().1
    }

    #[test]
    fn values_know_their_line_and_their_text_as_written() {
        let node = parse("a: 1.10\nb:\n  c: on\n  d: [x, 010]\ne: \"\"\n").unwrap();
        let a = at(&node, "a");
        assert_eq!(a.line, 1);
        assert!(matches!(&a.data, Data::Scalar { text, .. } if text == "1.10"), "{a:?}");
        let c = at(at(&node, "b"), "c");
        assert_eq!((c.line, c.to_json()), (3, Value::from("on")));
        let Data::List(items) = &at(at(&node, "b"), "d").data else { panic!() };
        assert!(matches!(&items[1].data, Data::Scalar { text, .. } if text == "010"));
        assert_eq!(at(&node, "e").data, Data::Empty);
    }

    #[test]
    fn aliases_and_quotes_read_as_yaml_says() {
        let node = parse("a: &x 12\nb: *x\nc: '12'\n").unwrap();
        assert_eq!(at(&node, "b").to_json(), 12);
        assert!(matches!(&at(&node, "b").data, Data::Scalar { text, .. } if text == "12"));
        assert_eq!(at(&node, "c").to_json(), "12");
    }

    #[test]
    fn empty_files_are_empty_and_broken_ones_name_the_line() {
        for text in ["", "# nothing\n\n", "---\n"] {
            assert_eq!(parse(text).unwrap().data, Data::Map(Vec::new()), "{text:?}");
        }
        assert_eq!(parse("a: 1\nb: [\n").unwrap_err().0, 2);
        assert_eq!(parse("ok: 1\nok: 2\n").unwrap_err().0, 2);
        assert!(parse("- a\n- b\n").unwrap_err().1.contains("name: value"));
    }

    #[test]
    fn bombs_do_not_go_off() {
        let deep = "a: ".to_owned() + &"[".repeat(500) + &"]".repeat(500);
        assert!(parse(&deep).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 9].join(", ");
            bomb += &format!("a{i}: &a{i} [{refs}]\n");
        }
        assert!(parse(&bomb).is_err());
    }
}
