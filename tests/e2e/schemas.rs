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
    for words in [
        &["ssh"][..],
        &["providers"],
        &["providers", "describe", "local"],
        &["config", "path"],
        &["config", "show"],
        &["version"],
        &["cleanup", "--dry-run"],
        &["init"],
        &["stop", &slug],
    ] {
        let _ = look(words);
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
    fits("run", &document(&room, &repo, &["logs"])["run"]);
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
