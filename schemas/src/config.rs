//! The shape of a configuration file as written: every key optional, provider blocks opaque.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `.crabbox.yaml`, `crabbox.yaml` and the user's `config.yaml`. Durations are text such as `90m`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigFile {
    /// Provider settings by provider name, checked by the provider's own schema.
    pub providers: BTreeMap<String, Value>,
}
