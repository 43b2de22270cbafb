//! The conformance kit on one of our providers, with recorded exchanges: as a program, and as a component.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::{Room, binaries, gone_without, plugin_folder};

/// One provider, and what is special about it.
#[derive(Debug, Default)]
pub struct Kit<'a> {
    /// Its name.
    pub provider: &'a str,
    /// Settings as `--set` takes them.
    pub set: &'a [&'a str],
    /// Exchanges beside those of its cassette.
    pub exchanges: Vec<String>,
    /// Checks it cannot pass, as its own file says why.
    pub limits: &'a [&'a str],
    /// How many checks must pass at least.
    pub least: u64,
}

impl Kit<'_> {
    /// Fails unless the provider passes with every runtime; without its component where somebody went without.
    pub fn passes_on_both_runtimes(&self) {
        self.passes("stdio");
        if !gone_without("CRABBOX_TEST_WASM", "a component of ours") {
            self.passes("wasm");
        }
    }

    fn passes(&self, runtime: &str) {
        let room = Room::new();
        let (folder, tape) = (plugin_folder(self.provider), room.at("tape.jsonl"));
        let recorded = fs::read_to_string(folder.join("tests/cassette.jsonl")).expect("a cassette");
        fs::write(&tape, format!("{recorded}{}\n", self.exchanges.join("\n"))).expect("a tape");
        let (folder, tape) = (folder.display().to_string(), tape.display().to_string());
        let words = ["plugin", "test", "--json", &folder, "--cassette", &tape];
        let words = words.into_iter().chain(["--runtime", runtime, "--patience", "10"]);
        let set = self.set.iter().flat_map(|setting| ["--set", setting]);
        let limits = self.limits.iter().flat_map(|check| ["--expect", check]);
        let words: Vec<_> = words.chain(set).chain(limits).collect();
        let cache = binaries().join("test-cache").display().to_string();
        let call = room.crabbox(room.path(), words).env("XDG_CACHE_HOME", cache);
        let ended = call.limit(Duration::from_secs(300)).run();
        let report = ended.json()["providers"][0].clone();
        let checks = report["checks"].as_array().expect("checks");
        let known = |id: &Value| id.as_str().is_some_and(|id| self.limits.contains(&id));
        let bad = checks.iter().filter(|check| check["verdict"] == "failed");
        let failed: Vec<_> = bad.filter(|check| !known(&check["id"])).collect();
        assert!(failed.is_empty(), "{runtime}: {failed:#?}");
        assert_eq!(ended.code, 0, "{runtime}: {ended}");
        assert!(report["passed"].as_u64() >= Some(self.least), "{runtime}: {ended}");
    }
}
