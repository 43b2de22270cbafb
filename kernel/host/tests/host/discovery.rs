//! Manifests and settings, read without running anything.

use std::path::Path;

use crabbox_host::{FlagKind, check_settings, discover};
use crabbox_schemas::error::ErrorCode;
use serde_json::json;

use crate::stage::{Stage, fixture, told};

fn plugin(dir: &Path, id: &str, provider: &str, alias: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let text = format!(
        "manifest = 1\nid = \"{id}\"\nversion = \"1.0.0\"\nprotocols = [\"1\"]\n\
         [[provider]]\nname = \"{provider}\"\naliases = [\"{alias}\"]\nkind = \"ssh-lease\"\n\
         targets = [\"linux\"]\n[[artifact]]\nruntime = \"stdio\"\npath = \"x\"\n"
    );
    std::fs::write(dir.join("crabbox-plugin.toml"), text).unwrap();
}

#[test]
fn plugins_are_found_beside_the_executable_and_in_named_folders() {
    let stage = Stage::new();
    let root = stage.dir.path();
    plugin(&root.join("bin/plugins/one"), "a/one", "one", "uno");
    plugin(&root.join("lib/crabbox/plugins/two"), "a/two", "two", "due");
    plugin(&root.join("elsewhere/three"), "a/three", "three", "tre");
    std::fs::create_dir_all(root.join("bin/plugins/empty")).unwrap();
    let catalog = stage.catalog();
    let names: Vec<_> = catalog.providers().iter().map(|e| &*e.provider.name).collect();
    assert_eq!(names, ["one", "scripted", "scripted-delegated", "two"]);
    assert_eq!(catalog.find("UNO").unwrap().manifest.id, "a/one");
    assert!(catalog.find("tre").is_none() && catalog.embedded_default().is_none());
}

#[test]
fn two_plugins_with_one_name_are_an_error_that_names_both() {
    let stage = Stage::new();
    let root = stage.dir.path();
    plugin(&root.join("bin/plugins/one"), "a/one", "one", "uno");
    plugin(&root.join("other"), "b/other", "uno", "x");
    let error = discover(&stage.exe(), &[root.join("other")]).unwrap_err();
    assert_eq!(error.code, ErrorCode::Config);
    assert!(told(&error).contains("plugins a/one and b/other both offer a provider called uno"));
}

#[test]
fn a_broken_manifest_is_named_with_what_is_wrong() {
    let stage = Stage::new();
    let dir = stage.dir.path().join("bad");
    plugin(&dir, "Not An Id", "one", "uno");
    let error = discover(&stage.exe(), &[dir]).unwrap_err();
    assert!(told(&error).contains("bad/crabbox-plugin.toml"), "{}", told(&error));
    assert!(told(&error).contains("not publisher/name"), "{}", told(&error));
}

#[test]
fn a_schema_gives_flags_environment_names_and_kinds() {
    let stage = Stage::new();
    let catalog = stage.catalog();
    let entry = catalog.find("puppet").unwrap();
    let flag = |key: &str| entry.flags.iter().find(|flag| flag.config_key == key).unwrap();
    let root = flag("work-root");
    assert_eq!(root.name.as_deref(), Some("scripted-work-root"));
    assert_eq!(root.env, ["CRABBOX_SCRIPTED_WORK_ROOT"]);
    assert_eq!(flag("ssh-port").kind, FlagKind::Integer);
    assert_eq!(flag("ssh-port").default, Some(json!(22)));
    assert_eq!(flag("ssh-host-keys").kind, FlagKind::List);
    assert_eq!(flag("color").kind, FlagKind::Choice(vec!["red".into(), "green".into()]));
    assert_eq!(flag("eager").name, None);
    assert_eq!(flag("token").env, ["CRABBOX_SCRIPTED_TOKEN", "SCRIPTED_TOKEN"]);
    assert!(flag("token").secret && flag("authorized-keys").user_only);
    let nested = flag("limits.maxBoxes");
    assert_eq!(nested.name.as_deref(), Some("scripted-boxes"));
    assert_eq!(nested.env, ["CRABBOX_SCRIPTED_LIMITS_MAX_BOXES"]);
}

#[test]
fn a_wrong_setting_is_pointed_at() {
    let stage = Stage::new();
    let catalog = stage.catalog();
    let entry = catalog.find("scripted").unwrap();
    for (config, words) in [
        (json!({"ssh-port": "many"}), "at /ssh-port"),
        (json!({"limits": {"maxBoxes": 0}}), "at /limits/maxBoxes"),
        (json!({"colour": "red"}), "colour"),
        (json!({"token": "hunter2"}), "must name where the secret lives"),
    ] {
        let error = check_settings(entry, config.as_object().unwrap()).unwrap_err();
        assert_eq!(error.code, ErrorCode::Config);
        assert!(told(&error).contains(words), "{}", told(&error));
        assert!(!told(&error).contains("hunter2"));
    }
    let fine = json!({"token": "env:T", "limits": {"maxBoxes": 2}});
    check_settings(entry, fine.as_object().unwrap()).unwrap();
    assert!(fixture().exists());
}
