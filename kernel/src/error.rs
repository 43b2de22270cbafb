//! The one error of the kernel: a code for programs, a sentence for people, a hint for both.

use std::fmt;

use crabbox_schemas::error::{ErrorCode, Failure, Outcome};

/// Why something failed, and what to do next.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelError {
    /// What to branch on.
    pub code: ErrorCode,
    /// A lowercase fragment without a full stop.
    pub message: String,
    /// Causes, outermost first.
    pub causes: Vec<String>,
    /// What the user can do next.
    pub hint: Option<String>,
    /// Machine types that could be had instead.
    pub alternatives: Vec<String>,
    /// Which step failed; filled in by the step that knows.
    pub stage: Option<&'static str>,
    /// What may have happened to the world, where that is in doubt.
    pub outcome: Option<Outcome>,
}

/// What every fallible kernel function returns.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

impl KernelError {
    /// A failure with a code and a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            alternatives: Vec::new(),
            stage: None,
            outcome: None,
        }
    }

    /// Adds what the user can do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a cause and the causes behind it.
    pub fn because(mut self, cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Names the step, unless a deeper one already did.
    pub fn at(mut self, stage: &'static str) -> Self {
        self.stage.get_or_insert(stage);
        self
    }

    /// Says what may have happened to the world.
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// The form `--json` prints.
    pub fn to_failure(&self) -> Failure {
        Failure {
            schema_version: crabbox_schemas::SCHEMA_VERSION,
            error_kind: self.code,
            stage: self.stage.unwrap_or("command-line").to_owned(),
            by: "crabbox".to_owned(),
            message: self.message.clone(),
            cause: self.causes.clone(),
            hint: self.hint.clone(),
            alternatives: self.alternatives.clone(),
            retryable: self.code.retryable(),
            outcome: self.outcome,
            exit_code: self.code.exit_status(),
            lease: None,
        }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for KernelError {}
