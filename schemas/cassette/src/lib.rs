//! Recorded exchanges with a service: what a plugin asks, and what it is answered.
//!
//! A cassette is JSON lines; empty ones and those that begin with `#` are skipped. Each line is one of:
//!
//! | Line | Answers |
//! |---|---|
//! | `{"request":{…},"response":{…}}` | `host/http`, and `host/http.open` with what is read of it |
//! | `{"exec":{"tool":"toyctl","args":["ls"]},"result":{"exitCode":0,"stdout":"…"}}` | `host/exec` |
//! | `{"prompt":{"kind":"text"},"answer":"north"}` | `host/prompt` |
//! | `{"ws":"wss://…","messages":[{"text":"…"}]}` | `host/ws.*`: what comes, then the end |
//!
//! A request fits when method, URL and body are the same (a body as in `host/http`, JSON compared as JSON), and so are
//! those of `auth` and `headers` that are written down; `"$any"` in a body, or for it, is anything, and `"$any":"$any"`
//! in an object any other members. A response is a
//! result of `host/http`; `events` is what `host/http.read` gives of an open one, and
//! `{"error":{"kind":"transient","message":"…"}}` fails instead. Each exchange is used once, in any order; with
//! `"repeat":true` as often as it is asked for.
//!
//! A service remembers. `"sets":"server"` says that from this exchange on there is a server, `"clears":"server"` that it is
//! gone; one with `"when":"server"` or `"unless":"server"` fits only then. `"reads":true` says that it changes nothing, of
//! a service that is asked for everything in the same way.

mod exchange;

use std::collections::{BTreeSet, VecDeque};

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{
    ExecParams, ExecResult, HttpOpened, HttpParams, HttpRead, HttpReadParams, HttpResult,
    PromptParams, ServerEvent, WsMessage,
};
use serde_json::json;

use exchange::{Exchange, Line, Response};

/// A list of exchanges, and how far they were played.
#[derive(Debug, Default)]
pub struct Cassette {
    exchanges: Vec<Exchange>,
    streams: Vec<Option<Tape>>,
    sockets: Vec<VecDeque<WsMessage>>,
    captured: usize,
    /// What the service has now.
    standing: BTreeSet<String>,
    /// Whether the last exchange changed nothing by its own word.
    read: bool,
}

/// What is left of an open answer.
#[derive(Debug)]
struct Tape {
    events: VecDeque<ServerEvent>,
    body: Option<(Option<String>, Option<String>)>,
}

type Answer<T> = Result<T, RpcError>;

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
        left.map(|exchange| exchange.line.shown()).collect()
    }

    /// What the service still has: set, and not cleared.
    pub fn standing(&self) -> impl Iterator<Item = &str> {
        self.standing.iter().map(String::as_str)
    }

    /// Whether the exchange that was played last says that it changes nothing.
    pub fn only_read(&self) -> bool {
        self.read
    }

    /// Answers `host/http`.
    pub fn http(&mut self, params: &HttpParams) -> Answer<HttpResult> {
        let Response { status, headers, mut json, text, b64, .. } = self.respond(params)?;
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
    pub fn open(&mut self, params: &HttpParams) -> Answer<HttpOpened> {
        let Response { status, headers, json, text, b64, events, .. } = self.respond(params)?;
        let text = text.or_else(|| json.map(|json| json.to_string()));
        self.streams.push(Some(Tape { events: events.into(), body: Some((text, b64)) }));
        Ok(HttpOpened { stream: format!("s{}", self.streams.len()), status, headers })
    }

    /// Answers `host/http.read`: one event or the whole body at a time.
    pub fn read(&mut self, params: &HttpReadParams) -> Answer<HttpRead> {
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
    pub fn close(&mut self, stream: &str) {
        if let Some(tape) = self.tape(stream) {
            *tape = None;
        }
    }

    /// Answers `host/exec`.
    pub fn exec(&mut self, params: &ExecParams) -> Answer<ExecResult> {
        let shown = format!("{} {}", params.tool, params.args.join(" "));
        let line = self.play(&shown, |line| line.is_tool(params))?;
        match line {
            Line::Exec { result, .. } => Ok(result.into()),
            _ => Err(missing(&shown)),
        }
    }

    /// Answers `host/prompt`.
    pub fn prompt(&mut self, params: &PromptParams) -> Answer<String> {
        let shown = format!("question {:?}", params.message);
        match self.play(&shown, |line| line.is_question(params))? {
            Line::Prompt { answer, .. } => Ok(answer),
            _ => Err(missing(&shown)),
        }
    }

    /// Answers `host/ws.open`: the socket's name.
    pub fn socket(&mut self, url: &str) -> Answer<String> {
        let line = self.play(url, |line| matches!(line, Line::Ws { ws, .. } if ws == url))?;
        let Line::Ws { messages, .. } = line else { return Err(missing(url)) };
        self.sockets.push(messages.into());
        Ok(format!("w{}", self.sockets.len()))
    }

    /// Answers `host/ws.recv`: the next message, then that the other side closed.
    pub fn receive(&mut self, socket: &str) -> Answer<WsMessage> {
        let number = socket.strip_prefix('w').and_then(|n| n.parse::<usize>().ok());
        let socket = number.and_then(|n| self.sockets.get_mut(n.checked_sub(1)?));
        let Some(messages) = socket else {
            return Err(RpcError::of(ErrorKind::NotFound, "no such socket"));
        };
        let end = || WsMessage { closed: Some(1000), ..WsMessage::default() };
        Ok(messages.pop_front().unwrap_or_else(end))
    }

    fn tape(&mut self, stream: &str) -> Option<&mut Option<Tape>> {
        let number: usize = stream.strip_prefix('s')?.parse().ok()?;
        self.streams.get_mut(number.checked_sub(1)?)
    }

    fn respond(&mut self, params: &HttpParams) -> Answer<Response> {
        let asked = serde_json::to_value(params).unwrap_or_default();
        let body = asked.get("body").map(|body| format!(" with {body}")).unwrap_or_default();
        let shown = format!("{} {}{body}", params.method, params.url);
        match self.play(&shown, |line| line.is_request(params, &asked))? {
            Line::Http { response, .. } => match &response.error {
                Some(broken) => Err(RpcError::of(broken.kind, broken.message.clone())),
                None => Ok(*response),
            },
            _ => Err(missing(&shown)),
        }
    }

    /// The first exchange that fits now.
    fn play(&mut self, shown: &str, fits: impl Fn(&Line) -> bool) -> Answer<Line> {
        self.read = false;
        let standing = &mut self.standing;
        let open = |exchange: &&mut Exchange| {
            (!exchange.used || exchange.repeat) && exchange.holds(standing) && fits(&exchange.line)
        };
        let exchange = self.exchanges.iter_mut().find(open).ok_or_else(|| missing(shown))?;
        exchange.used = true;
        self.read = exchange.reads;
        standing.extend(exchange.sets.clone());
        if let Some(gone) = &exchange.clears {
            standing.remove(gone);
        }
        Ok(exchange.line.clone())
    }
}

fn missing(shown: &str) -> RpcError {
    RpcError::of(ErrorKind::Internal, format!("not in the cassette: {shown}"))
}
