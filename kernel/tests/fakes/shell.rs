//! A box that is a directory and a real shell on this machine, each command in a process group of its own.

#![expect(clippy::unwrap_used, reason = "a fake that cannot play its part fails the test")]

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::rc::Rc;

use bytes::Bytes;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Stream;
use crabbox_kernel::ports::{
    Address, Dialer, EventSink, Exit, HostKey, Piece, ProcessInput, ProcessOutput, Pty, Remote,
    Stop,
};
use crabbox_schemas::error::ErrorCode;
use tokio::sync::mpsc;

/// The box, and the dialer that reaches it.
#[derive(Clone)]
pub(crate) struct Shell {
    pub(crate) home: PathBuf,
    /// Every command line that was started.
    pub(crate) started: Rc<RefCell<Vec<String>>>,
    /// Dialling fails with this.
    pub(crate) unreachable: Rc<Cell<Option<ErrorCode>>>,
    /// The only host name it answers at, when it moved; elsewhere nobody answers.
    pub(crate) moved_to: Rc<RefCell<Option<String>>>,
}

impl Shell {
    pub(crate) fn new(home: PathBuf) -> Self {
        std::fs::create_dir_all(&home).unwrap();
        Self { home, started: Rc::default(), unreachable: Rc::default(), moved_to: Rc::default() }
    }
}

impl Dialer for Shell {
    type Remote = Self;

    fn key_pair(&self, dir: &Path, _: &str) -> Result<String> {
        std::fs::write(dir.join("id_ed25519"), "secret").unwrap();
        Ok("ssh-ed25519 AAAA".to_owned())
    }

    fn host_key(&self, _: &str) -> Result<HostKey> {
        Ok(HostKey { private: "secret".to_owned(), public: "ssh-ed25519 BBBB".to_owned() })
    }

    async fn dial(&self, at: &Address, _: &mut dyn EventSink, _: &Stop) -> Result<Self> {
        let moved = self.moved_to.borrow().as_ref().is_some_and(|to| *to != at.endpoint.host);
        match self.unreachable.get().or(moved.then_some(ErrorCode::SshTcp)) {
            Some(code) => Err(super::error(code, None)),
            None => Ok(self.clone()),
        }
    }
}

pub(crate) struct Input(Option<ChildStdin>);
pub(crate) struct Output(mpsc::UnboundedReceiver<Piece>);

impl Remote for Shell {
    type Input = Input;
    type Output = Output;

    async fn start(&self, command: &str, _: Option<&Pty>) -> Result<(Input, Output)> {
        self.started.borrow_mut().push(command.to_owned());
        #[expect(clippy::disallowed_methods, reason = "the box of these tests is a process")]
        let mut child = std::process::Command::new("sh")
            .args(["-c", command])
            .env_clear()
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", self.home.display()))
            .env("HOME", &self.home)
            .current_dir(&self.home)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, pieces) = mpsc::unbounded_channel();
        let readers = [
            read(child.stdout.take().unwrap(), Stream::Stdout, sender.clone()),
            read(child.stderr.take().unwrap(), Stream::Stderr, sender.clone()),
        ];
        let stdin = child.stdin.take();
        std::thread::spawn(move || {
            readers.into_iter().for_each(|r| r.join().unwrap());
            let status = child.wait().unwrap();
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            let _ = sender.send(Piece::Exited(Exit { code, signal: None }));
        });
        Ok((Input(stdin), Output(pieces)))
    }

    fn peer(&self) -> &str {
        "here"
    }

    async fn close(self) {}
}

fn read(
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

impl ProcessInput for Input {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let wrote = self.0.as_mut().map(|pipe| pipe.write_all(&data));
        match wrote {
            Some(Ok(())) => Ok(()),
            _ => Err(KernelError::new(ErrorCode::ConnectionLost, "it takes no more input")),
        }
    }

    async fn finish(&mut self) -> Result<()> {
        self.0 = None;
        Ok(())
    }

    async fn signal(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn resize(&mut self, _: u32, _: u32) -> Result<()> {
        Ok(())
    }
}

impl ProcessOutput for Output {
    async fn next(&mut self) -> Result<Piece> {
        self.0.recv().await.ok_or_else(|| super::error(ErrorCode::ConnectionLost, None))
    }
}
