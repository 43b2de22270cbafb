//! A service's own description as a judge between a provider and the service of these tests.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crabbox_tests::{Room, Running, binaries, eventually, gone_without, plugin_folder};

/// Prism's own program, unless somebody went without it.
fn program() -> Option<PathBuf> {
    if gone_without("CRABBOX_TEST_PRISM", "prism, the judge of what providers and services say") {
        return None;
    }
    let program = binaries().join("../clients/node_modules/@stoplight/prism-cli/dist/index.js");
    assert!(program.is_file(), "{} is missing: ./test.sh installs it", program.display());
    Some(program)
}

/// A proxy that checks every request and every answer against the description, and the requests it refused.
pub(crate) struct Prism {
    process: Running,
    pub(crate) address: String,
}

impl Prism {
    /// Judges by what is in a provider's folder of its service's description; `service` is what stands behind. None
    /// where nobody has prism.
    pub(crate) fn start(room: &Room, provider: &str, service: &str) -> Option<Self> {
        let program = program()?;
        let file = plugin_folder(provider).join("tests/openapi.json");
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
        Some(Self { process, address: format!("http://127.0.0.1:{port}") })
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
