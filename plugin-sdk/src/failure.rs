//! How a provider says no: every failure carries a kind the kernel can act on.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crabbox_schemas::error::{ErrorData, ErrorKind, Outcome, Resource, RpcError};

/// Longest message that travels, in characters.
const MESSAGE_LIMIT: usize = 500;
/// Most causes that travel.
const CAUSE_LIMIT: usize = 16;

/// Why a call failed. There is no way to make one without choosing a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: i32,
    message: String,
    data: Box<ErrorData>,
}

impl Failure {
    /// A failure of any kind; the named constructors read better.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { code: kind.rpc_code(), message: message.into(), data: Box::new(ErrorData::of(kind)) }
    }

    /// A breach of JSON-RPC itself, with one of its own codes.
    pub(crate) fn breach(code: i32, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { code, ..Self::new(kind, message).outcome(Outcome::NotStarted) }
    }

    /// A setting is wrong; `field` is its JSON pointer, such as `/host`.
    pub fn invalid_config(field: impl Into<String>, message: impl Into<String>) -> Self {
        let mut failure = Self::new(ErrorKind::InvalidConfig, message);
        failure.data.field = Some(field.into());
        failure.outcome(Outcome::NotStarted)
    }

    /// The request does not make sense.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message).outcome(Outcome::NotStarted)
    }

    /// This provider cannot do that; never ignore an option instead.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message).outcome(Outcome::NotStarted)
    }

    /// A credential is missing or expired.
    pub fn auth(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Auth, message)
    }

    /// The credential lacks a right; name it.
    pub fn permission(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Permission, message)
    }

    /// The account is suspended or cannot pay.
    pub fn billing(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Billing, message)
    }

    /// Proof that the thing does not exist. When it merely could not be seen, this is the wrong kind.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// The name is taken or the resource has another owner.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// `expected` did not match, and nothing was touched.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Precondition, message).outcome(Outcome::NotStarted)
    }

    /// The lease is past its end.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Expired, message)
    }

    /// No machine of that kind is left here.
    pub fn capacity(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Capacity, message)
    }

    /// The account's limit is reached.
    pub fn quota(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Quota, message)
    }

    /// The far side asks to slow down.
    pub fn rate_limited(message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(ErrorKind::RateLimited, message).retry_after(retry_after)
    }

    /// A passing fault.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Transient, message)
    }

    /// The far side was too slow.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Timeout, message)
    }

    /// The machine exists but never became usable.
    pub fn bootstrap(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bootstrap, message)
    }

    /// The kernel cancelled the call; `outcome` says what became of the work.
    pub fn cancelled(message: impl Into<String>, outcome: Outcome) -> Self {
        Self::new(ErrorKind::Cancelled, message).outcome(outcome)
    }

    /// A permission is missing.
    pub fn grant_denied(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::GrantDenied, message)
    }

    /// Anything else: a fault in the plugin itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Adds what the user can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.data.hint = Some(hint.into());
        self
    }

    /// Says what may have happened to the world.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.data.outcome = Some(outcome);
        self
    }

    /// Adds the error that led here, with its own causes.
    #[must_use]
    pub fn because(mut self, error: &dyn Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next.filter(|_| self.data.cause.len() < CAUSE_LIMIT) {
            self.data.cause.push(one_line(&error.to_string()));
            next = error.source();
        }
        self
    }

    /// Says how long to wait before trying again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.data.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Names something that was left behind.
    #[must_use]
    pub fn left_behind(mut self, resource: Resource) -> Self {
        self.data.resources.push(resource);
        self
    }

    /// Names machine types that could be had instead.
    #[must_use]
    pub fn alternatives(mut self, machines: Vec<String>) -> Self {
        self.data.alternatives = machines;
        self
    }

    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        self.data.kind
    }

    /// Whether nobody knows what became of what was asked for.
    pub fn is_lost(&self) -> bool {
        matches!(self.data.kind, ErrorKind::Transient | ErrorKind::Timeout)
    }

    /// Whether it only says that there is no room for what was asked for, so that something else may do.
    pub fn is_miss(&self) -> bool {
        matches!(self.data.kind, ErrorKind::Capacity | ErrorKind::Quota)
    }

    /// Its message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Everything the kernel will read besides the message.
    pub fn data(&self) -> &ErrorData {
        &self.data
    }
}

/// An answer, or nothing where the service says that there is no such thing.
pub fn found<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Err(failure) if failure.kind() == ErrorKind::NotFound => Ok(None),
        answer => answer.map(Some),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

impl From<Failure> for RpcError {
    fn from(failure: Failure) -> Self {
        Self { code: failure.code, message: one_line(&failure.message), data: Some(*failure.data) }
    }
}

/// What the kernel answered to a callback, as a failure of the call that asked.
impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        match error.data {
            Some(data) => Self { code: error.code, message: error.message, data: Box::new(data) },
            None => Self::internal(format!("{} (code {})", error.message, error.code)),
        }
    }
}

/// Control characters become spaces, and what is too long is cut.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_travels_as_one_short_line_with_its_kind() {
        let io = std::io::Error::other("disk on fire");
        let failure = Failure::capacity(format!("no room\nin {}", "x".repeat(600)))
            .hint("try another region")
            .because(&io);
        let wire = RpcError::from(failure);
        assert_eq!(wire.code, ErrorKind::Capacity.rpc_code());
        assert!(wire.message.starts_with("no room in x"));
        assert_eq!(wire.message.chars().count(), MESSAGE_LIMIT);
        let data = wire.data.unwrap();
        assert_eq!(data.kind, ErrorKind::Capacity);
        assert_eq!(data.cause, ["disk on fire"]);
    }

    #[test]
    fn an_answer_without_a_kind_is_internal_and_keeps_its_words() {
        let failure = Failure::from(RpcError { code: -32601, message: "what?".into(), data: None });
        assert_eq!(failure.kind(), ErrorKind::Internal);
        assert_eq!(failure.message(), "what? (code -32601)");
    }
}
