//! The two ends of a replayed exchange: a plugin on a thread, or one in a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crabbox_wire::Frame;
use serde_json::Value;

use crate::Plugin;

/// A plugin and the pipes to it. Dropping it ends a process that is still there.
pub(super) struct Peer {
    to: Option<Box<dyn Write>>,
    from: Receiver<String>,
    child: Option<Child>,
}

impl Peer {
    pub(super) fn in_process(plugin: Plugin) -> Result<Self, String> {
        let pipes = std::io::pipe().and_then(|to| Ok((to, std::io::pipe()?)));
        let ((theirs, to), (from, out)) = pipes.map_err(|e| format!("cannot make a pipe: {e}"))?;
        // What the session ends with shows in the frames; a breach also ends the transcript early.
        std::thread::spawn(move || plugin.serve(theirs, out));
        Ok(Self { to: Some(Box::new(to)), from: lines(from), child: None })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of the test kit that starts plugins"
    )]
    pub(super) fn spawned(program: &Path) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.env_clear();
        Self::started(command)
    }

    pub(super) fn started(mut command: Command) -> Result<Self, String> {
        let mut child = command
            .env("CRABBOX_PLUGIN", "1")
            .env("CRABBOX_PROTOCOLS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start {}: {e}", command.get_program().display()))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the plugin has no pipes".to_owned());
        };
        Ok(Self { to: Some(Box::new(to)), from: lines(from), child: Some(child) })
    }

    pub(super) fn send(&mut self, frame: &Value) -> Result<(), String> {
        let to = self.to.as_mut().ok_or("the wire is closed")?;
        writeln!(to, "{frame}")
            .and_then(|()| to.flush())
            .map_err(|e| format!("cannot send {frame}: {e}"))
    }

    pub(super) fn receive(&mut self, patience: Duration) -> Result<Value, String> {
        let line = self.from.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("nothing came for {patience:?}"),
            RecvTimeoutError::Disconnected => "the plugin closed the wire".to_owned(),
        })?;
        Frame::decode(line.as_bytes()).map_err(|e| e.to_string())?;
        serde_json::from_str(&line).map_err(|e| format!("not JSON: {e}: {line}"))
    }

    /// Closes the wire; nothing more may come, and a process must end well.
    pub(super) fn finish(mut self, patience: Duration) -> Result<(), String> {
        self.to = None;
        match self.from.recv_timeout(patience) {
            Ok(line) => return Err(format!("unexpected {line}")),
            Err(RecvTimeoutError::Timeout) => return Err("the plugin did not end".to_owned()),
            Err(RecvTimeoutError::Disconnected) => {}
        }
        let Some(child) = &mut self.child else { return Ok(()) };
        let until = Instant::now() + patience;
        while Instant::now() < until {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the plugin ended with {status}")),
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(error) => return Err(format!("cannot wait for the plugin: {error}")),
            }
        }
        Err("the plugin did not end".to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only when the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Reads lines on a thread of its own; the channel ends with the stream.
fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
