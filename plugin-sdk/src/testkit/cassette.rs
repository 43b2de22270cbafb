//! Recorded exchanges with a service: what a provider asks, and what it is answered.

use std::collections::VecDeque;

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{
    HttpOpened, HttpParams, HttpRead, HttpReadParams, HttpResult, ServerEvent,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// A list of exchanges, one a line: `{"request":{…},"response":{…}}`. Empty lines and those that begin with `#` are
/// skipped.
///
/// A request fits when method, URL and body are the same (a body as in `host/http`, JSON compared as JSON), and so are
/// those of `auth` and `headers` that are written down. A response is a result of `host/http`; `events` is what
/// `host/http.read` gives of an open one, and `{"error":{"kind":"transient","message":"…"}}` fails instead. Each exchange
/// is used once, in any order; with `"repeat":true` as often as it is asked for.
#[derive(Debug, Default)]
pub struct Cassette {
    exchanges: Vec<Exchange>,
    streams: Vec<Option<Tape>>,
    captured: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    request: Request,
    response: Response,
    #[serde(default)]
    repeat: bool,
    #[serde(skip)]
    used: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    method: String,
    url: String,
    body: Option<Value>,
    auth: Option<Value>,
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Response {
    status: u16,
    headers: std::collections::BTreeMap<String, String>,
    json: Option<Value>,
    text: Option<String>,
    b64: Option<String>,
    events: Vec<ServerEvent>,
    error: Option<Broken>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Broken {
    kind: ErrorKind,
    message: String,
}

/// What is left of an open answer.
#[derive(Debug)]
struct Tape {
    events: VecDeque<ServerEvent>,
    body: Option<(Option<String>, Option<String>)>,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            status: 200,
            headers: Default::default(),
            json: None,
            text: None,
            b64: None,
            events: Vec::new(),
            error: None,
        }
    }
}

impl Cassette {
    /// Reads the lines; the error names the first that is no exchange.
    pub fn parse(lines: &str) -> Result<Self, String> {
        let written = lines.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
        let exchanges = written
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(n, line)| serde_json::from_str(line).map_err(|e| format!("line {n}: {e}")))
            .collect::<Result<_, _>>()?;
        Ok(Self { exchanges, ..Self::default() })
    }

    /// What was never asked for.
    pub fn unused(&self) -> Vec<String> {
        let left = self.exchanges.iter().filter(|exchange| !exchange.used && !exchange.repeat);
        left.map(|exchange| format!("{} {}", exchange.request.method, exchange.request.url))
            .collect()
    }

    /// Answers `host/http`.
    pub(super) fn http(&mut self, params: &HttpParams) -> Result<HttpResult, RpcError> {
        let Response { status, headers, mut json, text, b64, .. } = self.play(params)?;
        for capture in &params.capture {
            let place = json.as_mut().and_then(|json| json.pointer_mut(&capture.pointer));
            if let Some(place) = place.filter(|place| place.is_string()) {
                self.captured += 1;
                *place = json!({ "$secret": format!("captured:{}", self.captured) });
            }
        }
        Ok(HttpResult { status, headers, json, text, b64, blob: None })
    }

    /// Answers `host/http.open`.
    pub(super) fn open(&mut self, params: &HttpParams) -> Result<HttpOpened, RpcError> {
        let Response { status, headers, json, text, b64, events, .. } = self.play(params)?;
        let text = text.or_else(|| json.map(|json| json.to_string()));
        self.streams.push(Some(Tape { events: events.into(), body: Some((text, b64)) }));
        Ok(HttpOpened { stream: format!("s{}", self.streams.len()), status, headers })
    }

    /// Answers `host/http.read`: one event or the whole body at a time.
    pub(super) fn read(&mut self, params: &HttpReadParams) -> Result<HttpRead, RpcError> {
        let Some(tape) = self.tape(&params.stream).and_then(Option::as_mut) else {
            return Err(RpcError::of(ErrorKind::NotFound, "no such stream"));
        };
        if params.events {
            let events = tape.events.pop_front().into_iter().collect();
            return Ok(HttpRead { events, end: tape.events.is_empty(), ..HttpRead::default() });
        }
        let (text, b64) = tape.body.take().unwrap_or_default();
        Ok(HttpRead { text, b64, end: true, ..HttpRead::default() })
    }

    /// Answers `host/http.close`.
    pub(super) fn close(&mut self, stream: &str) {
        if let Some(tape) = self.tape(stream) {
            *tape = None;
        }
    }

    fn tape(&mut self, stream: &str) -> Option<&mut Option<Tape>> {
        let number: usize = stream.strip_prefix('s')?.parse().ok()?;
        self.streams.get_mut(number.checked_sub(1)?)
    }

    fn play(&mut self, params: &HttpParams) -> Result<Response, RpcError> {
        let asked = serde_json::to_value(params).unwrap_or_default();
        let fits = |e: &&mut Exchange| (!e.used || e.repeat) && e.request.fits(params, &asked);
        let Some(exchange) = self.exchanges.iter_mut().find(fits) else {
            let body = asked.get("body").map(|body| format!(" with {body}")).unwrap_or_default();
            let message = format!("not in the cassette: {} {}{body}", params.method, params.url);
            return Err(RpcError::of(ErrorKind::Internal, message));
        };
        exchange.used = true;
        match &exchange.response.error {
            Some(broken) => Err(RpcError::of(broken.kind, broken.message.clone())),
            None => Ok(exchange.response.clone()),
        }
    }
}

impl Request {
    fn fits(&self, params: &HttpParams, asked: &Value) -> bool {
        let body = self.body.as_ref();
        self.method.eq_ignore_ascii_case(&params.method)
            && self.url == params.url
            && body == asked.get("body")
            && self.auth.as_ref().is_none_or(|auth| asked.get("auth") == Some(auth))
            && self.headers.iter().all(|(name, value)| asked["headers"].get(name) == Some(value))
    }
}
