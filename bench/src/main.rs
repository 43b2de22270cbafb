//! Measures crabbox as its users meet it, beside what else one could type, and says how sure that is.

mod baselines;
mod cold;
mod edits;
mod effort;
mod launch;
mod plugins;
mod programs;
mod report;
mod repos;
mod round_trips;
mod row;
mod sample;
mod scan;
mod stage;
mod stream;
mod trace;
mod warm;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use report::{Machine, Outcome};
use row::Row;
use stage::{Choice, Stage};

/// An error is a sentence; nobody branches on it.
pub(crate) type Result<T, E = String> = std::result::Result<T, E>;

/// Name of each suite, and its rows.
const SUITES: &[(&str, &[Row])] = &[
    ("round-trips", round_trips::ROWS),
    ("programs", programs::ROWS),
    ("warm", warm::ROWS),
    ("scan", scan::ROWS),
    ("cold", cold::ROWS),
    ("stream", stream::ROWS),
    ("watch", watch::ROWS),
    ("plugins", plugins::ROWS),
];

const USAGE: &str = "usage: crabbox-bench [--quick] [--json FILE] [--bin FOLDER] [--scratch FOLDER] [SUITE|ROW]...\n\
                     suites: round-trips programs warm scan cold stream watch plugins; rows: R1, W3, ...\n\
                     --bin: where the crabbox to measure is; beside this program unless said otherwise\n\
                     --scratch: where trees are made; in memory (/dev/shm) where there is that\n";

/// What was asked for.
struct Asked {
    choice: Choice,
    json: Option<PathBuf>,
    names: Vec<String>,
}

fn main() -> ExitCode {
    match asked().and_then(|asked| measure(&asked.names, asked.choice, asked.json.as_deref())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("{why}\n"));
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the bench reads its command line and environment"
)]
fn asked() -> Result<Asked> {
    let here = std::env::current_exe().map_err(|e| e.to_string())?;
    let memory = Path::new("/dev/shm");
    let mut choice = Choice {
        binaries: here.parent().unwrap_or(Path::new("/")).to_path_buf(),
        scratch: if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() },
        registry: std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/registry/src")),
        quick: false,
    };
    let (mut json, mut names, mut args) = (None, Vec::new(), std::env::args().skip(1));
    while let Some(arg) = args.next() {
        let mut folder =
            || args.next().map(PathBuf::from).ok_or_else(|| format!("{arg} needs a path\n{USAGE}"));
        match arg.as_str() {
            "--quick" => choice.quick = true,
            "--json" => json = Some(folder()?),
            "--bin" => choice.binaries = folder()?,
            "--scratch" => choice.scratch = folder()?,
            name if known(name) => names.push(name.to_owned()),
            _ => return Err(format!("unknown: {arg}\n{USAGE}")),
        }
    }
    Ok(Asked { choice, json, names })
}

fn known(name: &str) -> bool {
    SUITES.iter().any(|(suite, rows)| *suite == name || rows.iter().any(|row| row.id == name))
}

fn measure(names: &[String], choice: Choice, json: Option<&Path>) -> Result<()> {
    let mut machine = Machine {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        load: (Machine::load(), String::new()),
        missing: Vec::new(),
        scratch: choice.scratch.display().to_string(),
    };
    let stage = Stage::set(choice)?;
    machine.missing = baselines::TOOLS
        .iter()
        .copied()
        .filter(|tool| stage.step(tool).arg("--version").start().is_err())
        .collect();
    say(&report::head(&machine));
    let chosen = |suite: &str, row: &Row| {
        names.is_empty() || names.iter().any(|n| n == suite || n == row.id)
    };
    let rows =
        SUITES.iter().flat_map(|(suite, rows)| rows.iter().filter(move |row| chosen(suite, row)));
    let mut outcomes = Vec::new();
    for row in rows {
        let outcome = Outcome { row, figures: (row.measure)(&stage) };
        say(&report::lines(&outcome));
        outcomes.push(outcome);
    }
    machine.load.1 = Machine::load();
    say(&format!("\nLoad {} at the end.\n", machine.load.1));
    if let Some(file) = json {
        let document = report::json(&machine, &outcomes);
        std::fs::write(file, format!("{document:#}\n"))
            .map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
fn say(text: &str) {
    print!("{text}");
}
