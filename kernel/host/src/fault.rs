//! Turns what plugins answer, and how they end, into kernel errors; and refusals into answers.

use crabbox_kernel::error::KernelError;
use crabbox_plugins::Written;
use crabbox_schemas::error::{ErrorCode, ErrorData, ErrorKind, Outcome, RpcError};

use crate::link::Link;

/// JSON-RPC's code for a method nobody knows.
pub(crate) const METHOD_NOT_FOUND: i32 = -32601;

/// Longest message shown from a plugin.
const MAX_MESSAGE: usize = 500;
/// Most machine types a plugin can suggest.
const MAX_ALTERNATIVES: usize = 16;

/// A plugin's error answer as the kernel sees it.
pub(crate) fn from_rpc(link: &Link, error: RpcError, mutating: bool) -> KernelError {
    let code = match &error.data {
        Some(data) => code(data.kind),
        None if error.code == METHOD_NOT_FOUND => ErrorCode::Unsupported,
        None => ErrorCode::PluginFault,
    };
    let mut out =
        KernelError::new(code, format!("{}: {}", link.provider, one_line(&error.message)));
    out.outcome = mutating.then_some(Outcome::Uncertain);
    if error.code == METHOD_NOT_FOUND {
        out.outcome = Some(Outcome::NotStarted);
    }
    if let Some(data) = error.data {
        fill(&mut out, data, &link.written);
    }
    out
}

fn fill(out: &mut KernelError, data: ErrorData, written: &Written) {
    out.outcome = data.outcome.or(out.outcome);
    out.hint = data.hint.map(|hint| one_line(&hint));
    out.causes.extend(data.field.map(|field| setting(&field, written)));
    out.causes.extend(data.cause.iter().map(|cause| one_line(cause)));
    out.causes.extend(
        data.resources.iter().map(|left| {
            format!("left behind: {} {}", one_line(&left.kind), one_line(&left.cloud_id))
        }),
    );
    out.alternatives =
        data.alternatives.iter().take(MAX_ALTERNATIVES).map(|a| one_line(a)).collect();
    if let (None, Some(ms)) = (&out.hint, data.retry_after_ms) {
        out.hint = Some(format!("try again in {} s", ms.div_ceil(1000)));
    }
}

/// A setting by its JSON pointer, and where it was written.
fn setting(field: &str, written: &Written) -> String {
    let place = written.at(field).map(|place| format!(", from {place}")).unwrap_or_default();
    format!("setting {}{place}", one_line(field))
}

fn code(kind: ErrorKind) -> ErrorCode {
    match kind {
        ErrorKind::InvalidConfig => ErrorCode::Config,
        ErrorKind::InvalidRequest => ErrorCode::Usage,
        ErrorKind::Unsupported => ErrorCode::Unsupported,
        ErrorKind::Auth => ErrorCode::Auth,
        ErrorKind::Permission => ErrorCode::Permission,
        ErrorKind::Billing => ErrorCode::Billing,
        ErrorKind::NotFound => ErrorCode::NotFound,
        ErrorKind::Conflict => ErrorCode::Conflict,
        ErrorKind::Precondition => ErrorCode::Precondition,
        ErrorKind::Expired => ErrorCode::LeaseExpired,
        ErrorKind::Capacity => ErrorCode::Capacity,
        ErrorKind::Quota => ErrorCode::Quota,
        ErrorKind::RateLimited => ErrorCode::RateLimited,
        ErrorKind::Transient => ErrorCode::Transient,
        ErrorKind::Timeout => ErrorCode::ProviderTimeout,
        ErrorKind::Bootstrap => ErrorCode::Bootstrap,
        ErrorKind::Cancelled => ErrorCode::Cancelled,
        ErrorKind::GrantDenied => ErrorCode::GrantDenied,
        ErrorKind::ProviderBug | ErrorKind::Internal => ErrorCode::PluginFault,
    }
}

/// The plugin broke its contract.
pub(crate) fn broken(provider: &str, what: impl std::fmt::Display) -> KernelError {
    KernelError::new(
        ErrorCode::PluginFault,
        format!("the {provider} plugin broke the protocol: {what}"),
    )
    .hint("this is a fault of the plugin; report it to its author")
}

/// Text from a plugin, safe to show: one line, no control characters, not endless.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_MESSAGE)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// A refusal of a callback.
pub(crate) fn refuse(kind: ErrorKind, message: impl Into<String>) -> RpcError {
    RpcError::of(kind, message)
}
