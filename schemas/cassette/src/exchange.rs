//! One line of a cassette, and what it fits.

use std::collections::{BTreeMap, BTreeSet};

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::plugin::{
    ExecParams, ExecResult, HttpParams, PromptParams, ServerEvent, WsMessage,
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Stands for anything.
const ANY: &str = "$any";

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) struct Exchange {
    pub(crate) line: Line,
    pub(crate) repeat: bool,
    pub(crate) used: bool,
    pub(crate) reads: bool,
    when: Option<String>,
    unless: Option<String>,
    pub(crate) sets: Option<String>,
    pub(crate) clears: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum Line {
    Http { request: Box<Request>, response: Box<Response> },
    Exec { exec: Exec, result: Printed },
    Prompt { prompt: Question, answer: String },
    Ws { ws: String, messages: Vec<WsMessage> },
}

/// A line as it is written: exactly one of the four forms.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    request: Option<Request>,
    response: Option<Response>,
    exec: Option<Exec>,
    result: Option<Printed>,
    prompt: Option<Question>,
    answer: Option<String>,
    ws: Option<String>,
    #[serde(default)]
    messages: Vec<WsMessage>,
    #[serde(default)]
    repeat: bool,
    #[serde(default)]
    reads: bool,
    when: Option<String>,
    unless: Option<String>,
    sets: Option<String>,
    clears: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    method: String,
    url: String,
    body: Option<Value>,
    auth: Option<Value>,
    #[serde(default)]
    headers: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) json: Option<Value>,
    pub(crate) text: Option<String>,
    pub(crate) b64: Option<String>,
    pub(crate) events: Vec<ServerEvent>,
    pub(crate) error: Option<Broken>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Broken {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exec {
    tool: String,
    args: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Printed {
    exit_code: i32,
    stdout: String,
    stderr: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    kind: String,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            status: 200,
            headers: BTreeMap::new(),
            json: None,
            text: None,
            b64: None,
            events: Vec::new(),
            error: None,
        }
    }
}

impl From<Printed> for ExecResult {
    fn from(printed: Printed) -> Self {
        let Printed { exit_code, stdout, stderr } = printed;
        Self { exit_code, stdout, stderr, truncated: false }
    }
}

impl TryFrom<Written> for Exchange {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { repeat, reads, when, unless, sets, clears, messages, .. } = written;
        let line = match (written.request, written.exec, written.prompt, written.ws) {
            (Some(request), None, None, None) => {
                let response = written.response.ok_or("no response")?;
                Line::Http { request: Box::new(request), response: Box::new(response) }
            }
            (None, Some(exec), None, None) => {
                Line::Exec { exec, result: written.result.unwrap_or_default() }
            }
            (None, None, Some(prompt), None) => {
                Line::Prompt { prompt, answer: written.answer.ok_or("no answer")? }
            }
            (None, None, None, Some(ws)) => Line::Ws { ws, messages },
            _ => return Err("not exactly one of request, exec, prompt and ws"),
        };
        Ok(Self { line, repeat, reads, used: false, when, unless, sets, clears })
    }
}

impl Exchange {
    /// Whether the service is in the state this belongs to.
    pub(crate) fn holds(&self, standing: &BTreeSet<String>) -> bool {
        self.when.as_ref().is_none_or(|thing| standing.contains(thing))
            && self.unless.as_ref().is_none_or(|thing| !standing.contains(thing))
    }
}

impl Line {
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Http { request, .. } => format!("{} {}", request.method, request.url),
            Self::Exec { exec, .. } => exec.tool.clone(),
            Self::Prompt { prompt, .. } => format!("question of kind {}", prompt.kind),
            Self::Ws { ws, .. } => ws.clone(),
        }
    }

    pub(crate) fn is_request(&self, params: &HttpParams, asked: &Value) -> bool {
        let Self::Http { request, .. } = self else { return false };
        let body = asked.get("body");
        let fits = |written: &Value| body.is_some_and(|body| alike(written, body));
        request.method.eq_ignore_ascii_case(&params.method)
            && request.url == params.url
            && request
                .body
                .as_ref()
                .map_or(body.is_none(), |written| written == ANY || fits(written))
            && request.auth.as_ref().is_none_or(|auth| asked.get("auth") == Some(auth))
            && request.headers.iter().all(|(name, value)| asked["headers"].get(name) == Some(value))
    }

    pub(crate) fn is_tool(&self, params: &ExecParams) -> bool {
        let Self::Exec { exec, .. } = self else { return false };
        exec.tool == params.tool && exec.args.as_ref().is_none_or(|args| *args == params.args)
    }

    pub(crate) fn is_question(&self, params: &PromptParams) -> bool {
        matches!(self, Self::Prompt { prompt, .. } if prompt.kind == params.kind)
    }
}

/// Whether a value is what is written, where `$any` is anything, and as a member's name any other members.
fn alike(written: &Value, value: &Value) -> bool {
    match (written, value) {
        (Value::String(text), _) if text == ANY => true,
        (Value::Object(written), Value::Object(value)) => {
            (written.contains_key(ANY) || written.len() == value.len())
                && written
                    .iter()
                    .all(|(name, w)| name == ANY || value.get(name).is_some_and(|v| alike(w, v)))
        }
        (Value::Array(written), Value::Array(value)) => {
            written.len() == value.len() && written.iter().zip(value).all(|(w, v)| alike(w, v))
        }
        (written, value) => written == value,
    }
}
