//! What a helper's error means to the kernel.

use crabbox_schemas::error::{ErrorCode, ErrorKind, RpcError};
use crabbox_schemas::helper::method;

use crate::error::KernelError;

/// The kernel's error for one of the helper's; `asked` is the method that failed.
pub(super) fn error(asked: &str, error: RpcError) -> KernelError {
    let kind = error.data.as_ref().map_or(ErrorKind::Internal, |data| data.kind);
    let told = KernelError::new(code(asked, kind), error.message);
    let Some(data) = error.data else { return told };
    KernelError { causes: data.cause, hint: data.hint, outcome: data.outcome, ..told }
}

fn code(asked: &str, kind: ErrorKind) -> ErrorCode {
    match kind {
        ErrorKind::Conflict => ErrorCode::Conflict,
        ErrorKind::Precondition => ErrorCode::Precondition,
        ErrorKind::Cancelled => ErrorCode::Cancelled,
        ErrorKind::NotFound => ErrorCode::NotFound,
        ErrorKind::Unsupported => ErrorCode::Unsupported,
        ErrorKind::InvalidRequest | ErrorKind::ProviderBug => ErrorCode::Internal,
        _ if asked == method::FLIGHT => ErrorCode::SyncWrite,
        ErrorKind::Permission => ErrorCode::Permission,
        ErrorKind::Transient | ErrorKind::Timeout => ErrorCode::Transient,
        _ => ErrorCode::Internal,
    }
}
