//! One question asked by hand, for people who write or inspect a plugin: only such as change nothing.

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::Stop;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::plugin::{BareParams, method};
use serde_json::{Map, Value};

use crate::call::Hands;
use crate::handshake::context;
use crate::session::Session;

/// The methods that change nothing.
pub const QUESTIONS: &[&str] = &[
    method::CONFIG_VALIDATE,
    method::DOCTOR,
    method::LEASE_LIST,
    method::LEASE_RESOLVE,
    method::RUN_LIST,
    method::RUN_STATUS,
    method::CATALOG_SIZES,
    method::CATALOG_REGIONS,
    method::PRICING_QUOTE,
    method::EVIDENCE_COLLECT,
];

impl Session {
    /// Calls a method with these params and gives its result as it came. `ctx` is filled in.
    pub async fn question(&self, name: &str, params: Map<String, Value>) -> Result<Value> {
        let Some(&name) = QUESTIONS.iter().find(|known| **known == name) else {
            return Err(KernelError::new(
                ErrorCode::Usage,
                format!("{name} is not asked by hand: it may change something, or does not exist"),
            )
            .hint(format!("these can be asked: {}", QUESTIONS.join(", "))));
        };
        let shape = self.read(name);
        let bounds = BareParams { ctx: context(shape.deadline, shape.grace, "by-hand") };
        let mut whole = serde_json::to_value(bounds).unwrap_or_default();
        if let Some(whole) = whole.as_object_mut() {
            whole.extend(params);
        }
        self.ask(shape, &whole, Hands::default(), &Stop::never()).await
    }
}
