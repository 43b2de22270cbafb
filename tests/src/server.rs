//! A server of tests that says where it is and serves until its input ends; and questions behind its back.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// Where the folder of a provider is.
pub fn plugin_folder(provider: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(provider)
}

/// One that runs; it ends, with all it started, when this is dropped.
pub(crate) struct Server {
    child: Child,
    /// The line it said first.
    pub(crate) said: String,
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "starts a server for tests")]
    pub(crate) fn start<S: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}, which test.sh installs: {e}", program.display()));
        let mut said = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut said).expect("it says where it is");
        Self { child, said: said.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Asks a server at an address such as `http://127.0.0.1:8080`.
pub(crate) fn ask(address: &str, method: &str, path: &str, body: &str) -> Value {
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).expect("it listens");
    let head = "host: fake\r\nconnection: close\r\ncontent-length";
    write!(stream, "{method} {path} HTTP/1.1\r\n{head}: {}\r\n\r\n{body}", body.len())
        .expect("a request");
    let (mut reader, mut length, mut line) = (BufReader::new(stream), 0, String::from("?"));
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line).expect("a head");
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    serde_json::from_slice(&body).expect("a document")
}
