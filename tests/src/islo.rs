//! The small Islo of `plugins/islo/fake`: it really runs commands, and misbehaves when it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Room;

/// The key it wants.
pub const KEY: &str = "ak-c4n4ry-51";

/// One that runs; it ends when this is dropped.
pub struct IsloFake {
    port: u16,
    child: Child,
    dir: TempDir,
}

impl IsloFake {
    /// Starts one, and makes it the room's provider.
    pub fn start(room: &Room) -> Self {
        let fake = Self::alone();
        fake.configure(room, "");
        fake
    }

    /// Starts one.
    #[expect(clippy::disallowed_methods, reason = "starts a server for tests")]
    pub fn alone() -> Self {
        let dir = tempfile::Builder::new().prefix("cbx-islo-").tempdir().expect("a folder");
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests live below it");
        let mut child = Command::new("python3")
            .arg(top.join("plugins/islo/fake/server.py"))
            .args([dir.path().as_os_str(), KEY.as_ref()])
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

    /// Writes the room's settings.
    pub fn configure(&self, room: &Room, more: &str) {
        room.configure(&format!(
            "provider: islo\nislo:\n  baseUrl: {}\n  apiKey: cmd:printf 'ak-%s-51' c4n4ry\n{more}",
            self.url()
        ));
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

impl Drop for IsloFake {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
