//! Manifests and settings, read without running anything.

#![expect(clippy::unwrap_used, reason = "the helpers of these tests may fail loudly too")]

use std::path::{Path, PathBuf};

use crabbox_kernel::error::KernelError;
use crabbox_plugins::{
    Catalog, FlagKind, Place, Places, Written, check_settings, discover, programs,
};
use crabbox_schemas::error::ErrorCode;
use serde_json::json;

fn plugin(dir: &Path, id: &str, provider: &str, alias: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let text = format!(
        "manifest = 1\nid = \"{id}\"\nversion = \"1.0.0\"\nprotocols = [\"1\"]\n\
         [[provider]]\nname = \"{provider}\"\naliases = [\"{alias}\"]\nkind = \"ssh-lease\"\n\
         targets = [\"linux\"]\n[[artifact]]\nruntime = \"stdio\"\npath = \"x\"\n"
    );
    std::fs::write(dir.join("crabbox-plugin.toml"), text).unwrap();
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/scripted")
}

fn places(root: &Path, developer: &[PathBuf]) -> Places {
    Places { developer: developer.to_vec(), ..Places::beside(&root.join("bin/crabbox")) }
}

fn names(catalog: &Catalog) -> Vec<&str> {
    catalog.providers().iter().map(|e| &*e.provider.name).collect()
}

fn told(error: &KernelError) -> String {
    format!("{error} {}", error.hint.as_deref().unwrap_or_default())
}

#[test]
fn plugins_are_found_beside_the_executable_and_in_named_folders() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    plugin(&root.join("bin/plugins/one"), "a/one", "one", "uno");
    plugin(&root.join("lib/crabbox/plugins/two"), "a/two", "two", "due");
    plugin(&root.join("elsewhere/three"), "a/three", "three", "tre");
    std::fs::create_dir_all(root.join("bin/plugins/empty")).unwrap();
    let catalog = discover(&places(root, &[fixture()]));
    assert_eq!(names(&catalog), ["one", "scripted", "scripted-delegated", "two"]);
    assert_eq!(catalog.find("UNO").unwrap().manifest.id, "a/one");
    assert!(catalog.find("tre").is_none() && catalog.embedded_default().is_none());
}

#[test]
fn a_repository_that_holds_the_executable_brings_no_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    std::fs::write(root.join("Cargo.toml"), "").unwrap();
    plugin(&root.join("plugins/evil"), "a/evil", "evil", "bad");
    let found = |programs: &str| {
        std::fs::create_dir_all(root.join(programs)).unwrap();
        discover(&Places::beside(&root.join(programs).join("crabbox"))).find("evil").is_some()
    };
    for programs in ["bin", ".tools/bin", "target/debug", "out/debug"] {
        assert!(!found(programs), "{programs}");
    }
    // Where Cargo built it, it was made from this very checkout.
    std::fs::write(root.join("target/CACHEDIR.TAG"), "").unwrap();
    assert!(found("target/debug") && !found(".tools/bin"));
}

#[test]
fn two_plugins_with_one_name_are_rivals_until_the_user_prefers_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    plugin(&root.join("bin/plugins/one"), "a/one", "one", "uno");
    plugin(&root.join("other"), "b/other", "uno", "x");
    let mut catalog = discover(&places(root, &[root.join("other")]));
    let ids = |catalog: &Catalog| -> Vec<String> {
        catalog.rivals("uno").map(|e| e.manifest.id.clone()).collect()
    };
    assert_eq!(ids(&catalog), ["a/one", "b/other"]);
    catalog.prefer(&[("uno".to_owned(), "b/other".to_owned())]);
    assert_eq!(ids(&catalog), ["b/other"]);
}

#[test]
fn of_one_plugin_in_two_places_the_better_place_counts() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    plugin(&root.join("bin/plugins/one"), "a/one", "one", "uno");
    plugin(&root.join("mine"), "a/one", "one", "eins");
    let catalog = discover(&Places { user: vec![root.join("mine")], ..places(root, &[]) });
    assert_eq!(names(&catalog), ["one"]);
    assert_eq!(catalog.providers()[0].place, Place::User);
    assert!(catalog.find("eins").is_some());
}

#[test]
fn a_broken_manifest_is_named_with_what_is_wrong_and_keeps_no_other_from_being_found() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    plugin(&root.join("bin/plugins/good"), "a/good", "good", "gut");
    let wrong = [
        ("Not An Id", "1.0.0", "x", "not publisher/name"),
        ("a/b", "one", "x", "not a semantic version"),
        ("a/b", "1.0.0", "../x", "not a path below its folder"),
        ("a/b", "1.0.0", "/bin/sh", "not a path below its folder"),
    ];
    for (id, version, path, words) in wrong {
        let bad = root.join("bad");
        plugin(&bad, id, "one", "uno");
        let manifest = bad.join("crabbox-plugin.toml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        let text = text.replace("\"1.0.0\"", &format!("\"{version}\""));
        std::fs::write(&manifest, text.replace("\"x\"", &format!("\"{path}\""))).unwrap();
        let catalog = discover(&places(root, &[bad]));
        assert_eq!(names(&catalog), ["good"]);
        let problem = told(&catalog.problems[0]);
        assert!(
            problem.contains("bad/crabbox-plugin.toml") && problem.contains(words),
            "{problem}"
        );
    }
}

#[test]
fn a_folder_that_did_not_change_is_known_from_the_index_and_one_that_did_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mine = root.join("mine");
    plugin(&mine, "a/one", "one", "uno");
    let index = root.join("index.json");
    let places =
        Places { user: vec![mine.clone()], index: Some(index.clone()), ..places(root, &[]) };
    assert_eq!(names(&discover(&places)), ["one"]);
    let kept = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, kept.replace("\"one\"", "\"known\"")).unwrap();
    assert_eq!(names(&discover(&places)), ["known"], "the index was asked");
    plugin(&mine, "a/one", "two", "due");
    assert_eq!(names(&discover(&places)), ["two"]);
    std::fs::write(&index, "garbage").unwrap();
    assert_eq!(names(&discover(&places)), ["two"]);
}

#[test]
fn a_schema_gives_flags_environment_names_and_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = discover(&places(dir.path(), &[fixture()]));
    let entry = catalog.find("puppet").unwrap();
    let flag = |key: &str| entry.flags().iter().find(|flag| flag.config_key == key).unwrap();
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
fn a_tool_in_braces_is_what_the_users_own_setting_names() {
    let dir = tempfile::tempdir().unwrap();
    let mine = dir.path().join("mine");
    plugin(&mine, "a/one", "one", "uno");
    let manifest = mine.join("crabbox-plugin.toml");
    let mut text = std::fs::read_to_string(&manifest).unwrap();
    text = text.replacen("[[artifact]]", "config-schema = \"s.json\"\n\n[[artifact]]", 1);
    text += "\n[grants]\nexec = [\"git\", \"/bin/sh\", \"{command}\", \"{steps}\", \"{theirs}\"]\n";
    std::fs::write(&manifest, text).unwrap();
    let schema = json!({"type": "object", "properties": {
        "command": {"type": "string", "x-crabbox-source": "user"},
        "steps": {"type": "object", "additionalProperties": true, "x-crabbox-source": "user"},
        "theirs": {"type": "string"},
    }});
    std::fs::write(mine.join("s.json"), schema.to_string()).unwrap();
    let catalog = discover(&places(dir.path(), &[mine]));
    let entry = catalog.find("one").unwrap();
    assert_eq!(entry.flags()[1].kind, FlagKind::Table);
    assert_eq!(entry.flags()[1].name, None);
    let config = json!({
        "command": "/opt/adapter",
        "steps": {"make": {"argv": ["~/bin/make", "x"]}, "list": {"steps": [{"argv": ["ls"]}]}},
        "theirs": "/bin/evil",
    });
    let programs = programs(entry, config.as_object().unwrap());
    assert_eq!(programs, ["git", "/opt/adapter", "~/bin/make", "ls"]);
}

#[test]
fn a_wrong_setting_is_pointed_at() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = discover(&places(dir.path(), &[fixture()]));
    let entry = catalog.find("scripted").unwrap();
    let written = [("ssh-port", "config.yaml:7"), ("limits.maxBoxes", "env BOXES")];
    let written = written.map(|(key, place)| (key.to_owned(), place.to_owned()));
    let written = Written(written.into());
    for (config, words) in [
        (
            json!({"ssh-port": "many"}),
            "config.yaml:7: bad setting for provider scripted: at /ssh-port",
        ),
        (json!({"limits": {"maxBoxes": 0}}), "env BOXES: bad setting"),
        (json!({"colour": "red"}), "colour"),
        (json!({"token": "hunter2"}), "must name where the secret lives"),
    ] {
        let error = check_settings(entry, config.as_object().unwrap(), &written).unwrap_err();
        assert_eq!(error.code, ErrorCode::Config);
        assert!(told(&error).contains(words), "{}", told(&error));
        assert!(!told(&error).contains("hunter2"));
    }
    let fine = json!({"token": "env:T", "limits": {"maxBoxes": 2}});
    check_settings(entry, fine.as_object().unwrap(), &written).unwrap();
}
