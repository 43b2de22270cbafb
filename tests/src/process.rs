//! One process of a test: started with a known environment, bounded in time, its bytes kept.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long a process may take unless its test says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process about to start.
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is run or started"]
pub struct Call {
    program: PathBuf,
    args: Vec<OsString>,
    dir: PathBuf,
    env: BTreeMap<String, OsString>,
    stdin: Option<Vec<u8>>,
    limit: Duration,
}

impl Call {
    /// `program` in `dir`, with an empty environment.
    pub fn new(program: impl Into<PathBuf>, dir: &Path) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            dir: dir.to_path_buf(),
            env: BTreeMap::new(),
            stdin: None,
            limit: PATIENCE,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The same, started by another program that takes the command line as its last arguments.
    pub fn through<S: Into<OsString>>(
        mut self,
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let program = std::mem::replace(&mut self.program, program.into());
        let rest = std::mem::take(&mut self.args);
        self.args.extend(args.into_iter().map(Into::into));
        self.args.push(program.into());
        self.args.extend(rest);
        self
    }

    /// Starts somewhere else.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = dir.to_path_buf();
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Gives it something to read; without this, standard input is empty.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Lets it take this long before it is killed and the test fails.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs to the end.
    pub fn run(self) -> Ended {
        self.start().wait()
    }

    /// Runs to the end and insists on success.
    pub fn ok(self) -> Ended {
        self.run().expect(0)
    }

    /// Starts, and returns while it runs; it is killed when the handle is dropped.
    #[expect(clippy::disallowed_methods, reason = "the one place where tests start processes")]
    pub fn start(self) -> Running {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.dir).env_clear().envs(&self.env);
        command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", self.program.display()));
        if let (Some(bytes), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            // The process may well end before it has read everything; that is its business.
            std::thread::spawn(move || pipe.write_all(&bytes));
        }
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let shown = self.args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        Running {
            child,
            stdout,
            stderr,
            shown,
            end: Instant::now() + self.limit,
            limit: self.limit,
        }
    }
}

type Bytes = std::sync::Arc<std::sync::Mutex<Vec<u8>>>;

struct Drain(Bytes, JoinHandle<()>);

fn drain(pipe: Option<impl Read + Send + 'static>) -> Drain {
    let kept = Bytes::default();
    let keep = kept.clone();
    let thread = std::thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            keep.lock().expect("no reader panics").extend_from_slice(&buffer[..n]);
        }
    });
    Drain(kept, thread)
}

impl Drain {
    fn so_far(&self) -> Vec<u8> {
        self.0.lock().expect("no reader panics").clone()
    }

    /// Everything, waiting at most a moment for the pipe's other end to close.
    fn rest(&self) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(5);
        while !self.1.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.so_far()
    }
}

/// A process that runs.
pub struct Running {
    child: Child,
    stdout: Drain,
    stderr: Drain,
    shown: String,
    end: Instant,
    limit: Duration,
}

impl Running {
    /// Its process id, which is also its group.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it wrote to stdout until now.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.so_far()).into_owned()
    }

    /// What it wrote to stderr until now.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.so_far()).into_owned()
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits until `text` shows up on stderr.
    pub fn says(&self, text: &str) {
        let end = self.end;
        while !self.stderr().contains(text) {
            assert!(Instant::now() < end, "{} never said {text:?}:\n{}", self.shown, self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until `text` shows up on stdout.
    pub fn prints(&self, text: &str) {
        let end = self.end;
        while !self.stdout().contains(text) {
            let (out, err) = (self.stdout(), self.stderr());
            assert!(
                Instant::now() < end,
                "{} never printed {text:?}:\n{out}\n-- stderr\n{err}",
                self.shown
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end; kills the group and fails when that takes too long.
    pub fn wait(mut self) -> Ended {
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return self.close(status);
            }
            if Instant::now() > self.end {
                let _ = kill_process_group(self.pid(), Signal::KILL);
                let (out, err) = (self.stdout(), self.stderr());
                panic!(
                    "{} did not end within {:?}\n-- stdout\n{out}\n-- stderr\n{err}",
                    self.shown, self.limit
                );
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    fn close(&self, status: ExitStatus) -> Ended {
        let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(-1);
        Ended {
            code,
            stdout: self.stdout.rest(),
            stderr: self.stderr.rest(),
            shown: self.shown.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// How a process ended. Displays as a block of exit status, stdout and stderr.
#[derive(Debug, Clone)]
#[must_use = "look at how it ended, or use `ok`"]
pub struct Ended {
    /// Its status, 128 + number for a signal.
    pub code: i32,
    /// Every byte of stdout.
    pub stdout: Vec<u8>,
    /// Every byte of stderr.
    pub stderr: Vec<u8>,
    shown: String,
}

impl Ended {
    /// Insists on an exit status.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Stdout as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Stderr as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Stdout as one JSON document.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|e| panic!("stdout is not one JSON document: {e}\n{self}"))
    }

    /// Insists that stderr contains each of these.
    pub fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.err().contains(text), "stderr lacks {text:?}\n{self}");
        }
        self
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, shown, .. } = self;
        write!(f, "$ {shown}\nexit {code}\n-- stdout\n{}\n-- stderr\n{}", self.out(), self.err())
    }
}
