//! A service's own description as a judge between a provider and the service of these tests. It runs where variables
//! say that it is there, since neither belongs into this repository.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_tests::{Room, Running, eventually};

/// The value of a variable, or a word that this test proved nothing.
#[expect(
    clippy::disallowed_methods,
    reason = "what cannot be committed is named by the person who has it"
)]
pub(crate) fn given(name: &str, what: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).map(PathBuf::from);
    if value.is_none() {
        crabbox_tests::unproven(&format!("{what} ({name} is not set)"));
    }
    value
}

/// A proxy that checks every request and every answer against the description, and the requests it refused.
pub(crate) struct Prism {
    process: Running,
    pub(crate) address: String,
}

impl Prism {
    /// `program` is prism's own executable, `spec` the description, `service` what stands behind it.
    pub(crate) fn start(room: &Room, program: &Path, spec: &Path, service: &str) -> Self {
        let text = fs::read_to_string(spec).expect("the description can be read");
        // Ranges of status codes are written in capitals; the description has small letters.
        let text = text.replace("\"4xx\"", "\"4XX\"").replace("\"5xx\"", "\"5XX\"");
        let file = room.at("description.json");
        fs::write(&file, text).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let words = ["proxy", "-h", "127.0.0.1", "-p", &port.to_string(), "--errors"];
        let process = room
            .call("node")
            .arg(program)
            .args(words)
            .arg(file)
            .arg(service)
            .limit(Duration::from_secs(600))
            .start();
        eventually("prism", Duration::from_secs(60), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { process, address: format!("http://127.0.0.1:{port}") }
    }

    /// Lines in which it says what does not fit.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let said = self.process.stdout() + &self.process.stderr();
        let bad = said
            .lines()
            .filter(|line| line.contains("Violation") || line.contains("UNPROCESSABLE"));
        bad.map(str::to_owned).collect()
    }
}
