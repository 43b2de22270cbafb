//! A box for tests: a directory on this machine, reached through a real shell with a bare environment.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::error::ErrorCode;
use tokio::sync::mpsc;

use crate::error::{KernelError, Result};
use crate::event::Stream;
use crate::ports::{Clock, Exit, Piece, ProcessInput, ProcessOutput, Pty, Remote};

/// The programs a box must have, and nothing else.
pub(super) const BARE: &[&str] = &["sh", "tar", "mkdir", "rm", "cat", "mv", "rmdir"];

pub(super) struct LocalBox {
    home: tempfile::TempDir,
    path: OsString,
    /// Words before `-c`: which shell stands in for the login shell.
    pub(super) shell: Vec<OsString>,
    /// After how many more written bytes the connection is cut.
    pub(super) cut_after: Rc<Cell<Option<usize>>>,
    /// How many processes were started.
    pub(super) started: Cell<usize>,
    /// Called before each start, with its number.
    pub(super) before: Option<Box<dyn Fn(usize)>>,
}

impl LocalBox {
    /// A box with every program of this machine.
    pub(super) fn new() -> Self {
        Self::with_path("/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into())
    }

    fn with_path(path: OsString) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            path,
            shell: vec!["sh".into()],
            cut_after: Rc::default(),
            started: Cell::new(0),
            before: None,
        }
    }

    /// A box with only these programs.
    pub(super) fn with_only(programs: &[&str]) -> Self {
        let mut this = Self::with_path(OsString::new());
        let bin = this.home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for name in programs {
            std::os::unix::fs::symlink(find(name), bin.join(name)).unwrap();
        }
        this.path = bin.into();
        this
    }

    pub(super) fn workdir(&self) -> PathBuf {
        self.home.path().join("work/cbx_000000000001/repo")
    }

    pub(super) fn meta(&self) -> PathBuf {
        self.home.path().join("work/cbx_000000000001/.crabbox/sync/repo")
    }

    pub(super) fn outside(&self) -> PathBuf {
        self.home.path().join("outside")
    }
}

fn find(name: &str) -> PathBuf {
    let dirs = ["/bin", "/usr/bin", "/usr/local/bin"];
    dirs.iter()
        .map(|d| Path::new(d).join(name))
        .find(|p| p.exists())
        .unwrap_or_else(|| panic!("no {name}"))
}

pub(super) struct LocalInput {
    stdin: Option<ChildStdin>,
    left: Rc<Cell<Option<usize>>>,
    child: Arc<Mutex<Child>>,
}

pub(super) struct LocalOutput {
    pieces: mpsc::UnboundedReceiver<Piece>,
    child: Arc<Mutex<Child>>,
}

fn cut() -> KernelError {
    KernelError::new(ErrorCode::ConnectionLost, "the connection broke")
}

impl Remote for LocalBox {
    type Input = LocalInput;
    type Output = LocalOutput;

    async fn start(&self, command: &str, _: Option<&Pty>) -> Result<(LocalInput, LocalOutput)> {
        let number = self.started.get();
        self.started.set(number + 1);
        if let Some(before) = &self.before {
            before(number);
        }
        #[expect(clippy::disallowed_methods, reason = "the box of these tests is a process")]
        let mut shell = std::process::Command::new(&self.shell[0]);
        let mut child = shell
            .args(&self.shell[1..])
            .args(["-c", command])
            .env_clear()
            .env("PATH", &self.path)
            .env("HOME", self.home.path())
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let stdin = child.stdin.take();
        let child = Arc::new(Mutex::new(child));
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
        let input = LocalInput { stdin, left: self.cut_after.clone(), child: child.clone() };
        Ok((input, LocalOutput { pieces, child }))
    }

    fn peer(&self) -> &str {
        "local"
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

impl ProcessInput for LocalInput {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let part = self.left.get().map_or(data.len(), |left| left.min(data.len()));
        let wrote = self.stdin.as_mut().map(|pipe| pipe.write_all(&data[..part]));
        self.left.set(self.left.get().map(|left| left - part));
        match wrote {
            Some(Ok(())) if part == data.len() => Ok(()),
            _ => {
                self.stdin = None;
                Err(cut())
            }
        }
    }

    async fn finish(&mut self) -> Result<()> {
        self.stdin = None;
        Ok(())
    }

    async fn signal(&mut self, _: &str) -> Result<()> {
        let _ = self.child.lock().unwrap().kill();
        Ok(())
    }

    async fn resize(&mut self, _: u32, _: u32) -> Result<()> {
        Ok(())
    }
}

impl ProcessOutput for LocalOutput {
    async fn next(&mut self) -> Result<Piece> {
        self.pieces.recv().await.ok_or_else(cut)
    }
}

impl Drop for LocalOutput {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.try_lock() {
            let _ = child.kill();
        }
    }
}

/// Time that stands still until somebody sleeps for ever.
pub(super) struct Still;

impl Clock for Still {
    fn now_ms(&self) -> u64 {
        0
    }

    fn monotonic_ms(&self) -> u64 {
        0
    }

    async fn sleep(&self, time: Duration) {
        if !time.is_zero() {
            std::future::pending::<()>().await;
        }
    }
}
