//! Documents and lines for programs.

use crabbox_schemas::error::{Failure, FailureDocument};
use crabbox_schemas::event::RunEvent;
use crabbox_schemas::lease::Desired;
use crabbox_schemas::run::RunRecord;
use serde_json::{Value, json};

use crate::error::KernelError;

/// A failure as `--json` prints it: one document with the key `error`.
pub fn failure(error: &KernelError, lease: Option<&Desired>) -> Value {
    let failure = Failure { lease: lease.cloned(), ..error.to_failure() };
    json!(FailureDocument { schema_version: failure.schema_version, error: failure })
}

/// A run as `run --json` prints it: its record, and the failure if crabbox failed.
pub fn run_document(record: &RunRecord, error: Option<&KernelError>) -> Value {
    json!(RunRecord { error: error.map(KernelError::to_failure), ..record.clone() })
}

/// One line of `events.jsonl` or `--events jsonl`, without its newline.
pub fn event_line(event: &RunEvent) -> String {
    json!(event).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crabbox_schemas::error::ErrorCode;

    #[test]
    fn a_failure_says_what_to_branch_on() {
        let error = KernelError::new(ErrorCode::Auth, "no key").hint("set one").at("acquire");
        insta::assert_snapshot!(failure(&error, None), @r#"{"schemaVersion":1,"error":{"schemaVersion":1,"errorKind":"auth","stage":"acquire","by":"crabbox","message":"no key","hint":"set one","retryable":false,"exitCode":3}}"#);
        let record = RunRecord { id: "run_000000000001".into(), ..RunRecord::default() };
        assert_eq!(run_document(&record, Some(&error))["error"]["errorKind"], "auth");
        assert_eq!(run_document(&record, None).get("error"), None);
    }

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        let event = RunEvent { message: Some("a\nb\u{2028}".into()), ..RunEvent::default() };
        assert!(!event_line(&event).contains('\n'));
    }
}
