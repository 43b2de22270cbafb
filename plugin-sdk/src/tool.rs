//! Tools on the user's machine, by the names in the manifest's grants: run to their end, or talked with.

use std::time::Duration;

use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::plugin::{
    ExecKillParams, ExecOpened, ExecParams, ExecRead, ExecReadParams, ExecResult, ExecWriteParams,
    SecretText,
};
use crabbox_wire::payload::{self, MAX_CHUNK};

use crate::call::{bytes_of, millis};
use crate::doors::{ExecKill, ExecOpen, ExecReadOn, ExecRun, ExecWrite};
use crate::{Call, Channel, Failure, Next};

/// How long a tool may run when nobody says.
const PATIENCE: Duration = Duration::from_secs(60);

/// A tool that is about to be run.
#[derive(Debug)]
#[must_use = "nothing is run before `run` or `open`"]
pub struct Tool<'a> {
    call: &'a Call,
    params: ExecParams,
}

/// A tool that runs. Dropping it kills its process group.
#[derive(Debug)]
pub struct Process<'a> {
    call: &'a Call,
    name: String,
    exit_code: Option<i32>,
    signal: Option<i32>,
}

impl Call {
    /// A tool the manifest's grants name.
    pub fn tool(&self, name: &str) -> Tool<'_> {
        let params = ExecParams {
            call: self.id(),
            tool: name.to_owned(),
            args: Vec::new(),
            stdin: None,
            env: Default::default(),
            lease_key: None,
            checkout: false,
            timeout_ms: millis(PATIENCE),
        };
        Tool { call: self, params }
    }
}

impl<'a> Tool<'a> {
    /// Adds arguments, passed exactly.
    pub fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.params.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds the path of the private key the kernel made for this lease; the plugin never sees the key.
    pub fn lease_key(mut self, lease: &LeaseId) -> Self {
        self.params.args.push("{lease-key}".to_owned());
        self.params.lease_key = Some(lease.clone());
        self
    }

    /// Runs it in the user's checkout.
    pub fn in_checkout(mut self) -> Self {
        self.params.checkout = true;
        self
    }

    /// Text for its standard input.
    pub fn stdin(mut self, text: impl Into<String>) -> Self {
        self.params.stdin = Some(text.into());
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.params.env.insert(name.to_owned(), SecretText::Plain(value.into()));
        self
    }

    /// Sets a variable to the secret of this handle; its grant must have the mode `exec`.
    pub fn secret_env(mut self, name: &str, handle: impl Into<String>) -> Self {
        self.params.env.insert(name.to_owned(), SecretText::Secret(handle.into()));
        self
    }

    /// How long it may run; a minute without.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.params.timeout_ms = millis(time);
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Result<ExecResult, Failure> {
        self.call.ask::<ExecRun>(&self.params)
    }

    /// Starts it, to be talked with.
    pub fn open(self) -> Result<Process<'a>, Failure> {
        let opened: ExecOpened = self.call.ask::<ExecOpen>(&self.params)?;
        Ok(Process { call: self.call, name: opened.process, exit_code: None, signal: None })
    }
}

impl Process<'_> {
    /// What it prints next. After the end, [`exit_code`](Self::exit_code) says how it ended.
    pub fn read(&mut self, wait: Duration) -> Result<Next<(Channel, Vec<u8>)>, Failure> {
        if self.exit_code.is_some() {
            return Ok(Next::End);
        }
        let (call, process) = (self.call.id(), self.name.clone());
        let params = ExecReadParams { call, process, timeout_ms: Some(millis(wait)) };
        let read: ExecRead = self.call.ask::<ExecReadOn>(&params)?;
        (self.exit_code, self.signal) = (read.exit_code, read.signal);
        let channel =
            if read.ch.as_deref() == Some("stderr") { Channel::Stderr } else { Channel::Stdout };
        Ok(match (bytes_of(read.text, read.b64)?, read.exit_code) {
            (Some(bytes), _) => Next::Item((channel, bytes)),
            (None, Some(_)) => Next::End,
            (None, None) => Next::Quiet,
        })
    }

    /// Writes to its standard input.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        bytes.chunks(MAX_CHUNK).try_for_each(|piece| {
            let (text, b64) = payload::pack(piece);
            self.feed(text, b64, false)
        })
    }

    /// Ends its standard input.
    pub fn end_input(&self) -> Result<(), Failure> {
        self.feed(None, None, true)
    }

    fn feed(&self, text: Option<String>, b64: Option<String>, end: bool) -> Result<(), Failure> {
        let (call, process) = (self.call.id(), self.name.clone());
        let params = ExecWriteParams { call, process, text, b64, end };
        self.call.ask::<ExecWrite>(&params).map(drop)
    }

    /// Asks it to end, and ends its process group after the grace.
    pub fn kill(&self, grace: Duration) -> Result<(), Failure> {
        self.end(grace, false)
    }

    /// The same as from the user's terminal, with SIGINT.
    pub fn interrupt(&self, grace: Duration) -> Result<(), Failure> {
        self.end(grace, true)
    }

    fn end(&self, grace: Duration, interrupt: bool) -> Result<(), Failure> {
        let (call, process) = (self.call.id(), self.name.clone());
        let params = ExecKillParams { call, process, grace_ms: millis(grace), interrupt };
        self.call.ask::<ExecKill>(&params).map(drop)
    }

    /// The signal that ended the tool itself, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.signal
    }

    /// Its exit status, 128 + number for a signal, once everything was read.
    pub fn exit_code(&self) -> Option<i32> {
        self.exit_code
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        if self.exit_code.is_none() {
            // It is killed with the call anyway.
            let _ = self.kill(Duration::ZERO);
        }
    }
}
