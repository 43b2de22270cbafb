//! Runs the tools a plugin was granted, to their end: the kit serves no others, and none that is talked with.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::plugin::{ExecParams, ExecResult, SecretText};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::bench::Subject;
use crate::host::CANARY;
use crate::peer::WORK;

/// What may be run, and where.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    granted: Vec<String>,
    path: String,
    env: BTreeMap<String, String>,
    folder: PathBuf,
}

impl Tools {
    pub(crate) fn of(subject: &Subject) -> Self {
        let mut env = subject.env.clone();
        env.insert("PATH".to_owned(), subject.user.path.clone());
        env.insert("HOME".to_owned(), subject.user.home.clone());
        Self {
            granted: crabbox_plugins::programs(&subject.entry, &subject.config),
            path: subject.user.path.clone(),
            env,
            folder: subject.state.path().to_owned(),
        }
    }

    /// Runs one; the error is a kind and a sentence.
    #[expect(clippy::disallowed_methods, reason = "the one place of the kit that starts tools")]
    pub(crate) fn run(&self, params: &ExecParams) -> Result<ExecResult, (ErrorKind, String)> {
        let tool = &params.tool;
        if !self.granted.contains(tool) {
            return Err((ErrorKind::GrantDenied, format!("the manifest asks for no tool {tool}")));
        }
        let found = std::env::split_paths(&self.path).map(|dir| dir.join(tool));
        let Some(file) = found.filter(|file| file.is_absolute()).find(|file| file.is_file()) else {
            return Err((ErrorKind::Unsupported, format!("{tool} is not installed")));
        };
        let given = params.env.iter().map(|(name, value)| match value {
            SecretText::Plain(text) => (name, text.as_str()),
            SecretText::Secret(_) => (name, CANARY),
        });
        let mut command = Command::new(file);
        command.args(&params.args).env_clear().envs(&self.env).envs(given);
        command.current_dir(&self.folder).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |e: std::io::Error| (ErrorKind::Unsupported, format!("{tool}: {e}"));
        let mut child = command.spawn().map_err(failed)?;
        let group = Pid::from_child(&child);
        let (input, text) = (child.stdin.take(), params.stdin.clone().unwrap_or_default());
        std::thread::spawn(move || input.map(|mut input| input.write_all(text.as_bytes())));
        let (done, ended) = channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let limit = Duration::from_millis(params.timeout_ms).min(WORK);
        let output = ended.recv_timeout(limit).map_err(|_| {
            let _ = kill_process_group(group, Signal::KILL);
            (ErrorKind::Timeout, format!("{tool} ran too long"))
        })?;
        let output = output.map_err(failed)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let exit_code = output.status.code().or(output.status.signal().map(|signal| 128 + signal));
        Ok(ExecResult {
            exit_code: exit_code.unwrap_or_default(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            truncated: false,
        })
    }
}
