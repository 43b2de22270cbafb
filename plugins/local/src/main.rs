//! `crabbox-provider-local`: boxes on this machine. One executable, four lives: the plugin, the keeper
//! of a box, the box's SSH server, and the short step that becomes a command.

mod boxes;
mod environment;
mod isolation;
mod keeper;
mod provider;
mod record;
mod settings;
mod surroundings;

use std::process::ExitCode;

use crabbox_box_server::{finish, program, server, session};
use crabbox_plugin_sdk::serve_ssh_lease;
use provider::Local;

fn main() -> ExitCode {
    let args = program::arguments();
    let ended = match args.split_first() {
        Some((life, rest)) if life == "--session" => Err(session::run(rest)),
        Some((life, [])) if life == "--serve-box" => server::run(),
        Some((life, [dir])) if life == "--keeper" => keeper::run(dir.into()),
        Some((life, [dir])) if life == "--launch" => keeper::launch(dir.into()),
        _ => return serve_ssh_lease(include_str!("../crabbox-plugin.toml"), Local::open),
    };
    finish(ended)
}
