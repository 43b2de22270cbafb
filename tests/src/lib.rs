//! What end-to-end tests stand on: a sealed room, a bounded process, a real OpenSSH server, odd trees.

mod blacksmith;
mod cloud;
mod daytona;
mod islo;
mod kit;
pub mod line;
#[cfg(target_os = "linux")]
pub mod netns;
mod podman;
mod process;
mod room;
pub mod sandboxes;
mod secrets;
mod server;
mod sshd;
mod tap;
mod template;
pub mod tree;

pub use blacksmith::Blacksmith;
pub use cloud::{Cloud, rights_on_page};
pub use daytona::{DaytonaFake, KEY as DAYTONA_KEY};
pub use islo::{IsloFake, KEY as ISLO_KEY};
pub use kit::Kit;
pub use podman::Podman;
pub use process::{Call, Ended, Running};
pub use room::Room;
pub use secrets::{holders, holds, memory_holds, minds_below};
pub use server::plugin_folder;
pub use sshd::Sshd;
pub use tap::tapped;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where Cargo put the binaries of this build.
pub fn binaries() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let deps = test.parent().expect("a file is in a folder");
    deps.parent().filter(|_| deps.ends_with("deps")).unwrap_or(deps).to_path_buf()
}

/// A binary of this build that a test needs; says how to build it when it is missing.
pub fn binary(name: &str) -> PathBuf {
    let path = binaries().join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// Asks until the answer is yes; panics with `what` when that takes longer than `limit`.
pub fn eventually(what: &str, limit: Duration, mut yes: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !yes() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether somebody turned off the tests that need `what`, with `name=0`. It says so, and `.ci/run` refuses it.
#[expect(clippy::disallowed_methods, reason = "a switch for machines that lack something")]
pub fn gone_without(name: &str, what: &str) -> bool {
    let refused = std::env::var_os(name).is_some_and(|value| value == "0");
    if refused {
        unproven(&format!("{what} ({name}=0)"));
    }
    refused
}

/// Says that a test proved nothing about `what`: to whoever reads its output, and in the file that `test.sh` sums up.
#[expect(clippy::disallowed_methods, reason = "where the sum is written")]
#[expect(clippy::print_stderr, reason = "whoever reads the log should see what was not tested")]
pub fn unproven(what: &str) {
    eprintln!("NOT TESTED: {what}");
    if let Some(file) = std::env::var_os("CRABBOX_TEST_UNPROVEN") {
        let sum = std::fs::OpenOptions::new().append(true).create(true).open(file);
        let noted = sum.and_then(|mut sum| sum.write_all(format!("{what}\n").as_bytes()));
        noted.expect("what was not tested can be noted");
    }
}
