//! What the manifest says, without running anything.

use std::os::unix::fs::PermissionsExt;

use crabbox_schemas::manifest::SecretGrant;
use serde_json::Value;

use super::{Check, must};
use crate::bench::Bench;
use crate::peer::{Outcome, fault};

pub(super) const CHECKS: &[Check] = &[
    must(
        "M1",
        "the program that is run exists and can be executed",
        "The manifest",
        "correct `path` in [[artifact]], or `chmod +x` the program",
        program,
    ),
    must(
        "M2",
        "settings stay in the subset that becomes flags",
        "The manifest",
        "use plain values, choices, lists of text, and one level of objects",
        settings,
    ),
    must(
        "M3",
        "secrets have no default and are granted",
        "The manifest",
        "remove `default`, and list the setting under grants.secrets",
        secrets,
    ),
    must(
        "M4",
        "it says what it is and under which license",
        "The manifest",
        "fill in `description` and `license`",
        words,
    ),
];

fn program(bench: &Bench<'_>) -> Outcome {
    let entry = &bench.subject.entry;
    if let Err(e) = entry.artifact.metadata() {
        return fault(&entry.artifact.display().to_string(), "a file", e);
    }
    let program = &entry.program;
    let found = program.metadata().map(|facts| facts.permissions().mode() & 0o111 != 0);
    match found {
        Ok(true) => Ok(()),
        Ok(false) => fault(&program.display().to_string(), "a program", "it is not executable"),
        Err(e) => fault(&program.display().to_string(), "a program", e),
    }
}

fn settings(bench: &Bench<'_>) -> Outcome {
    let schema = bench.subject.entry.schema();
    if schema["type"] != "object" {
        return fault("the settings' schema", "`type: object`", &schema["type"]);
    }
    if let Some(beyond) = crabbox_plugins::beyond_subset(schema) {
        return fault("the settings' schema", "the keywords that crabbox checks", beyond);
    }
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let nested = property["properties"].is_object();
        let is_flag = |f: &crabbox_plugins::Flag| {
            f.config_key == *key || f.config_key.starts_with(&format!("{key}."))
        };
        if !bench.subject.entry.flags().iter().any(is_flag) {
            return fault(
                &format!("setting {key}"),
                "a plain value, a choice or a list of text",
                property,
            );
        }
        if !nested && property["description"].as_str().is_none_or(str::is_empty) {
            return fault(&format!("setting {key}"), "a description, which is its help", "none");
        }
    }
    Ok(())
}

fn secrets(bench: &Bench<'_>) -> Outcome {
    let entry = &bench.subject.entry;
    for flag in entry.flags().iter().filter(|flag| flag.secret) {
        if let Some(default) = &flag.default {
            return fault(&format!("secret {}", flag.config_key), "no default", default);
        }
        if !entry.manifest.grants.secrets.iter().any(|grant| grant.name == flag.config_key) {
            return fault(&format!("secret {}", flag.config_key), "a grant", "none");
        }
    }
    let grants = &entry.manifest.grants.secrets;
    let setting = |name: &str| entry.flags().iter().any(|flag| flag.config_key == name);
    let nowhere = |grant: &&SecretGrant| {
        !setting(&grant.name) && grant.env.is_empty() && grant.chain.is_none()
    };
    match grants.iter().find(nowhere) {
        Some(grant) => fault(
            &format!("grant of secret {}", grant.name),
            "a setting of that name, environment names, or a `chain`",
            Value::Null,
        ),
        None => Ok(()),
    }
}

fn words(bench: &Bench<'_>) -> Outcome {
    let manifest = &bench.subject.entry.manifest;
    for (name, text) in [("description", &manifest.description), ("license", &manifest.license)] {
        if text.trim().is_empty() {
            return fault(&format!("`{name}` in the manifest"), "a line", "nothing");
        }
    }
    Ok(())
}
