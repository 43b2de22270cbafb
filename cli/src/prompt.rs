//! Questions to the person, on the terminal itself and never in the streams.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;

use crabbox_host::Prompt;
use crabbox_remote::Ask;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// A way to ask for a passphrase without echo; `None` when no terminal is there.
pub(crate) fn passphrase() -> Option<Ask> {
    open().map(|_| Arc::new(|question: &str| ask(question, true)) as Ask)
}

/// A way for plugins to ask; `None` when no terminal is there.
pub(crate) fn questions() -> Option<Prompt> {
    open().map(|_| {
        Arc::new(|question: &crabbox_schemas::plugin::PromptParams| {
            let answer = ask(&question.message, question.kind == "secret")?;
            if question.kind != "confirm" {
                return Some(answer);
            }
            let yes = matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes");
            Some(if yes { "yes" } else { "no" }.to_owned())
        }) as Prompt
    })
}

/// Asks for a yes or a no; `None` when no terminal is there.
pub(crate) fn confirm(question: &str) -> Option<bool> {
    open()?;
    let answer = ask(&format!("{question} [y/N]"), false).unwrap_or_default();
    Some(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn open() -> Option<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty").ok()
}

fn ask(question: &str, hidden: bool) -> Option<String> {
    let mut tty = open()?;
    let before = tcgetattr(&tty).ok()?;
    let mut quiet = before.clone();
    if hidden {
        quiet.local_modes.remove(LocalModes::ECHO);
    }
    write!(tty, "{question}: ").ok()?;
    tcsetattr(&tty, OptionalActions::Flush, &quiet).ok()?;
    let mut answer = String::new();
    let read = BufReader::new(&tty).read_line(&mut answer);
    let _ = tcsetattr(&tty, OptionalActions::Flush, &before);
    if hidden {
        let _ = writeln!(tty);
    }
    read.ok().filter(|n| *n > 0).map(|_| answer.trim_end_matches(['\r', '\n']).to_owned())
}
