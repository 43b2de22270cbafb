//! One command in a sandbox: its events, and the exit status without which nothing counts as done.

use std::time::Duration;

use crabbox_plugin_sdk::{Call, ErrorKind, Failure, HttpStream, Next, Outcome, Said, ServerEvent};
use serde_json::{Value, json};

use crate::api::Api;
use crate::sandboxes::path;

/// How long a small step of ours may take.
const STEP: Duration = Duration::from_secs(120);
/// Most bytes kept of what a small step prints.
const PRINTED: usize = 64 * 1024;

/// What to run, and where.
pub(crate) struct Exec<'a> {
    pub(crate) sandbox: &'a str,
    pub(crate) body: Value,
}

impl<'a> Exec<'a> {
    /// A small program for sh, and its arguments.
    pub(crate) fn sh(sandbox: &'a str, program: &str, args: &[&str]) -> Self {
        let words = [&["sh", "-c", program, "crabbox"], args].concat();
        Self { sandbox, body: json!({ "command": words }) }
    }

    pub(crate) fn begin<'c>(&self, api: &Api, call: &'c Call) -> Result<HttpStream<'c>, Failure> {
        api.open(call, &format!("{}/exec/stream", path(self.sandbox)), &self.body)
    }

    /// Runs a step of ours to its end; what it printed, when it succeeded.
    pub(crate) fn step(&self, api: &Api, call: &Call) -> Result<String, Failure> {
        let mut stream = self.begin(api, call)?;
        let (mut printed, mut complaint) = (Vec::new(), Vec::new());
        loop {
            match next(&mut stream, STEP)? {
                Some(Said::Stdout(text)) if printed.len() < PRINTED => printed.extend(text),
                Some(Said::Stderr(text)) if complaint.len() < PRINTED => complaint.extend(text),
                Some(Said::Exit(0)) => return Ok(String::from_utf8_lossy(&printed).into_owned()),
                Some(Said::Exit(code)) => {
                    let complaint = String::from_utf8_lossy(&complaint);
                    let last = complaint.lines().last().unwrap_or("it said nothing");
                    return Err(Failure::bootstrap(format!(
                        "a preparing step in the sandbox ended with status {code}: {last}"
                    )));
                }
                Some(_) => {}
                None => {
                    return Err(Failure::timeout("a preparing step in the sandbox took too long"));
                }
            }
        }
    }
}

/// The next event; none when nothing came in time. The end of the stream is an error: no exit status came.
pub(crate) fn next(stream: &mut HttpStream<'_>, wait: Duration) -> Result<Option<Said>, Failure> {
    match stream.event(wait) {
        Ok(Next::Item(event)) => said(event).map(Some),
        Ok(Next::Quiet) => Ok(None),
        Ok(Next::End) => Err(cut("the stream ended")),
        Err(failure) if failure.kind() == ErrorKind::Cancelled => Err(failure),
        Err(failure) => Err(cut(failure.message())),
    }
}

fn cut(why: &str) -> Failure {
    let what = format!("Islo gave no exit status of the command: {why}");
    Failure::transient(what)
        .outcome(Outcome::Uncertain)
        .hint("the command may have ended or may go on; it is not started again")
}

fn said(event: ServerEvent) -> Result<Said, Failure> {
    Ok(match &*event.event {
        "stdout" => Said::Stdout(event.data.into_bytes()),
        "stderr" => Said::Stderr(event.data.into_bytes()),
        "exit" => match event.data.trim().parse() {
            Ok(code) => Said::Exit(code),
            Err(_) => return Err(cut("its exit event holds no number")),
        },
        "error" => return Err(cut(event.data.lines().next().unwrap_or_default())),
        _ => Said::Nothing,
    })
}
