//! Errors that cross the socket: what the daemon met reads as if the command had met it itself.

use crabbox_kernel::error::KernelError;
use crabbox_schemas::error::{ErrorCode, Failure, Outcome};

/// Every stage an error of a connection can name.
const STAGES: &[&str] = &[
    "dns",
    "proxy",
    "tcp",
    "banner",
    "host-key",
    "auth",
    "ready",
    "connect",
    "connection",
    "command",
    "helper",
    "sync",
];

/// The error a failure was made from.
pub(crate) fn heard(failure: Failure) -> KernelError {
    KernelError {
        code: failure.error_kind,
        message: failure.message,
        causes: failure.cause,
        hint: failure.hint,
        alternatives: failure.alternatives,
        stage: STAGES.iter().find(|stage| **stage == failure.stage).copied(),
        outcome: failure.outcome,
    }
}

/// The connection that the daemon kept has ended, with the box or the helper there; the daemon itself lives.
pub(crate) fn cut() -> KernelError {
    KernelError::new(ErrorCode::ConnectionLost, "the connection to the box broke")
        .at("connection")
        .outcome(Outcome::Uncertain)
}

/// The daemon went away while work went through it. The next dial does without it, or starts another.
pub(crate) fn gone(why: &std::io::Error) -> KernelError {
    KernelError::new(ErrorCode::ConnectionLost, "the warm daemon went away")
        .because(why)
        .hint("`--no-daemon` works without it")
        .at("connection")
        .outcome(Outcome::Uncertain)
}
