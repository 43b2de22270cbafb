//! Every `--json` document carries its version and fits the schema that is committed for it.

use std::fs;
use std::path::{Path, PathBuf};

use crabbox_tests::Room;
use serde_json::Value;

use crate::local::warm;

/// Fails unless a document fits a committed schema.
pub(crate) fn fits(schema: &str, document: &Value) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas");
    let path = dir.join(format!("{schema}.schema.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let validator = jsonschema::validator_for(&serde_json::from_str(&text).expect("a JSON schema"))
        .expect("a valid schema");
    let broken: Vec<String> = validator
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(broken.is_empty(), "{schema}: {broken:#?}\n{document:#}");
}

/// Fails unless a document, or each element of a list, carries its version.
fn versioned(what: &str, document: &Value) {
    let parts = document.as_array().cloned().unwrap_or_else(|| vec![document.clone()]);
    for part in parts {
        assert_eq!(part["schemaVersion"], 1, "{what}: {part:#}");
    }
}

/// Runs a command with `--json`; its document, checked for its version.
fn document(room: &Room, repo: &Path, words: &[&str]) -> Value {
    let ended = room.crabbox(repo, words.iter().copied().chain(["--json"])).ok();
    let document = ended.json();
    versioned(&words.join(" "), &document);
    document
}

/// A repository that was tested once with a JUnit report, and a warm box.
fn worked(room: &Room) -> (PathBuf, String) {
    let repo = room.repo("app");
    let report = "<testsuite name='s'><testcase name='good'/></testsuite>";
    fs::write(repo.join("r.xml"), report).expect("a report");
    let slug = warm(room, &repo);
    (repo, slug)
}

#[test]
fn documents_about_boxes_fit_their_schemas() {
    let room = Room::new();
    let (repo, slug) = worked(&room);
    let look = |words: &[&str]| document(&room, &repo, words);
    for words in [&["status"][..], &["inspect"], &["heartbeat"], &["warmup", "--slug", "second"]] {
        let view = look(words);
        fits("status", &view);
        assert_eq!(view["ready"], true, "{words:?}: {view:#}");
        let _ = room.crabbox(&repo, ["stop", "second"]).ok();
    }
    let list = look(&["list"]);
    fits("list", &list);
    assert_eq!(list[0]["Provider"], list[0]["provider"], "{list:#}");
    fits("claims", &look(&["claims", "list"]));
    fits("doctor", &look(&["doctor"]));
    fits("sync-plan", &look(&["sync-plan"]));
    for (schema, words) in [
        ("connect", &["ssh"][..]),
        ("providers", &["providers"]),
        ("provider", &["providers", "describe", "local"]),
        ("path", &["config", "path"]),
        ("version", &["version"]),
        ("cleanup", &["cleanup", "--dry-run"]),
        ("init", &["init"]),
        ("stop", &["stop", &slug]),
        ("daemon", &["daemon", "status"]),
        ("daemon-stop", &["daemon", "stop"]),
        ("daemon-stop", &["daemon", "stop"]),
    ] {
        fits(schema, &look(words));
    }
}

#[test]
fn the_settings_fit_their_schema_and_each_has_an_origin() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join(".crabbox.yaml"), "sync:\n  warnFiles: 7\ncolour: blue\n").unwrap();
    room.configure("aws:\n  region: eu-west-1\n");
    let shown = document(&room, &repo, &["config", "show"]);
    fits("config-show", &shown);
    assert_eq!(shown["sync"]["warnFiles"], 7, "{shown:#}");
    assert_eq!(shown["providers"]["aws"]["region"], "eu-west-1", "{shown:#}");
    assert_eq!(shown["aws"], shown["providers"]["aws"], "{shown:#}");
    let from = |path: &str| shown["origins"][path].as_str().unwrap_or_default().to_owned();
    assert!(from("sync.warnFiles").contains(".crabbox.yaml"), "{shown:#}");
    assert!(from("providers.aws.region").contains("config.yaml"), "{shown:#}");
    assert_eq!(shown["unused"][0]["path"], "colour", "{shown:#}");
    for file in shown["files"].as_array().unwrap() {
        assert!(file["mode"].as_str().is_some_and(|mode| mode.starts_with('0')), "{shown:#}");
    }
}

#[test]
fn documents_about_plugins_fit_their_schemas() {
    let room = Room::new();
    let here = room.path().to_owned();
    let look = |words: &[&str]| document(&room, &here, words);
    let made = look(&["plugin", "new", "--lang", "python", "rack"]);
    fits("plugin-new", &made);
    assert_eq!(made.get("build"), None, "{made:#}");
    fits("plugin-test", &look(&["plugin", "test", "rack", "--only", "M,R1", "--patience", "10"]));
    let broken = ["plugin", "test", "rack", "--only", "H2", "--json", "--provider", "rack"];
    fits("plugin-test", &room.crabbox(&here, broken).run().json());
    let packed = look(&["plugin", "pack", "rack"]);
    fits("plugin-pack", &packed);
    fits("path", &look(&["plugin", "path"]));
    let text = fs::read_to_string(here.join("rack/crabbox-plugin.toml")).unwrap();
    let id = text.lines().find_map(|line| line.strip_prefix("id = ")).unwrap().trim_matches('"');
    fs::create_dir_all(here.join("data/crabbox/plugins")).unwrap();
    fs::rename(here.join("rack"), here.join("data/crabbox/plugins/rack")).unwrap();
    let info = look(&["plugin", "info", id]);
    fits("plugin-info", &info);
    let [files, grants] = ["files", "grantsDigest"].map(|key| info[key].as_str().unwrap());
    let trusted = look(&["plugin", "trust", &format!("{id}@{files}"), "--grants", grants]);
    fits("plugin-trust", &trusted);
    assert_eq!(trusted["files"], info["files"], "{trusted:#}");
    fs::remove_dir_all(here.join("data/crabbox/plugins/rack")).unwrap();
    let package = packed["path"].as_str().unwrap();
    fits("plugin-install", &look(&["plugin", "install", package, "--grants", grants]));
    fits("plugin-install", &look(&["plugin", "update", id]));
    // The smallest component there is.
    fs::write(here.join("empty.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
    fits("plugin-imports", &look(&["plugin", "info", "empty.wasm"]));
    fits("plugin-list", &look(&["plugin", "list"]));
    fits("plugin-verify", &look(&["plugin", "verify"]));
    fits("plugin-remove", &look(&["plugin", "remove", id]));
    fits("plugin-gc", &look(&["plugin", "gc"]));
}

#[test]
fn what_a_provider_answers_a_question_fits_the_protocols_schema() {
    let room = Room::new();
    let (repo, slug) = worked(&room);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/plugin-protocol.schema.json");
    let protocol: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let id = serde_json::json!({"id": slug, "purpose": "status"}).to_string();
    for (method, params) in [("doctor", "{}"), ("lease.list", "{}"), ("lease.resolve", &id)] {
        let call = ["--json", "plugin", "run", "local", method, params];
        let answer = room.crabbox(&repo, call).ok().json();
        let mut schema = protocol["methods"][method]["result"].clone();
        schema["$defs"] = protocol["$defs"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        assert!(schema["$ref"].is_string() && validator.is_valid(&answer), "{method}: {answer:#}");
    }
}

#[test]
fn documents_about_runs_fit_their_schemas() {
    let room = Room::new();
    let (repo, slug) = worked(&room);
    let run =
        ["run", "--id", &slug, "--junit", "r.xml", "--label", "l", "--lease-output", "h.json"];
    let more =
        ["--timing-json", "--quiet", "--events", "jsonl:e.jsonl", "--json", "--", "echo", "x"];
    let ended = room.crabbox(&repo, run.iter().chain(&more).copied()).ok();
    fits("run", &ended.json());
    let timing = ended.err();
    let timing = timing.lines().find(|line| line.starts_with('{')).expect("a timing line");
    fits("timing", &serde_json::from_str(timing).unwrap());
    fits("lease-handle", &serde_json::from_slice(&fs::read(repo.join("h.json")).unwrap()).unwrap());
    let streamed = fs::read_to_string(repo.join("e.jsonl")).unwrap();
    let streamed: Vec<Value> =
        streamed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let recorded = document(&room, &repo, &["events"]);
    for event in streamed.iter().chain(recorded.as_array().unwrap()) {
        versioned("an event", event);
        fits("event", event);
    }
    for record in document(&room, &repo, &["history"]).as_array().unwrap() {
        fits("run", record);
    }
    fits("results", &document(&room, &repo, &["results"]));
    fits("run", &document(&room, &repo, &["attach"]));
    fits("run", &document(&room, &repo, &["wait"]));
    fits("logs", &document(&room, &repo, &["logs"]));
    for file in room.state_files("claims") {
        let text = fs::read(room.state().join("claims").join(file)).unwrap();
        fits("claim", &serde_json::from_slice(&text).unwrap());
    }
}

#[test]
fn failures_are_documents_too() {
    let room = Room::new();
    let repo = room.repo("app");
    for (words, status) in [
        (&["status", "--id", "nobody"][..], 4),
        (&["results"], 4),
        (&["run", "--provider", "moon", "--", "true"], 2),
        (&["stop"], 2),
        (&["no-such-command"], 2),
    ] {
        let ended =
            room.crabbox(&repo, ["--json"].iter().chain(words).copied()).run().expect(status);
        let document = ended.json();
        versioned(&words.join(" "), &document);
        fits("failure", &document);
        assert_eq!(document["error"]["exitCode"], status, "{document:#}");
    }
    let call = ["--json", "run", "--timeout", "1s", "--", "sleep", "60"];
    let run = room.crabbox(&repo, call).run().expect(124).json();
    fits("run", &run);
    assert_eq!(run["error"]["errorKind"], "command_timeout", "{run:#}");
}
