//! `crabbox-provider-local`: boxes on this machine. One executable, four lives: the plugin, the keeper
//! of a box, the box's SSH server, and the short step that becomes a command.

mod boxes;
mod deadline;
mod environment;
mod isolation;
mod keeper;
mod processes;
mod program;
mod provider;
mod reaper;
mod record;
mod server;
mod session;
mod settings;

use std::io::Write;
use std::process::ExitCode;

use crabbox_plugin_sdk::serve_ssh_lease;
use provider::Local;

/// What a life ends with that could not be led.
const CANNOT: u8 = 126;

fn main() -> ExitCode {
    let args = program::arguments();
    let ended = match args.split_first() {
        Some((life, rest)) if life == "--session" => Err(session::run(rest)),
        Some((life, [])) if life == "--serve-box" => server::run(),
        Some((life, [dir])) if life == "--keeper" => keeper::run(dir.into()),
        Some((life, [dir])) if life == "--launch" => keeper::launch(dir.into()),
        _ => return serve_ssh_lease(include_str!("../crabbox-plugin.toml"), Local::open),
    };
    let Err(error) = ended else { return ExitCode::SUCCESS };
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "crabbox: {error}");
    ExitCode::from(CANNOT)
}
