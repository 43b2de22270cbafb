//! What a sandbox's toolbox is asked: files, and commands in shells that it keeps as sessions.

use std::cell::Cell;
use std::time::Duration;

use crabbox_plugin_sdk::{
    ErrorKind, Failure, HttpAuth, HttpBody, Part, Repeat, Socket, WsOpenParams,
};
use serde::Deserialize;
use serde_json::json;

use crate::api::Api;
use crate::sandboxes::Sandbox;

/// How long a small step of ours may take.
const STEP: Duration = Duration::from_secs(120);
/// Where files are uploaded to, the newer place first.
const UPLOADS: [&str; 2] = ["/files/upload-v2", "/files/upload"];
/// Bytes that mark lines of the two channels.
const MARKS: [char; 2] = ['\u{1}', '\u{2}'];

/// The toolbox of one sandbox, for one run.
pub(crate) struct Toolbox<'a> {
    pub(crate) api: Api<'a>,
    base: String,
    /// The session of the run, and the one that is used beside it while the command runs.
    sessions: [String; 2],
    opened: Cell<[bool; 2]>,
    running: Cell<bool>,
}

/// A command as the toolbox knows it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Command {
    #[serde(alias = "id")]
    pub(crate) cmd_id: String,
    pub(crate) exit_code: Option<i32>,
    output: Option<String>,
    stdout: Option<String>,
    stderr: Option<String>,
}

impl<'a> Toolbox<'a> {
    pub(crate) fn new(api: Api<'a>, sandbox: &Sandbox, run: &str) -> Result<Self, Failure> {
        let url = api.config.toolbox_url.as_deref().unwrap_or(&sandbox.toolbox_proxy_url);
        if url.is_empty() {
            return Err(Failure::transient("Daytona does not say where the sandbox's toolbox is"));
        }
        let base = format!("{}/{}", url.trim_end_matches('/'), sandbox.id);
        let sessions = [format!("crabbox-{run}"), format!("crabbox-{run}-stop")];
        Ok(Self { api, base, sessions, opened: Cell::default(), running: Cell::new(false) })
    }

    /// Runs a small program for sh; what it printed, when it succeeded.
    pub(crate) fn step(&self, program: &str, args: &[&str]) -> Result<String, Failure> {
        let words = [&["sh", "-c", program, "crabbox"], args].concat();
        let body = json!({ "command": shell(&words), "runAsync": false });
        let url = format!("{}/exec", self.session(usize::from(self.running.get()))?);
        let ended: Command = self
            .api
            .send("POST", &url, Repeat::Never, |request| request.json(&body).timeout(STEP))?
            .json()?;
        let plain = |text: Option<String>| text.unwrap_or_default().replace(MARKS, "");
        match ended.exit_code {
            Some(0) => Ok(plain(ended.stdout.filter(|text| !text.is_empty()).or(ended.output))),
            Some(code) => {
                let said = plain(ended.stderr.filter(|text| !text.is_empty()).or(ended.output));
                let last = said.lines().last().unwrap_or("it said nothing");
                let what =
                    format!("a preparing step in the sandbox ended with status {code}: {last}");
                Err(Failure::bootstrap(what))
            }
            None => Err(Failure::transient("a preparing step in the sandbox has no exit status")),
        }
    }

    /// Starts a command and does not wait for it; its id.
    pub(crate) fn start(&self, words: &[&str]) -> Result<String, Failure> {
        let body = json!({ "command": shell(words), "runAsync": true });
        let url = format!("{}/exec", self.session(0)?);
        self.running.set(true);
        let begun = self.api.send("POST", &url, Repeat::Never, |request| request.json(&body))?;
        Ok(begun.json::<Command>()?.cmd_id)
    }

    /// How a command that was started is.
    pub(crate) fn command(&self, id: &str) -> Result<Command, Failure> {
        let url = format!("{}/process/session/{}/command/{id}", self.base, self.sessions[0]);
        self.api.send("GET", &url, Repeat::Safe, |request| request)?.json()
    }

    /// Follows what a command prints, from its beginning.
    pub(crate) fn follow(&self, id: &str) -> Result<Socket<'a>, Failure> {
        let base = format!("{}/process/session/{}/command/{id}", self.base, self.sessions[0]);
        let call = self.api.call;
        let organization = self.api.config.organization_id.iter();
        let organization =
            organization.map(|id| ("x-daytona-organization-id".to_owned(), id.clone()));
        let split = ("x-daytona-split-output".to_owned(), "true".to_owned());
        call.websocket_with(WsOpenParams {
            call: call.id(),
            url: format!("{}/logs?follow=true", base.replacen("http", "ws", 1)),
            headers: organization.chain([split]).collect(),
            auth: Some(HttpAuth::Bearer(self.api.config.credential().to_owned())),
            protocols: Vec::new(),
            timeout_ms: None,
        })
    }

    /// Puts a file into the sandbox.
    pub(crate) fn upload(&self, path: &str, file: &Part) -> Result<(), Failure> {
        let mut sent = Err(Failure::internal("there is no place for uploads"));
        for place in UPLOADS {
            let url = format!("{}{place}", self.base);
            sent = self.api.send("POST", &url, Repeat::Safe, |request| {
                let time = self.api.call.time_left();
                let body = HttpBody::Multipart(vec![file.clone()]);
                request.query("path", path).body(body).timeout(time)
            });
            match &sent {
                Err(failure) if failure.kind() == ErrorKind::NotFound => {}
                _ => break,
            }
        }
        sent.map(drop)
    }

    /// The URL of a session, which exists from here on.
    fn session(&self, which: usize) -> Result<String, Failure> {
        let name = &self.sessions[which];
        let mut opened = self.opened.get();
        if !opened[which] {
            let url = format!("{}/process/session", self.base);
            let body = json!({ "sessionId": name });
            match self.api.send("POST", &url, Repeat::Safe, |request| request.json(&body)) {
                Err(failure) if failure.kind() != ErrorKind::Conflict => return Err(failure),
                _ => opened[which] = true,
            }
            self.opened.set(opened);
        }
        Ok(format!("{}/process/session/{name}", self.base))
    }
}

impl Drop for Toolbox<'_> {
    fn drop(&mut self) {
        for (name, _) in self.sessions.iter().zip(self.opened.get()).filter(|(_, opened)| *opened) {
            let url = format!("{}/process/session/{name}", self.base);
            // A session that stays costs little, and goes with the sandbox.
            let _ = self.api.request("DELETE", &url).send();
        }
    }
}

/// Words as a line for a shell.
fn shell(words: &[&str]) -> String {
    let quoted = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ")
}
