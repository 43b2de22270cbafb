//! Runs itself as a plugin that prints wherever it can, and checks that the wire stays clean.
//!
//! Without the usual test harness, because this program is both the plugin and its test.

use std::io::{Read, Write};
use std::process::ExitCode;

use crabbox_plugin_sdk::testkit::replay_binary;
use crabbox_plugin_sdk::*;

const MANIFEST: &str = include_str!("toy/crabbox-plugin.toml");

const EXCHANGE: &str = r#"
{"d":">","m":{"id":1,"method":"initialize","params":{"protocols":["1.0"],"kernel":{"name":"crabbox","version":"0.1.0"},"instance":{"provider":"toy"}}}}
{"d":"<","match":{"id":1,"result":{"plugin":{"id":"example.dev/toy"}}}}
{"d":">","m":{"id":2,"method":"lease.list","params":{"ctx":{"deadlineMs":60000,"graceMs":5000,"idem":"k"}}}}
{"d":"<","match":{"id":2,"result":{"leases":[],"complete":true}}}
"#;

struct Noisy;

impl SshLease for Noisy {
    fn acquire(&self, _call: &Call, _params: AcquireParams) -> Result<Lease, Failure> {
        Err(Failure::unsupported("this provider only makes noise"))
    }

    fn resolve(&self, _call: &Call, _params: ResolveParams) -> Result<Lease, Failure> {
        Err(Failure::not_found("nothing is here"))
    }

    fn list(&self, _call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        noise();
        let mut stolen = String::new();
        let read = std::io::stdin().read_to_string(&mut stolen);
        let complete = read.is_ok() && stolen.is_empty();
        Ok(ListResult { leases: Vec::new(), next_cursor: None, complete })
    }

    fn release(&self, _call: &Call, _params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        Ok(ReleaseOutcome::AlreadyGone)
    }
}

#[expect(clippy::disallowed_methods, reason = "a child that inherits what this process has")]
fn noise() {
    let _ = writeln!(std::io::stdout(), "a stray line of a plugin, as it should be");
    let _ = std::process::Command::new("/bin/echo").arg("a stray line of its child").status();
}

#[expect(clippy::disallowed_methods, reason = "the mark by which the kernel starts plugins")]
fn main() -> ExitCode {
    if std::env::var_os("CRABBOX_PLUGIN").is_some() {
        return serve_ssh_lease(MANIFEST, |_instance| Ok(Noisy));
    }
    let program = std::env::current_exe().expect("the path of this program");
    match replay_binary(&program, EXCHANGE) {
        Ok(()) => ExitCode::SUCCESS,
        Err(mismatch) => {
            let _ = writeln!(std::io::stderr(), "{mismatch}");
            ExitCode::FAILURE
        }
    }
}
