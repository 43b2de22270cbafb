//! A box that is a directory and real processes on this machine, reached over pipes that count, and can be cut.

#![expect(clippy::unwrap_used, reason = "a box that cannot play its part fails the test")]

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Stream;
use crabbox_kernel::ports::{Clock, Exit, Piece, ProcessInput, ProcessOutput, Pty, Remote};
use crabbox_schemas::error::ErrorCode;
use tokio::sync::mpsc;

/// The programs of this machine.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// What went over the pipes of a box, and when they break.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// Processes started.
    pub(crate) started: Cell<usize>,
    /// How often the box answered something that was written.
    pub(crate) turns: Cell<usize>,
    /// Bytes written and read.
    pub(crate) written: Cell<usize>,
    pub(crate) read: Cell<usize>,
    /// After how many more bytes, written and read together, everything is cut.
    pub(crate) cut_after: Cell<Option<usize>>,
    /// After how many bytes writing waits until the box has said this.
    pub(crate) hold: Cell<Option<(usize, &'static str)>>,
    writing: Cell<bool>,
}

impl Wire {
    /// Passes on what still comes through.
    fn pass(&self, data: Bytes) -> (Bytes, bool) {
        let Some(left) = self.cut_after.get() else { return (data, false) };
        let part = data.slice(..data.len().min(left));
        self.cut_after.set(Some(left - part.len()));
        let cut = part.len() < data.len() || left == part.len();
        (part, cut)
    }
}

/// The box.
pub(crate) struct PipeBox {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) wire: Rc<Wire>,
    /// The login shell and words before `-c`.
    pub(crate) shell: Vec<OsString>,
    /// Its environment.
    pub(crate) env: Vec<(String, OsString)>,
    children: RefCell<Vec<Arc<Mutex<Child>>>>,
}

impl PipeBox {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let tmp = dir.path().join("tmp");
        std::fs::create_dir(&home).unwrap();
        std::fs::create_dir(&tmp).unwrap();
        let env = vec![
            ("PATH".to_owned(), PATH.into()),
            ("HOME".to_owned(), home.into()),
            ("TMPDIR".to_owned(), tmp.into()),
        ];
        let (wire, children) = Default::default();
        Self { dir, wire, shell: vec!["sh".into()], env, children }
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn work_root(&self) -> String {
        self.at("work").to_str().unwrap().to_owned()
    }

    /// Puts a shell script before all other programs of this name.
    pub(crate) fn fake(&mut self, name: &str, script: &str) {
        let at = self.at("bin").join(name);
        program(&at, script);
        self.set("PATH", format!("{}:{PATH}", self.at("bin").display()));
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.env.retain(|(n, _)| n != name);
        self.env.push((name.to_owned(), value.into()));
    }

    /// Kills every process that was started by this test and waits for it.
    pub(crate) fn kill_all(&self) {
        for child in self.children.borrow_mut().drain(..) {
            let mut child = child.lock().unwrap();
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for PipeBox {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// Writes a program.
pub(crate) fn program(at: &Path, script: &str) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn cut() -> KernelError {
    KernelError::new(ErrorCode::ConnectionLost, "the connection broke")
}

pub(crate) struct Input {
    to: Option<mpsc::Sender<Bytes>>,
    wire: Rc<Wire>,
    child: Arc<Mutex<Child>>,
}

pub(crate) struct Output {
    pieces: mpsc::UnboundedReceiver<Piece>,
    wire: Rc<Wire>,
    child: Arc<Mutex<Child>>,
    dead: bool,
}

impl Remote for PipeBox {
    type Input = Input;
    type Output = Output;

    async fn start(&self, command: &str, _: Option<&Pty>) -> Result<(Input, Output)> {
        self.wire.started.set(self.wire.started.get() + 1);
        if self.wire.cut_after.get() == Some(0) {
            return Err(cut());
        }
        #[expect(clippy::disallowed_methods, reason = "the box of these tests is a process")]
        let mut shell = std::process::Command::new(&self.shell[0]);
        let mut child = shell
            .args(&self.shell[1..])
            .args(["-c", command])
            .env_clear()
            .envs(self.env.iter().map(|(n, v)| (n, v)))
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let mut stdin = child.stdin.take().unwrap();
        let child = Arc::new(Mutex::new(child));
        self.children.borrow_mut().push(child.clone());
        let (to, mut from) = mpsc::channel::<Bytes>(1);
        std::thread::spawn(move || {
            while let Some(data) = from.blocking_recv() {
                if stdin.write_all(&data).is_err() {
                    return;
                }
            }
        });
        let (sender, pieces) = mpsc::unbounded_channel();
        let readers = [
            pump(stdout, Stream::Stdout, sender.clone()),
            pump(stderr, Stream::Stderr, sender.clone()),
        ];
        let waited = child.clone();
        std::thread::spawn(move || {
            readers.into_iter().for_each(|r| r.join().unwrap());
            let status = waited.lock().unwrap().wait().unwrap();
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            let _ = sender.send(Piece::Exited(Exit { code, signal: None }));
        });
        let wire = self.wire.clone();
        let input = Input { to: Some(to), wire: wire.clone(), child: child.clone() };
        Ok((input, Output { pieces, wire, child, dead: false }))
    }

    fn peer(&self) -> &str {
        "pipe"
    }

    async fn close(self) {}
}

fn pump(
    mut from: impl Read + Send + 'static,
    stream: Stream,
    to: mpsc::UnboundedSender<Piece>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let _ = to.send(Piece::Data(stream, Bytes::copy_from_slice(&buffer[..n])));
        }
    })
}

fn kill(child: &Mutex<Child>) {
    if let Ok(mut child) = child.try_lock() {
        let _ = child.kill();
    }
}

impl ProcessInput for Input {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        while self.wire.hold.get().is_some_and(|(after, _)| self.wire.written.get() > after) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (data, broken) = self.wire.pass(data);
        self.wire.writing.set(true);
        self.wire.written.set(self.wire.written.get() + data.len());
        let Some(to) = &self.to else { return Err(cut()) };
        let sent = to.send(data).await;
        if broken {
            self.to = None;
            return Err(cut());
        }
        sent.map_err(|_| cut())
    }

    async fn finish(&mut self) -> Result<()> {
        self.to = None;
        Ok(())
    }

    async fn signal(&mut self, _: &str) -> Result<()> {
        kill(&self.child);
        Ok(())
    }

    async fn resize(&mut self, _: u32, _: u32) -> Result<()> {
        Ok(())
    }
}

impl ProcessOutput for Output {
    async fn next(&mut self) -> Result<Piece> {
        if self.dead {
            return Err(cut());
        }
        match self.pieces.recv().await {
            Some(Piece::Data(stream, data)) => {
                let (data, broken) = self.wire.pass(data);
                self.wire.read.set(self.wire.read.get() + data.len());
                let said = |word: &str| data.windows(word.len()).any(|w| w == word.as_bytes());
                if self.wire.hold.get().is_some_and(|(_, word)| said(word)) {
                    self.wire.hold.set(None);
                }
                if self.wire.writing.replace(false) {
                    self.wire.turns.set(self.wire.turns.get() + 1);
                }
                self.dead = broken;
                if data.is_empty() && broken { Err(cut()) } else { Ok(Piece::Data(stream, data)) }
            }
            Some(exited) => Ok(exited),
            None => Err(cut()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        kill(&self.child);
    }
}

/// The runtime's time; a test that pauses it holds it in hand.
pub(crate) struct Time;

impl Clock for Time {
    fn now_ms(&self) -> u64 {
        0
    }

    fn monotonic_ms(&self) -> u64 {
        0
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}
