//! The subset of JSON Schema: what is said of a mistake, and the same verdicts as a whole validator.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::schema::{TYPES, beyond, mismatch};

fn said(schema: Value, value: Value) -> String {
    assert_eq!(beyond(&schema), None);
    mismatch(&schema, &value).map(|wrong| wrong.to_string()).unwrap_or_default()
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_without_a_secret() {
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["host"], "properties": {
        "host": {"type": "string", "pattern": "^[a-z.]+$", "minLength": 2},
        "ports": {"type": "array", "items": {"type": "integer", "maximum": 65535}},
        "ssh": {"type": "object", "properties": {"key": {"type": "string", "x-crabbox-secret": true, "pattern": "^env:"}}},
        "size": {"enum": ["small", "large"]},
    }});
    for (value, wrong) in [
        (json!({}), "`host` is not set"),
        (json!({"host": "a.b", "colour": 1}), "`colour` is no setting of it"),
        (json!({"host": 7}), "at /host: 7 is not of type string"),
        (json!({"host": "A"}), "at /host: \"A\" does not match ^[a-z.]+$"),
        (json!({"host": "a"}), "at /host: \"a\" has fewer characters than 2"),
        (json!({"host": "ab", "ports": [22, 70000]}), "at /ports/1: 70000 is more than 65535"),
        (json!({"host": "ab", "ports": [1.5]}), "at /ports/0: 1.5 is not of type integer"),
        (
            json!({"host": "ab", "size": "huge"}),
            "at /size: \"huge\" is none of \"small\", \"large\"",
        ),
        (
            json!({"host": "ab", "ssh": {"key": "hunter2"}}),
            "at /ssh/key: its value does not match ^env:",
        ),
        (json!({"host": "ab", "ports": [22.0], "ssh": {"key": "env:KEY", "more": 1}}), ""),
    ] {
        assert_eq!(said(schema.clone(), value), wrong);
    }
}

#[test]
fn a_keyword_that_is_not_checked_is_refused_where_it_stands() {
    for (property, wrong) in [
        (json!({"oneOf": []}), "`oneOf` at /a is more than crabbox checks"),
        (json!({"items": {"$ref": "#"}}), "`$ref` at /a/* is more than crabbox checks"),
        (json!({"pattern": "("}), "`pattern` at /a cannot be \"(\""),
        (json!({"pattern": "^(?=x)"}), "`pattern` at /a cannot be \"^(?=x)\""),
        (json!({"type": "text"}), "`type` at /a cannot be \"text\""),
        (json!({"minimum": "1"}), "`minimum` at /a cannot be \"1\""),
        (json!({"required": "b"}), "`required` at /a cannot be \"b\""),
        (json!(true), "at /a is no object"),
    ] {
        assert_eq!(beyond(&json!({"properties": {"a": property}})).as_deref(), Some(wrong));
    }
    assert_eq!(beyond(&json!({"title": "x", "x-other": {"oneOf": 1}, "default": []})), None);
}

#[test]
fn the_settings_of_all_our_providers_are_in_the_subset() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut seen = 0;
    for folder in ["plugins", "tests/fixtures", "plugin-sdk"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap().flatten() {
            let path = entry.path().join("config.schema.json");
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            assert_eq!(beyond(&serde_json::from_str(&text).unwrap()), None, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 13, "{seen}");
}

fn plain() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        (-3i64..4).prop_map(Value::from),
        (-6i64..7).prop_map(|half| json!(half as f64 / 2.0)),
        "[ab0é]{0,4}".prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    plain().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|m| json!(m)),
        ]
    })
}

fn asked() -> impl Strategy<Value = (&'static str, Value)> {
    let kind = || prop::sample::select(TYPES);
    prop_oneof![
        kind().prop_map(|name| ("type", json!(name))),
        prop::collection::btree_set(kind(), 1..3).prop_map(|names| ("type", json!(names))),
        prop::collection::vec(plain(), 1..4).prop_map(|choices| ("enum", json!(choices))),
        value().prop_map(|only| ("const", only)),
        prop::sample::select(&["^a", "^[ab]+$", "0$", "^.{2}$"][..])
            .prop_map(|p| ("pattern", json!(p))),
        (prop::sample::select(&["minLength", "maxLength", "minItems", "maxItems"][..]), 0u64..4)
            .prop_map(|(word, n)| (word, json!(n))),
        (
            prop::sample::select(
                &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"][..]
            ),
            -4i64..5
        )
            .prop_map(|(word, half)| (word, json!(half as f64 / 2.0))),
        any::<bool>().prop_map(|open| ("additionalProperties", json!(open))),
        prop::collection::btree_set("[a-c]", 0..2).prop_map(|names| ("required", json!(names))),
    ]
}

fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop::collection::vec(asked(), 0..3)
        .prop_map(|keywords| keywords.into_iter().collect::<std::collections::BTreeMap<_, _>>())
        .boxed();
    leaf.clone().prop_map(|keywords| json!(keywords)).prop_recursive(3, 12, 3, move |inner| {
        (leaf.clone(), prop::collection::btree_map("[a-c]", inner.clone(), 0..3), inner).prop_map(
            |(mut keywords, properties, items)| {
                keywords.insert("properties", json!(properties));
                keywords.insert("items", items);
                json!(keywords)
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_is_that_of_a_validator_of_all_of_json_schema(schema in schema(), value in value()) {
        prop_assert_eq!(beyond(&schema), None);
        let whole = jsonschema::validator_for(&schema).unwrap();
        prop_assert_eq!(mismatch(&schema, &value).is_none(), whole.is_valid(&value), "{:?}", mismatch(&schema, &value));
    }
}
