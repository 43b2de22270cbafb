//! The small services of `plugins/*/fake`: they really run commands, and misbehave when they are told to.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{Server, ask};
use crate::{Ended, Room, plugin_folder};

/// How long a run may take.
const RUN: Duration = Duration::from_secs(60);

/// A checkout with changes that nobody committed.
pub fn dirty(room: &Room) -> PathBuf {
    let repo = room.repo("app");
    fs::write(repo.join("hello.txt"), "hello\nchanged\n").expect("a file");
    fs::write(repo.join("new file.txt"), "new\n").expect("a file");
    repo
}

/// A box that stays: its slug.
pub fn warm(room: &Room, repo: &Path) -> String {
    let ended = room.crabbox(repo, ["warmup", "--json"]).limit(RUN).ok();
    ended.json()["slug"].as_str().expect("a slug").to_owned()
}

/// Runs a line for sh on a box that stays.
pub fn on(room: &Room, repo: &Path, id: &str, line: &str) -> Ended {
    let words = ["run", "--id", id, "--timing-json", "--", "sh", "-c", line];
    room.crabbox(repo, words).limit(RUN).run()
}

/// How long the parts of such a run took.
pub fn timing(ended: &Ended) -> Value {
    let line =
        ended.err().lines().rfind(|line| line.starts_with('{')).expect("it tells").to_owned();
    serde_json::from_str(&line).expect("a document")
}

/// One that runs; it ends when this is dropped.
pub struct Fake {
    address: String,
    dir: TempDir,
    _server: Server,
}

impl Fake {
    /// Starts the one of a plugin, which wants this key; it may be told more.
    pub fn start(plugin: &str, key: &str, more: &[&Path]) -> Self {
        let dir =
            tempfile::Builder::new().prefix(&format!("cbx-{plugin}-")).tempdir().expect("a folder");
        let script = plugin_folder(plugin).join("fake/server.py");
        let args = [script.as_os_str(), dir.path().as_os_str(), key.as_ref()];
        let args = args.into_iter().chain(more.iter().map(|more| more.as_os_str()));
        let server = Server::start("python3".as_ref(), args);
        let port: u16 = server.said.parse().expect("the fake prints its port");
        Self { address: format!("http://127.0.0.1:{port}"), dir, _server: server }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.address.clone()
    }

    /// Changes how it behaves; see its own page.
    pub fn set(&self, change: &Value) {
        self.talk("POST", &change.to_string());
    }

    /// Answers the next request that fits with this instead; `done` says that it is carried out all the same.
    pub fn fault(&self, on: &str, status: u16, body: &Value, done: bool) {
        self.set(&json!({"faults": [{"on": on, "status": status, "body": body, "after": done}]}));
    }

    /// The sandboxes it has.
    pub fn boxes(&self) -> Vec<String> {
        texts(&self.talk("GET", "")["boxes"])
    }

    /// What it was asked so far, each as method and path.
    pub fn asked(&self) -> Vec<String> {
        texts(&self.talk("GET", "")["asked"])
    }

    /// A folder in a sandbox.
    pub fn folder(&self, name: &str, path: &str) -> PathBuf {
        self.dir.path().join(name).join(path)
    }

    /// What it tells of itself.
    pub fn told(&self) -> Value {
        self.talk("GET", "")
    }

    fn talk(&self, method: &str, body: &str) -> Value {
        ask(&self.address, method, "/_fake", body)
    }
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}
