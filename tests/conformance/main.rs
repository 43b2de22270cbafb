//! Every golden transcript of every first-party plugin, replayed against the real executable over a real pipe.

use std::fs;
use std::path::{Path, PathBuf};

use crabbox_plugin_sdk::testkit::replay_binary;
use crabbox_tests::binary;

fn plugins() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests live below the top");
    let folders =
        fs::read_dir(top.join("plugins")).expect("plugins").flatten().map(|entry| entry.path());
    // Those in other languages are tested by `crabbox plugin test`.
    folders
        .filter(|path| {
            ["Cargo.toml", "crabbox-plugin.toml"].iter().all(|name| path.join(name).is_file())
        })
        .collect()
}

fn transcripts(plugin: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(plugin.join("tests/transcripts"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    found.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect()
}

/// The sessions of a transcript: a blank line parts two when the next one greets or numbers its calls from 1 again.
fn sessions(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut parted = false;
    for line in text.lines() {
        let begins = parted && line.starts_with("{\"d\":\">\"") && line.contains("\"id\":1,");
        if begins && found.last().is_some_and(|session| session.contains("\"d\":\">\"")) {
            found.push(String::new());
        }
        parted = line.is_empty() || (parted && line.starts_with('#'));
        let session = found.last_mut().expect("there is always one");
        session.push_str(line);
        session.push('\n');
    }
    found
}

#[test]
fn every_transcript_holds_for_the_executable() {
    let mut count = 0;
    for plugin in plugins() {
        let name = plugin.file_name().expect("a name").to_string_lossy().into_owned();
        let program = binary(&format!("crabbox-provider-{name}"));
        for file in transcripts(&plugin) {
            let text = fs::read_to_string(&file).expect("a transcript");
            for session in sessions(&text) {
                replay_binary(&program, &session)
                    .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
                count += 1;
            }
        }
    }
    assert!(count >= 5, "only {count} sessions were found");
}

#[test]
fn every_plugin_comes_with_a_manifest_and_a_transcript() {
    let plugins = plugins();
    assert!(plugins.len() >= 2, "{plugins:?}");
    for plugin in plugins {
        assert!(!transcripts(&plugin).is_empty(), "{} has no transcript", plugin.display());
    }
}
