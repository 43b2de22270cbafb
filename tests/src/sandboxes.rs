//! The small services of `plugins/*/fake`: they really run commands, and misbehave when they are told to.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Ended, Room};

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
    port: u16,
    child: Child,
    dir: TempDir,
}

impl Fake {
    /// Starts the one of a plugin, which wants this key; it may be told more.
    #[expect(clippy::disallowed_methods, reason = "starts a server for tests")]
    pub fn start(plugin: &str, key: &str, more: &[&Path]) -> Self {
        let dir =
            tempfile::Builder::new().prefix(&format!("cbx-{plugin}-")).tempdir().expect("a folder");
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests live below it");
        let mut child = Command::new("python3")
            .arg(top.join("plugins").join(plugin).join("fake/server.py"))
            .args([dir.path().as_os_str(), key.as_ref()])
            .args(more)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3, which test.sh installs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a port");
        let port = line.trim().parse().expect("the fake prints its port");
        Self { port, child, dir }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
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
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the fake");
        let head = "host: fake\r\nconnection: close\r\ncontent-length";
        write!(stream, "{method} /_fake HTTP/1.1\r\n{head}: {}\r\n\r\n{body}", body.len())
            .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        serde_json::from_str(body).expect("a document")
    }
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
