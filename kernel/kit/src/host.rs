//! What the kit answers when a plugin asks: a journal, values, time that costs nothing, canaries for secrets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::plugin::callback;
use serde_json::{Value, json};

use crate::peer::Tools;

/// What stands for every secret: it may go nowhere.
pub(crate) const CANARY: &str = "canary-7d1f0c9a-never-print-me";

/// The kernel's side of callbacks.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// Resources that were recorded and not forgotten, by provider id.
    pub(crate) journal: BTreeMap<String, Value>,
    values: BTreeMap<String, String>,
    /// Where they are kept.
    kept: PathBuf,
    /// Runs the tools that the plugin was granted.
    tools: Tools,
}

impl Host {
    /// A kernel that runs these tools, and keeps small values in a file: they outlive a plugin's process.
    pub(crate) fn with(tools: Tools, kept: PathBuf) -> Self {
        let text = std::fs::read(&kept).unwrap_or_default();
        let values = serde_json::from_slice(&text).unwrap_or_default();
        Self { tools, kept, values, ..Self::default() }
    }

    fn keep(&self) {
        // A value that could not be kept is missed by the check that asks for it.
        let _ = std::fs::write(&self.kept, json!(self.values).to_string());
    }

    /// The answer to one callback: a `result` or an `error` member.
    pub(crate) fn answer(&mut self, method: &str, params: &Value) -> (&'static str, Value) {
        let text = |name: &str| params[name].as_str().unwrap_or_default().to_owned();
        let result = match method {
            callback::RESOURCE_RECORD => {
                let resource = params["resource"].clone();
                let id = resource["cloudId"].as_str().unwrap_or_default().to_owned();
                self.journal.insert(id, resource);
                json!({})
            }
            callback::RESOURCE_FORGET => {
                self.journal.remove(params["resource"]["cloudId"].as_str().unwrap_or_default());
                json!({})
            }
            callback::SLEEP => json!({"woken": "time"}),
            callback::SECRET_REVEAL => json!({"value": CANARY}),
            callback::KV_PUT => {
                self.values.insert(text("key"), text("value"));
                self.keep();
                json!({})
            }
            callback::KV_DELETE => {
                self.values.remove(&text("key"));
                self.keep();
                json!({})
            }
            callback::KV_GET => match self.values.get(&text("key")) {
                Some(value) => json!({"value": value}),
                None => json!({}),
            },
            callback::KV_LIST => {
                let prefix = text("key");
                let keys: Vec<_> = self.values.keys().filter(|k| k.starts_with(&prefix)).collect();
                json!({"keys": keys})
            }
            callback::EXEC => match serde_json::from_value(params.clone()) {
                Ok(params) => match self.tools.run(&params) {
                    Ok(result) => json!(result),
                    Err((kind, what)) => return ("error", error(kind, &what)),
                },
                Err(e) => return ("error", error(ErrorKind::InvalidRequest, &e.to_string())),
            },
            callback::PROMPT => {
                return ("error", error(ErrorKind::Unsupported, "nobody is there to answer"));
            }
            _ => {
                let what = format!("the kit does not serve {method}");
                return ("error", error(ErrorKind::Unsupported, &what));
            }
        };
        ("result", result)
    }
}

/// An error object of the protocol.
pub(crate) fn error(kind: ErrorKind, message: &str) -> Value {
    json!({"code": kind.rpc_code(), "message": message, "data": {"kind": kind}})
}
