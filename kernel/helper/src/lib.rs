//! The helper: the small program that serves trees and runs on a box.

mod attach;
mod blob;
mod checkout;
mod clock;
mod exec;
mod fault;
mod feed;
mod flight;
mod follow;
mod line;
mod link;
mod login;
mod out;
mod pool;
mod processes;
mod program;
mod runs;
mod seed;
mod serve;
mod spool;
mod stat;
pub mod tree;
mod trees;
mod worker;

use std::process::ExitCode;

pub use fault::Fault;

/// The program: its first argument says what it is this time.
pub fn main() -> ExitCode {
    let args = program::arguments();
    let Some((mode, rest)) = args.split_first() else { return ExitCode::from(64) };
    match mode.to_str() {
        Some("serve") => serve::serve(rest),
        Some("work") => worker::work(),
        Some("feed") => feed::feed(rest),
        Some("exec") => exec::exec(rest),
        Some("environ") => login::environ(),
        Some("seed") => seed::become_git(rest),
        _ => ExitCode::from(64),
    }
}
