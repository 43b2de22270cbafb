//! The stdio transport: the only file that touches the process it runs in.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use crabbox_schemas::plugin::Instance;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio;

use crate::{DelegatedRun, Failure, Plugin, SshLease};

/// Exit status of a plugin that was started by hand (EX_USAGE).
const STARTED_BY_HAND: u8 = 64;

/// The `main` of a plugin whose provider hands out boxes.
pub fn serve_ssh_lease<P: SshLease>(
    manifest: &str,
    open: impl FnOnce(Instance) -> Result<P, Failure> + Send + 'static,
) -> ExitCode {
    Plugin::ssh_lease(manifest, open).serve_stdio()
}

/// The `main` of a plugin whose provider runs commands itself.
pub fn serve_delegated_run<P: DelegatedRun>(
    manifest: &str,
    open: impl FnOnce(Instance) -> Result<P, Failure> + Send + 'static,
) -> ExitCode {
    Plugin::delegated_run(manifest, open).serve_stdio()
}

impl Plugin {
    /// Serves the kernel that started this process, then says how to exit.
    ///
    /// Standard input and output move to private descriptors first, so that nothing this process or
    /// its children print by accident can reach the wire: it goes to standard error instead.
    pub fn serve_stdio(self) -> ExitCode {
        serve_process(|input, output| self.serve(input, output))
    }
}

/// Serves the kernel that started this process with `serve`, as [`Plugin::serve_stdio`] does.
#[cfg_attr(not(feature = "relay"), allow(unreachable_pub, reason = "for runners only"))]
pub fn serve_process(serve: impl FnOnce(File, File) -> Result<(), Failure>) -> ExitCode {
    if !started_by_crabbox() {
        say("this is a crabbox plugin; crabbox starts it by itself");
        return ExitCode::from(STARTED_BY_HAND);
    }
    let (input, output) = match private_stdio() {
        Ok(pair) => pair,
        Err(error) => {
            say(&format!("cannot take over standard input and output: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match serve(File::from(input), File::from(output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("{failure}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the mark by which the kernel starts plugins")]
fn started_by_crabbox() -> bool {
    std::env::var_os("CRABBOX_PLUGIN").is_some_and(|mark| mark == "1")
}

fn private_stdio() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let input = fcntl_dupfd_cloexec(stdio::stdin(), 3)?;
    let output = fcntl_dupfd_cloexec(stdio::stdout(), 3)?;
    let null = File::open("/dev/null")?;
    stdio::dup2_stdin(&null)?;
    stdio::dup2_stdout(stdio::stderr())?;
    Ok((input, output))
}

/// One line for people; without a standard error there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
