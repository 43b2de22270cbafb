//! `host/http`: one request made by the kernel, which holds the credentials and keeps to the grants.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Params of `host/http` and `host/http.open`.
///
/// The URL's origin and the method must be granted. Redirects are followed at most five times and checked again
/// each time; credentials do not follow to another origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpParams {
    /// The open call it belongs to.
    pub call: u64,
    /// `GET`, `POST` …
    pub method: String,
    /// Absolute URL without user information.
    pub url: String,
    /// Pairs that the kernel adds to the URL's query, for services that take a secret nowhere else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, SecretText>,
    /// Header fields. Credentials belong in `auth`; `host`, `content-length` and `connection` are the kernel's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// What is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<HttpBody>,
    /// How the request is authorised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<HttpAuth>,
    /// Members of a JSON answer that become secrets before the plugin sees it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capture: Vec<Capture>,
    /// Milliseconds until the answer must be whole (`host/http`) or begun (`host/http.open`); 60 000 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Most bytes of the answer's body; 512 KiB without, 8 MiB at most. With `intoBlob` as many as the disk has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_response: Option<u64>,
    /// Put the answer's body in a new blob instead of the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub into_blob: bool,
}

impl HttpParams {
    /// A plain request, of no call yet.
    pub fn new(method: &str, url: &str) -> Self {
        Self {
            call: 0,
            method: method.to_owned(),
            url: url.to_owned(),
            query: BTreeMap::new(),
            headers: BTreeMap::new(),
            body: None,
            auth: None,
            capture: Vec::new(),
            timeout_ms: None,
            max_response: None,
            into_blob: false,
        }
    }
}

/// The body of a request; exactly one member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HttpBody {
    /// As it is.
    Text(String),
    /// Bytes in base64.
    B64(String),
    /// JSON; a node `{"$secret": handle}` is replaced by the secret's text.
    Json(Value),
    /// `application/x-www-form-urlencoded`; values may be `{"$secret": handle}`.
    Form(BTreeMap<String, SecretText>),
    /// `multipart/form-data`.
    Multipart(Vec<Part>),
    /// The content of a sealed blob.
    Blob(String),
}

/// One part of a multipart body: a value, or a blob as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// The field's name.
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Or a sealed blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
    /// The name the file is said to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// Its media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

/// Plain text, or a secret by its handle: `{"$secret": handle}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum SecretText {
    /// Nothing to hide.
    Plain(String),
    /// The handle of a secret: the name of a setting, or what a capture left.
    Secret(String),
}

impl TryFrom<Value> for SecretText {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match (&value, value.get("$secret")) {
            (Value::String(text), _) => Ok(Self::Plain(text.clone())),
            (Value::Object(_), Some(Value::String(handle))) => Ok(Self::Secret(handle.clone())),
            _ => Err("neither a text nor {\"$secret\": handle}".to_owned()),
        }
    }
}

impl From<SecretText> for Value {
    fn from(text: SecretText) -> Self {
        match text {
            SecretText::Plain(text) => Self::String(text),
            SecretText::Secret(handle) => json!({ "$secret": handle }),
        }
    }
}

impl JsonSchema for SecretText {
    fn schema_name() -> Cow<'static, str> {
        "SecretText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Plain text, or a secret by its handle.",
            "oneOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "$secret": { "type": "string" } },
                    "required": ["$secret"],
                },
            ],
        })
    }
}

/// How a request is authorised; exactly one member. Every secret is named by its handle, and is used only for
/// origins its grant allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HttpAuth {
    /// `Authorization: Bearer …`
    Bearer(String),
    /// `Authorization: Basic …`
    Basic(BasicAuth),
    /// A header field of the service's own.
    Header(HeaderAuth),
    /// AWS Signature Version 4.
    Sigv4(Sigv4Auth),
    /// OAuth 2 client credentials: the kernel fetches, keeps and renews the token.
    Oauth2(Oauth2Auth),
}

/// User name and password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BasicAuth {
    /// The user.
    pub username: SecretText,
    /// Handle of the password.
    pub password: String,
}

/// A header field that holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeaderAuth {
    /// The field's name, such as `x-api-key`.
    pub name: String,
    /// What stands before the secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Handle of the secret.
    pub secret: String,
}

/// What AWS Signature Version 4 needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sigv4Auth {
    /// Handle of the access key id; not beside `credentials`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub access_key: String,
    /// Handle of the secret access key; not beside `credentials`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secret_key: String,
    /// Handle of the session token, for temporary credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<String>,
    /// Or the handle of all of them together, as a `credential_process` prints them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// Such as `ec2`.
    pub service: String,
    /// Such as `eu-central-1`.
    pub region: String,
}

/// What an OAuth 2 client-credentials exchange needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Oauth2Auth {
    /// Where tokens are given out; its origin must be granted.
    pub token_url: String,
    /// The client.
    pub client_id: SecretText,
    /// Handle of its secret.
    pub client_secret: String,
    /// What the token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// A member of a JSON answer that becomes a secret: in its place stands `{"$secret": handle}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capture {
    /// JSON pointer of a string.
    pub pointer: String,
    /// Origins it may be sent to; the request's own without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// Milliseconds after which it is forgotten; with the session at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// Result of `host/http`. A status of 400 and more is an answer, not an error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpResult {
    /// Status code.
    pub status: u16,
    /// Header fields, names in lower case, repeated ones joined with `, `. Cookies are left out.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body, when its media type is JSON and it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// The body, when it is UTF-8 otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The body in base64 otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b64: Option<String>,
    /// The blob it is in, with `intoBlob`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
}

/// Result of `host/http.open`: an answer whose body is read bit by bit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpOpened {
    /// Name of the stream.
    pub stream: String,
    /// Status code.
    pub status: u16,
    /// Header fields, as in `host/http`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// Params of `host/http.read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpReadParams {
    /// The open call it belongs to.
    pub call: u64,
    /// The stream.
    pub stream: String,
    /// Read server-sent events instead of bytes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub events: bool,
    /// Milliseconds to wait for something; 60 000 without. Nothing in time is an empty result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Result of `host/http.read`: at most 48 KiB of bytes, or the events that have come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HttpRead {
    /// Bytes, when they are UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Bytes in base64 otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64: Option<String>,
    /// Server-sent events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<ServerEvent>,
    /// Milliseconds the server wants to pass before somebody asks again, once it said so.
    #[serde(rename = "retryMs", skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
    /// The body is over.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
}

/// One server-sent event (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServerEvent {
    /// Its type; `message` when the server named none.
    pub event: String,
    /// Its data, lines joined with LF.
    pub data: String,
    /// The last event id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
}

/// Params of `host/http.close`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpCloseParams {
    /// The open call it belongs to.
    pub call: u64,
    /// The stream.
    pub stream: String,
}
