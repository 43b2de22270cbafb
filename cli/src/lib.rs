//! The crabbox command: parse, gather the surroundings, run one command, report its status.

mod args;
mod checkout;
mod clock;
mod commands;
mod console;
mod context;
mod flags;
mod handle;
mod plugins;
mod prompt;
#[cfg(test)]
mod reference;
mod screen;
mod signals;
mod start;
mod terminal;
mod tools;
mod views;
mod warm;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::render::json;
use crabbox_plugins::Catalog;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::exit::UNREAD;

use crate::commands::Cli;
use crate::flags::Wanted;
use crate::terminal::Terminal;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    keep_memory_to_ourselves();
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let error = KernelError::new(ErrorCode::Internal, "cannot start").because(&error);
                return report(&Terminal::new(false, false, true), false, &error);
            }
        };
    let code = runtime.block_on(run());
    runtime.shutdown_background();
    code
}

/// Secrets pass through this process: it leaves no core dump, and other programs of its user do not look into it.
fn keep_memory_to_ourselves() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// The whole command line: ours, and the providers' flags that are wanted.
pub(crate) fn command_line(catalog: &Catalog, wanted: &Wanted) -> clap::Command {
    flags::add(Cli::command(), catalog, wanted)
}

async fn run() -> ExitCode {
    let outside = start::Outside::read();
    let catalog = outside.catalog();
    let nothing = Catalog::default();
    let known = catalog.as_ref().unwrap_or(&nothing);
    let matches = match parse(&outside, known) {
        Ok(matches) => matches,
        Err(error) => return other_tool(&outside, &error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&outside, &error),
    };
    let terminal = Terminal::new(cli.global.quiet, cli.global.debug, outside.no_colour());
    let json = cli.global.json;
    let ran: Result<i32> = async {
        let catalog = catalog?;
        let flags = flags::given(&matches);
        let ctx = outside.context(&cli, catalog, flags)?;
        if cli.command.tells_open_leases() {
            start::tell_open_leases(&ctx);
        }
        let ended = commands::run(&ctx, cli.command).await;
        // A command that was stopped because nobody reads it ends as a broken pipe ends a program.
        let stopped = ended.as_ref().map_or_else(|e| e.code.exit_status(), |status| *status);
        let interrupted = stopped == ErrorCode::Cancelled.exit_status();
        match ctx.terminal.loss() {
            _ if interrupted && ctx.terminal.is_unread() => Ok(UNREAD),
            Some(loss) if stopped == 0 => Err(loss),
            _ => ended,
        }
    }
    .await;
    terminal.settle();
    match ran {
        Ok(status) => exit(status),
        Err(error) => report(&terminal, json, &error),
    }
}

/// Reads the command line. What is unknown is looked for among all flags, so that a slip of the pen is recognized.
fn parse(outside: &start::Outside, catalog: &Catalog) -> clap::error::Result<clap::ArgMatches> {
    let read = |wanted: &Wanted| command_line(catalog, wanted).try_get_matches_from(&outside.words);
    match read(&outside.wanted(catalog)) {
        Err(error) if error.kind() == clap::error::ErrorKind::UnknownArgument => read(&Wanted::All),
        parsed => parsed,
    }
}

/// A command that is none of ours: a tool from beside this executable, or a mistake.
fn other_tool(outside: &start::Outside, error: &clap::Error) -> ExitCode {
    let unknown = error.kind() == clap::error::ErrorKind::InvalidSubcommand;
    match outside.tool().filter(|_| unknown) {
        Some(tool) => match tools::run(&tool, &outside.words) {
            Ok(status) => exit(status),
            Err(error) => report(&Terminal::new(false, false, true), false, &error),
        },
        None => usage(outside, error),
    }
}

/// A command line that cannot be parsed, or a request for help.
fn usage(outside: &start::Outside, error: &clap::Error) -> ExitCode {
    if error.use_stderr() && outside.words.iter().any(|w| w == "--json") {
        let text = error.to_string();
        let first =
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let failure = KernelError::new(ErrorCode::Usage, first)
            .hint("`crabbox help` lists commands and flags");
        return report(&Terminal::new(false, false, true), true, &failure);
    }
    let _ = error.print();
    exit(if error.use_stderr() { ErrorCode::Usage.exit_status() } else { 0 })
}

/// Tells a failure to people or programs; its status.
pub(crate) fn report(terminal: &Terminal, json: bool, error: &KernelError) -> ExitCode {
    if json {
        terminal.out_json(&json::failure(error, None));
    }
    terminal.fail(error);
    exit(error.code.exit_status())
}

/// A status this system can say; one it cannot say is still a failure.
fn exit(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
}
