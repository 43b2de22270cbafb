//! `host/ws.*`: a WebSocket kept by the kernel, under the same grants as `host/http`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::http::HttpAuth;

/// Params of `host/ws.open`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WsOpenParams {
    /// The open call it belongs to.
    pub call: u64,
    /// `wss://` URL; its `https://` origin must be granted with the method `GET`.
    pub url: String,
    /// Header fields of the handshake.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How the handshake is authorised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<HttpAuth>,
    /// Subprotocols offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<String>,
    /// Milliseconds for the handshake; 30 000 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Result of `host/ws.open`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WsOpened {
    /// Name of the socket.
    pub socket: String,
    /// The subprotocol the server chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// Params of `host/ws.send`: one message; exactly one of `text` and `b64`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WsSendParams {
    /// The open call it belongs to.
    pub call: u64,
    /// The socket.
    pub socket: String,
    /// A text message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A binary message in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b64: Option<String>,
}

/// Params of `host/ws.recv`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WsRecvParams {
    /// The open call it belongs to.
    pub call: u64,
    /// The socket.
    pub socket: String,
    /// Milliseconds to wait for a message; 60 000 without. None in time is an empty result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Result of `host/ws.recv`: one message of at most 512 KiB, or the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WsMessage {
    /// A text message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A binary message in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64: Option<String>,
    /// The socket is closed, with this code (1005 when none was given, 1006 when it broke).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<u16>,
}

/// Params of `host/ws.close`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WsCloseParams {
    /// The open call it belongs to.
    pub call: u64,
    /// The socket.
    pub socket: String,
}
