//! The runner's process: reads its arguments, finds the cache and the compiler, and serves.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crabbox_plugin_sdk::{Failure, Plugin};
use crabbox_wasm_runner::{Cache, Compile, Component, Settings, USAGE, command};

/// Exit status of a wrong command line, and of a plugin that was started by hand (EX_USAGE).
const USAGE_STATUS: u8 = 64;

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the runner reads its environment"
)]
fn main() -> ExitCode {
    let settings = match Settings::parse(std::env::args().skip(1), |name| std::env::var(name).ok())
    {
        Ok(settings) => settings,
        Err(wrong) => {
            say(&format!("{wrong}\nusage: {USAGE}"));
            return ExitCode::from(USAGE_STATUS);
        }
    };
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let Some(cache) = Cache::of_user(folder("XDG_CACHE_HOME"), folder("HOME")) else {
        return refuse(Failure::unsupported("there is no HOME to keep compiled code in"));
    };
    if !settings.command {
        return Component::plugin(settings, cache, Beside).serve_stdio();
    }
    if std::env::var_os("CRABBOX_PLUGIN").is_none_or(|mark| mark != "1") {
        say("this runs crabbox plugins; crabbox starts it by itself");
        return ExitCode::from(USAGE_STATUS);
    }
    match command(&settings, &cache, &Beside) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            say(&failure.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Refuses whoever greets us, with the reason.
fn refuse(failure: Failure) -> ExitCode {
    Plugin::refusing(failure).serve_stdio()
}

/// The compiler beside this program.
struct Beside;

impl Compile for Beside {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the runner starts a process"
    )]
    fn compile(&self, file: &Path, cache: &Cache, fuel: bool) -> Result<(), String> {
        let own = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
        let compiler = own.with_file_name("crabbox-wasm-compile");
        let mut tool = Command::new(&compiler);
        tool.args(fuel.then_some("--fuel")).arg("--cache").arg(cache.folder()).arg(file);
        tool.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let done = tool.output().map_err(|e| {
            format!(
                "the plugin has to be compiled, and {} cannot be started: {e}; install crabbox-wasm-compile beside crabbox",
                compiler.display()
            )
        })?;
        match done.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
        }
    }
}

/// One line for people; without a standard error there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
