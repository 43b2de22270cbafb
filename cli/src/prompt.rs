//! Questions to the person, on the terminal itself and never in the streams.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;

use crabbox_host::Prompt;
use crabbox_remote::Ask;
use crabbox_schemas::plugin::PromptParams;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// A way to ask for a passphrase without echo; `None` when no terminal is there.
pub(crate) fn passphrase() -> Option<Ask> {
    open().map(|_| Arc::new(|question: &str| ask(question, true)) as Ask)
}

/// A way for plugins to ask; `None` when no terminal is there.
pub(crate) fn questions() -> Option<Prompt> {
    open().map(|_| {
        Arc::new(|question: &PromptParams| {
            let answer = ask(&wording(question), question.kind == "secret")?;
            match &*question.kind {
                "confirm" => {
                    let yes = matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes");
                    Some(if yes { "yes" } else { "no" }.to_owned())
                }
                "choice" => {
                    let number = answer.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
                    let chosen = number.and_then(|n| question.choices.get(n));
                    chosen.or_else(|| question.choices.iter().find(|c| **c == answer)).cloned()
                }
                "open-url" | "device-code" => Some(String::new()),
                _ => Some(answer),
            }
        }) as Prompt
    })
}

/// Asks for a yes or a no; `None` when no terminal is there.
pub(crate) fn confirm(question: &str) -> Option<bool> {
    open()?;
    let answer = ask(&format!("{question} [y/N]"), false).unwrap_or_default();
    Some(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A plugin's question as the person reads it.
fn wording(question: &PromptParams) -> String {
    let mut text = question.message.clone();
    for (n, choice) in question.choices.iter().enumerate() {
        text.push_str(&format!("\n  {} {choice}", n + 1));
    }
    if let Some(url) = &question.url {
        text.push_str(&format!("\n  open {url}"));
    }
    if let Some(code) = &question.code {
        text.push_str(&format!("\n  and type {code}"));
    }
    match &*question.kind {
        "choice" => text.push_str("\nnumber"),
        "open-url" | "device-code" => text.push_str("\nthen press Enter"),
        _ => {}
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_shows_what_can_be_chosen_where_to_go_and_what_to_type() {
        let question = |kind: &str| PromptParams {
            call: 1,
            kind: kind.to_owned(),
            message: "log in".to_owned(),
            choices: vec![],
            url: None,
            code: None,
        };
        assert_eq!(wording(&question("text")), "log in");
        let code = Some("ABCD".to_owned());
        let url = Some("https://example.dev/device".to_owned());
        let asked = wording(&PromptParams { url, code, ..question("device-code") });
        let shown = "log in\n  open https://example.dev/device\n  and type ABCD\nthen press Enter";
        assert_eq!(asked, shown);
        let choices = vec!["north".to_owned(), "south".to_owned()];
        let asked = wording(&PromptParams { choices, ..question("choice") });
        assert_eq!(asked, "log in\n  1 north\n  2 south\nnumber");
    }
}
