//! The way out: frames are written one at a time, and callbacks wait here for their answers.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Instant;

use crabbox_schemas::error::{Outcome, RpcError};
use crabbox_wire::{Frame, Id};
use serde::Serialize;
use serde_json::Value;

use crate::Failure;
use crate::control::lock;

type Answer = Result<Value, RpcError>;

/// The writing half of a session, shared by all its calls.
pub(crate) struct Link {
    out: Mutex<Box<dyn Write + Send>>,
    max_line: AtomicUsize,
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
        let (out, waiting) = (Mutex::new(out), Mutex::default());
        Self { out, max_line: AtomicUsize::new(max_line), waiting }
    }

    /// Takes over the limit the kernel named.
    pub(crate) fn set_max_line(&self, bytes: usize) {
        self.max_line.store(bytes, Ordering::Relaxed);
    }

    /// Answers a request of the kernel. A kernel that is gone needs no answer.
    pub(crate) fn reply(&self, id: Id, answer: Result<Value, Failure>) {
        let frame = Frame::Response { id: id.clone(), result: answer.map_err(RpcError::from) };
        if let Err(failure) = self.send(&frame) {
            let _ = self.send(&Frame::failure(id, failure.into()));
        }
    }

    /// Sends an event; a kernel that is gone needs none, and one that is too long for a line is lost.
    pub(crate) fn notify(&self, method: &str, params: &impl Serialize) {
        if let Ok(frame) = Frame::notification(method, params) {
            let _ = self.send(&frame);
        }
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
        let sent = Frame::request(Id::Text(id.clone()), method, params)
            .map_err(|error| Failure::internal("cannot encode params").because(&error))
            .and_then(|frame| self.send(&frame));
        let left = until.saturating_duration_since(Instant::now());
        let answer = sent.map(|()| receiver.recv_timeout(left));
        lock(&self.waiting).answers.remove(&id);
        match answer? {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(error.into()),
            Err(RecvTimeoutError::Timeout) => {
                Err(Failure::timeout(format!("the host did not answer {method} in time"))
                    .outcome(Outcome::Uncertain))
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone(method)),
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

    fn send(&self, frame: &Frame) -> Result<(), Failure> {
        let line = frame
            .encode(self.max_line.load(Ordering::Relaxed))
            .map_err(|error| Failure::internal("a frame does not fit").because(&error))?;
        let mut out = lock(&self.out);
        out.write_all(&line)
            .and_then(|()| out.flush())
            .map_err(|error| Failure::internal("cannot write to the kernel").because(&error))
    }
}

fn gone(method: &str) -> Failure {
    Failure::cancelled(format!("the host is gone; {method} was not answered"), Outcome::Uncertain)
}
