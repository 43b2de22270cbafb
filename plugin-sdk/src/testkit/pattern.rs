//! Patterns of a transcript: what a frame must look like, and what is remembered of it.

use std::collections::BTreeMap;

use serde_json::Value;

/// Values remembered by `$bind`.
#[derive(Debug, Clone, Default)]
pub(super) struct Bindings(BTreeMap<String, Value>);

/// What a pattern node means.
enum Node<'a> {
    Any,
    Bind(&'a str),
    Ref(&'a str),
    Text(fn(&str, &str) -> bool, &'a str),
    Set(&'a [Value]),
    Plain,
}

impl Bindings {
    /// Compares; the error names the place and both sides.
    pub(super) fn matches(&mut self, pattern: &Value, got: &Value) -> Result<(), String> {
        let before = self.clone();
        let result = self.compare(pattern, got, "");
        if result.is_err() {
            *self = before;
        }
        result
    }

    pub(super) fn try_match(&mut self, pattern: &Value, got: &Value) -> bool {
        self.matches(pattern, got).is_ok()
    }

    /// Puts remembered values where `$ref` stands.
    pub(super) fn fill(&self, value: &mut Value) -> Result<(), String> {
        if let Node::Ref(name) = node(value) {
            *value = self.recall(name)?.clone();
            return Ok(());
        }
        match value {
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.fill(item)),
            Value::Object(members) => members.values_mut().try_for_each(|item| self.fill(item)),
            _ => Ok(()),
        }
    }

    fn recall(&self, name: &str) -> Result<&Value, String> {
        self.0.get(name).ok_or_else(|| format!("nothing was bound to {name:?}"))
    }

    fn compare(&mut self, pattern: &Value, got: &Value, at: &str) -> Result<(), String> {
        match node(pattern) {
            Node::Any => Ok(()),
            Node::Bind(name) => {
                self.0.insert(name.to_owned(), got.clone());
                Ok(())
            }
            Node::Ref(name) => {
                let wanted = self.recall(name)?;
                if wanted == got { Ok(()) } else { Err(differ(at, wanted, got)) }
            }
            Node::Text(holds, part) if got.as_str().is_some_and(|text| holds(text, part)) => Ok(()),
            Node::Text(..) => Err(differ(at, pattern, got)),
            Node::Set(items) => self.unordered(items, pattern, got, at),
            Node::Plain => self.plain(pattern, got, at),
        }
    }

    fn plain(&mut self, pattern: &Value, got: &Value, at: &str) -> Result<(), String> {
        match (pattern, got) {
            (Value::Object(wanted), Value::Object(found)) => {
                wanted.iter().try_for_each(|(key, one)| {
                    let at = format!("{at}/{key}");
                    match (one.as_str() == Some("$absent"), found.get(key)) {
                        (true, None) => Ok(()),
                        (true, Some(value)) => Err(format!("at {at}: unexpected {value}")),
                        (false, None) => Err(format!("at {at}: missing")),
                        (false, Some(value)) => self.compare(one, value, &at),
                    }
                })
            }
            (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
                wanted.iter().zip(found).enumerate().try_for_each(|(i, (one, value))| {
                    self.compare(one, value, &format!("{at}/{i}"))
                })
            }
            _ if pattern == got => Ok(()),
            _ => Err(differ(at, pattern, got)),
        }
    }

    fn unordered(
        &mut self,
        items: &[Value],
        pattern: &Value,
        got: &Value,
        at: &str,
    ) -> Result<(), String> {
        let found = got.as_array().filter(|found| found.len() == items.len());
        let mut left: Vec<&Value> = found.ok_or_else(|| differ(at, pattern, got))?.iter().collect();
        for item in items {
            let place = left.iter().position(|value| self.try_match(item, value));
            left.remove(place.ok_or_else(|| differ(at, item, got))?);
        }
        Ok(())
    }
}

fn node(pattern: &Value) -> Node<'_> {
    match pattern {
        Value::String(word) if word == "$any" => Node::Any,
        Value::Object(members) if members.len() == 1 => match members.iter().next() {
            Some((key, Value::String(text))) => match &**key {
                "$bind" => Node::Bind(text),
                "$ref" => Node::Ref(text),
                "$starts" => Node::Text(|whole, part| whole.starts_with(part), text),
                "$ends" => Node::Text(|whole, part| whole.ends_with(part), text),
                "$contains" => Node::Text(|whole, part| whole.contains(part), text),
                _ => Node::Plain,
            },
            Some((key, Value::Array(items))) if key == "$set" => Node::Set(items),
            _ => Node::Plain,
        },
        _ => Node::Plain,
    }
}

fn differ(at: &str, wanted: &Value, got: &Value) -> String {
    let at = if at.is_empty() { "/" } else { at };
    format!("at {at}: expected {wanted}, received {got}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pattern_names_the_place_where_a_frame_differs() {
        let pattern = json!({"a": [{"b": 1}], "gone": "$absent"});
        let mut bindings = Bindings::default();
        assert_eq!(bindings.matches(&pattern, &json!({"a": [{"b": 1, "c": 2}]})), Ok(()));
        let error = bindings.matches(&pattern, &json!({"a": [{"b": 2}]})).unwrap_err();
        assert_eq!(error, "at /a/0/b: expected 1, received 2");
        let error = bindings.matches(&pattern, &json!({"a": [{"b": 1}], "gone": 0})).unwrap_err();
        assert_eq!(error, "at /gone: unexpected 0");
        assert!(bindings.matches(&json!({"missing": "$any"}), &json!({})).is_err());
    }

    #[test]
    fn what_was_bound_is_required_later_and_put_into_what_is_sent() {
        let mut bindings = Bindings::default();
        bindings.matches(&json!({"id": {"$bind": "x"}}), &json!({"id": "p7"})).unwrap();
        assert!(bindings.try_match(&json!({"$ref": "x"}), &json!("p7")));
        assert!(!bindings.try_match(&json!({"$ref": "x"}), &json!("p8")));
        let mut sent = json!({"id": {"$ref": "x"}});
        bindings.fill(&mut sent).unwrap();
        assert_eq!(sent, json!({"id": "p7"}));
        assert!(bindings.fill(&mut json!([{"$ref": "y"}])).is_err());
    }

    #[test]
    fn a_set_ignores_order_but_not_number() {
        let mut bindings = Bindings::default();
        let set = json!({"$set": [{"$starts": "b"}, "a"]});
        assert!(bindings.try_match(&set, &json!(["a", "bc"])));
        assert!(!bindings.try_match(&set, &json!(["a", "a"])));
        assert!(!bindings.try_match(&set, &json!(["a", "b", "c"])));
    }
}
