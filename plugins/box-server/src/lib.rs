//! The SSH server of a box, for providers whose boxes have none of their own, and what ends a box in time.
//!
//! The local provider runs it beside its keeper; the container provider copies the program of this crate into a
//! container, where it is the first process.

mod contained;
pub mod deadline;
mod passwd;
pub mod processes;
pub mod program;
pub mod reaper;
pub mod server;
pub mod session;

use std::io::{self, Write};
use std::process::ExitCode;

/// What a life ends with that could not be led.
const CANNOT: u8 = 126;

/// The program in a container: the box itself, the short step that becomes a command, and two questions to the box.
pub fn main() -> ExitCode {
    let args = program::arguments();
    let words: Vec<_> = args.iter().map(|word| word.to_string_lossy()).collect();
    let ended = match words.iter().map(|word| &**word).collect::<Vec<_>>()[..] {
        ["--session", ..] => Err(session::run(&args[1..])),
        ["--contain", wanted] => contained::run(wanted),
        ["--facts"] => contained::facts(),
        ["--touch"] => contained::touch(),
        _ => Err(io::Error::other("crabbox starts this program by itself, inside a box")),
    };
    finish(ended)
}

/// Says on standard error what went wrong, if anything did.
pub fn finish(ended: io::Result<()>) -> ExitCode {
    let Err(error) = ended else { return ExitCode::SUCCESS };
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "crabbox: {error}");
    ExitCode::from(CANNOT)
}
