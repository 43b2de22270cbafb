//! One JSON-RPC 2.0 object: a request, a response or a notification.

use std::fmt;

use crabbox_schemas::error::RpcError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Deepest nesting of objects and arrays a frame may have.
pub const MAX_DEPTH: usize = 64;

/// Bytes of a bad line kept for the error.
const SAMPLE: usize = 200;

/// Names a request: the kernel counts `1, 2, …`, a plugin says `"p1", "p2", …`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// Made by the kernel.
    Number(u64),
    /// Made by a plugin.
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Number(n) => n.fmt(f),
            Id::Text(text) => text.fmt(f),
        }
    }
}

/// One line of the wire.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Wants an answer.
    Request {
        /// Repeated in the answer.
        id: Id,
        /// What to do.
        method: String,
        /// An object.
        params: Value,
    },
    /// Answers a request.
    Response {
        /// The request's id.
        id: Id,
        /// How it went.
        result: Result<Value, RpcError>,
    },
    /// Wants no answer.
    Notification {
        /// What happened.
        method: String,
        /// An object.
        params: Value,
    },
}

/// Why a line is not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The line is longer than allowed.
    #[error("a line is longer than {max} bytes: {sample}")]
    TooLong {
        /// The limit.
        max: usize,
        /// Its beginning, escaped.
        sample: String,
    },
    /// The line is not the JSON object it should be.
    #[error("{reason}: {sample}")]
    NotAFrame {
        /// What is wrong with it.
        reason: String,
        /// Its beginning, escaped.
        sample: String,
    },
}

impl WireError {
    pub(crate) fn too_long(line: &[u8], max: usize) -> Self {
        Self::TooLong { max, sample: sample(line) }
    }

    pub(crate) fn bad(line: &[u8], reason: impl Into<String>) -> Self {
        Self::NotAFrame { reason: reason.into(), sample: sample(line) }
    }

    /// The first 200 bytes of the line, escaped.
    pub fn sample(&self) -> &str {
        match self {
            Self::TooLong { sample, .. } | Self::NotAFrame { sample, .. } => sample,
        }
    }
}

fn sample(line: &[u8]) -> String {
    line[..line.len().min(SAMPLE)].escape_ascii().to_string()
}

impl Frame {
    /// A request with typed params.
    pub fn request(id: Id, method: &str, params: &impl Serialize) -> Result<Self, WireError> {
        Ok(Self::Request { id, method: method.to_owned(), params: value(params)? })
    }

    /// A notification with typed params.
    pub fn notification(method: &str, params: &impl Serialize) -> Result<Self, WireError> {
        Ok(Self::Notification { method: method.to_owned(), params: value(params)? })
    }

    /// A good answer with a typed result.
    pub fn success(id: Id, result: &impl Serialize) -> Result<Self, WireError> {
        Ok(Self::Response { id, result: Ok(value(result)?) })
    }

    /// A bad answer.
    pub fn failure(id: Id, error: RpcError) -> Self {
        Self::Response { id, result: Err(error) }
    }

    /// Reads one line without its LF.
    pub fn decode(line: &[u8]) -> Result<Self, WireError> {
        let text =
            std::str::from_utf8(line).map_err(|_| WireError::bad(line, "a line is not UTF-8"))?;
        if !text.trim_start().starts_with('{') {
            return Err(WireError::bad(line, "a line is not a JSON object"));
        }
        if is_too_deep(line) {
            return Err(WireError::bad(line, "a line is nested too deeply"));
        }
        let object: Map<String, Value> = serde_json::from_str(text)
            .map_err(|e| WireError::bad(line, format!("a line is not JSON ({e})")))?;
        Self::from_object(object).map_err(|reason| WireError::bad(line, reason))
    }

    fn from_object(mut object: Map<String, Value>) -> Result<Self, String> {
        if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return Err("a frame does not say \"jsonrpc\":\"2.0\"".into());
        }
        let id =
            object.remove("id").map(read).transpose().map_err(|e| format!("a bad id ({e})"))?;
        let Some(method) = object.remove("method") else {
            let id = id.ok_or("a frame has neither method nor id")?;
            return Ok(Self::Response { id, result: outcome(object)? });
        };
        let Value::String(method) = method else { return Err("a method is not a string".into()) };
        let params = object.remove("params").unwrap_or_else(|| json!({}));
        if !params.is_object() {
            return Err(format!("params of {method} are not an object"));
        }
        Ok(match id {
            Some(id) => Self::Request { id, method, params },
            None => Self::Notification { method, params },
        })
    }

    /// The line to write, LF included; refused when it would be longer than `max_line`.
    pub fn encode(&self, max_line: usize) -> Result<Vec<u8>, WireError> {
        let object = match self {
            Self::Request { id, method, params } => {
                json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
            }
            Self::Notification { method, params } => {
                json!({"jsonrpc": "2.0", "method": method, "params": params})
            }
            Self::Response { id, result: Ok(result) } => {
                json!({"jsonrpc": "2.0", "id": id, "result": result})
            }
            Self::Response { id, result: Err(error) } => {
                json!({"jsonrpc": "2.0", "id": id, "error": error})
            }
        };
        let mut line = object.to_string().into_bytes();
        line.push(b'\n');
        if line.len() > max_line {
            return Err(WireError::too_long(&line, max_line));
        }
        Ok(line)
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(value)
}

fn value(of: &impl Serialize) -> Result<Value, WireError> {
    serde_json::to_value(of).map_err(|e| WireError::bad(b"", format!("cannot be encoded ({e})")))
}

fn outcome(mut object: Map<String, Value>) -> Result<Result<Value, RpcError>, String> {
    match (object.remove("result"), object.remove("error")) {
        (Some(result), None) => Ok(Ok(result)),
        (None, Some(error)) => {
            read(error).map(Err).map_err(|e| format!("a bad error object ({e})"))
        }
        _ => Err("a response has not exactly one of result and error".into()),
    }
}

/// Whether brackets outside strings nest deeper than allowed; looks at each byte once.
fn is_too_deep(line: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}
