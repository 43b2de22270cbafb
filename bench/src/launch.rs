//! Programs of a measurement: started with a known environment, bounded in time, timed from start to end.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Result;

/// How long one program may take.
const LIMIT: Duration = Duration::from_secs(300);

/// A program and everything it is given.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    program: PathBuf,
    args: Vec<OsString>,
    dir: PathBuf,
    env: Vec<(String, OsString)>,
    stdin: Vec<u8>,
}

/// How it went.
pub(crate) struct Done {
    pub(crate) took: Duration,
    pub(crate) stdout: Vec<u8>,
}

impl Step {
    /// `program` in `dir`, with this environment and no other.
    pub(crate) fn new(program: impl Into<PathBuf>, dir: &Path, env: &[(String, OsString)]) -> Self {
        let (program, dir, env) = (program.into(), dir.to_path_buf(), env.to_vec());
        Self { program, args: Vec::new(), dir, env, stdin: Vec::new() }
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.stdin = bytes;
        self
    }

    /// The same, started by another program that takes the command line as its last arguments.
    pub(crate) fn through(mut self, program: impl Into<PathBuf>, args: Vec<OsString>) -> Self {
        let program = std::mem::replace(&mut self.program, program.into());
        let rest = std::mem::replace(&mut self.args, args);
        self.args.push(program.into());
        self.args.extend(rest);
        self
    }

    /// Runs to the end; anything but success is an error that says what it said.
    pub(crate) fn run(&self) -> Result<Done> {
        let begun = Instant::now();
        let mut child = self.start()?;
        let writer = child.stdin.take().filter(|_| !self.stdin.is_empty()).map(|mut pipe| {
            let bytes = self.stdin.clone();
            // It may end before it has read everything; its status tells.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let guard = Guard::of(&child);
        let ended = child.wait_with_output().map_err(|e| format!("{}: {e}", self.shown()))?;
        let took = begun.elapsed();
        drop((guard, writer));
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr);
            return Err(format!("{}: {}: {}", self.shown(), ended.status, said.trim()));
        }
        Ok(Done { took, stdout: ended.stdout })
    }

    /// Milliseconds from start to successful end.
    pub(crate) fn ms(&self) -> Result<f64> {
        Ok(self.run()?.took.as_secs_f64() * 1e3)
    }

    /// Starts it, with all three streams as pipes.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where measurements start processes"
    )]
    pub(crate) fn start(&self) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.dir).env_clear();
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command.spawn().map_err(|e| format!("cannot start {}: {e}", self.shown()))
    }

    fn shown(&self) -> String {
        let args = self.args.iter().map(|arg| format!(" {}", arg.to_string_lossy()));
        let text = format!("{}{}", self.program.display(), args.collect::<String>());
        text.chars().take(300).collect()
    }
}

/// Kills a program that takes too long, with everything in its group.
pub(crate) struct Guard(#[expect(dead_code, reason = "its end is the signal")] mpsc::Sender<()>);

impl Guard {
    pub(crate) fn of(child: &Child) -> Self {
        let (over, waits) = mpsc::channel::<()>();
        let group = Pid::from_child(child);
        std::thread::spawn(move || {
            if waits.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill_process_group(group, Signal::KILL);
            }
        });
        Self(over)
    }
}
