//! `crabbox-provider-local`: boxes on this machine. One executable, four lives: the plugin, the keeper
//! of a box, the box's SSH server, and the short step that becomes a command.

mod deadline;
mod isolation;
mod keeper;
mod processes;
mod program;
mod reaper;
mod record;
mod server;
mod session;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let ended = match args.split_first() {
        Some((first, rest)) if first == "--session" => Err(session::run(rest)),
        Some((first, [])) if first == "--serve-box" => server::run(),
        Some((first, [dir])) if first == "--launch" => keeper::launch(dir.into()),
        Some((first, [dir])) if first == "--keeper" => keeper::run(dir.into()),
        _ => Ok(()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("crabbox: {error}\n").as_bytes(),
            );
            ExitCode::from(126)
        }
    }
}
