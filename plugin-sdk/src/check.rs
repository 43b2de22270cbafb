//! Findings of a doctor.

use crabbox_schemas::error::ErrorKind;

use crate::{Check, CheckStatus, Failure};

/// A finding; an empty hint is none.
pub fn check(id: &str, status: CheckStatus, message: impl Into<String>, hint: &str) -> Check {
    let hint = Some(hint.to_owned()).filter(|hint| !hint.is_empty());
    Check { id: id.to_owned(), status, message: message.into(), hint }
}

/// How a question went, as a finding: what is good about the answer, or what is wrong with it.
pub fn judged<T>(
    id: &str,
    asked: Result<T, Failure>,
    judge: impl FnOnce(T) -> Result<String, String>,
) -> Check {
    match asked.map(judge) {
        Ok(Ok(good)) => check(id, CheckStatus::Ok, good, ""),
        Ok(Err(bad)) => check(id, CheckStatus::Fail, bad, ""),
        Err(failure) => failed(id, &failure),
    }
}

/// A refusal, as a finding; a service that does not answer is a failure.
pub fn refused(id: &str, failure: Failure) -> Result<Check, Failure> {
    match failure.kind() {
        ErrorKind::Auth
        | ErrorKind::Permission
        | ErrorKind::InvalidConfig
        | ErrorKind::Precondition
        | ErrorKind::Billing => Ok(failed(id, &failure)),
        _ => Err(failure),
    }
}

fn failed(id: &str, failure: &Failure) -> Check {
    check(id, CheckStatus::Fail, failure.message(), failure.data().hint.as_deref().unwrap_or(""))
}
