//! `host/blob.*`: files the kernel keeps for a call, so that large contents need not cross the pipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Params of `host/blob.create` (`blob` absent), `host/blob.seal` and, without more, `host/blob.drop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlobParams {
    /// The open call it belongs to.
    pub call: u64,
    /// The blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
}

/// Result of `host/blob.create` and `host/blob.seal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlobFacts {
    /// Name of the blob; it lives as long as the session.
    pub blob: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its content in hex, once it is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Params of `host/blob.write`: appends; exactly one of `text` and `b64`, at most 48 KiB of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlobWriteParams {
    /// The open call it belongs to.
    pub call: u64,
    /// A blob that is not sealed.
    pub blob: String,
    /// The bytes, when they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64 otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b64: Option<String>,
}

/// Params of `host/blob.read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlobReadParams {
    /// The open call it belongs to.
    pub call: u64,
    /// A sealed blob.
    pub blob: String,
    /// First byte.
    pub off: u64,
    /// Most bytes; 48 KiB at most.
    pub max: u64,
}

/// Result of `host/blob.read`; no bytes are the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BlobBytes {
    /// The bytes, when they are UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64 otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64: Option<String>,
}
