//! The way out: frames are written one at a time, and callbacks wait here for their answers.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use crabbox_schemas::error::{Outcome, RpcError};
use serde::Serialize;
use serde_json::{Value, json};

use crate::Failure;
use crate::control::lock;

type Answer = Result<Value, RpcError>;

/// The writing half of a session, shared by all its calls.
pub(crate) struct Link {
    out: Mutex<Box<dyn Write + Send>>,
    max_line: Mutex<usize>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    closed: bool,
    answers: HashMap<String, Sender<Answer>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    pub(crate) fn new(out: Box<dyn Write + Send>, max_line: usize) -> Self {
        let (max_line, waiting) = (Mutex::new(max_line), Mutex::new(Waiting::default()));
        Self { out: Mutex::new(out), max_line, waiting }
    }

    /// Takes over the limit the kernel named.
    pub(crate) fn set_max_line(&self, bytes: usize) {
        *lock(&self.max_line) = bytes;
    }

    /// Answers a request of the kernel.
    pub(crate) fn reply(&self, id: &Value, answer: Answer) {
        let frame = match answer {
            Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
        };
        if self.send(&frame).is_err() {
            let error: RpcError = Failure::internal("the answer is too large for one line").into();
            // A kernel that is gone needs no answer.
            let _ = self.send(&json!({"jsonrpc": "2.0", "id": id, "error": error}));
        }
    }

    /// Sends an event; a kernel that is gone needs none.
    pub(crate) fn notify(&self, method: &str, params: &impl Serialize) {
        let _ = self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    /// Asks the host and waits for its answer, until `until` at most.
    pub(crate) fn request(
        &self,
        method: &str,
        params: &impl Serialize,
        until: Instant,
    ) -> Result<Value, Failure> {
        let (sender, receiver) = channel();
        let id = {
            let mut waiting = lock(&self.waiting);
            if waiting.closed {
                return Err(gone(method));
            }
            waiting.last += 1;
            let id = format!("p{}", waiting.last);
            waiting.answers.insert(id.clone(), sender);
            id
        };
        let frame = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let answer = match self.send(&frame) {
            Ok(()) => receiver.recv_timeout(until.saturating_duration_since(Instant::now())),
            Err(error) => {
                lock(&self.waiting).answers.remove(&id);
                return Err(Failure::internal(format!("cannot send {method}")).because(&error));
            }
        };
        lock(&self.waiting).answers.remove(&id);
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(error.into()),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                Err(Failure::timeout(format!("the host did not answer {method} in time"))
                    .outcome(Outcome::Uncertain))
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(gone(method)),
        }
    }

    /// Hands an answer to the call that waits for it; nobody may wait any more.
    pub(crate) fn answered(&self, id: &str, answer: Answer) {
        if let Some(sender) = lock(&self.waiting).answers.remove(id) {
            let _ = sender.send(answer);
        }
    }

    /// No answer will come any more: everybody who waits is woken.
    pub(crate) fn close(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.closed = true;
        waiting.answers.clear();
    }

    fn send(&self, frame: &Value) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(frame)?;
        line.push(b'\n');
        if line.len() > *lock(&self.max_line) {
            return Err(std::io::Error::other("the frame is longer than one line may be"));
        }
        let mut out = lock(&self.out);
        out.write_all(&line)?;
        out.flush()
    }
}

fn gone(method: &str) -> Failure {
    Failure::cancelled(format!("the host is gone; {method} was not answered"), Outcome::Uncertain)
}
