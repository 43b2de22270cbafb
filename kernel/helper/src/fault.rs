//! What went wrong, as the laptop shall be told.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crabbox_schemas::error::{ErrorData, ErrorKind, Outcome, RpcError};

/// A failure with everything an answer needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    kind: ErrorKind,
    message: String,
    cause: Vec<String>,
    hint: Option<String>,
    outcome: Option<Outcome>,
}

impl Fault {
    /// A failure of this kind; the message is a lowercase fragment.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cause: Vec::new(), hint: None, outcome: None }
    }

    /// A system call that failed while `what` was tried: "cannot write /a/b".
    pub fn io(what: impl Into<String>, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let fault = Self::new(ErrorKind::Internal, what).cause(&error);
        match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::DQUOT) => fault
                .hint("the disk of the box is full: `crabbox connect BOX` opens a shell there to make room"),
            _ => fault,
        }
    }

    /// The request does not make sense.
    pub fn request(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    /// The laptop does not want the answer any more.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    /// Adds a cause.
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause.push(cause.to_string());
        self
    }

    /// Adds what the user can do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what may have happened to the box.
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The error object of an answer.
    pub fn into_rpc(self) -> RpcError {
        let data = ErrorData {
            hint: self.hint,
            cause: self.cause,
            outcome: self.outcome,
            ..ErrorData::of(self.kind)
        };
        RpcError { code: self.kind.rpc_code(), message: self.message, data: Some(data) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.cause.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for Fault {}
