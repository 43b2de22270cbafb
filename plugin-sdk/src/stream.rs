//! Answers and sockets that are open for a while: bytes, server-sent events, messages.

use std::collections::VecDeque;
use std::time::Duration;

use crabbox_schemas::plugin::{
    HttpAuth, HttpCloseParams, HttpOpened, HttpParams, HttpRead, HttpReadParams, ServerEvent,
    WsCloseParams, WsMessage, WsOpenParams, WsOpened, WsRecvParams, WsSendParams,
};
use crabbox_wire::payload;
use serde::de::DeserializeOwned;

use crate::call::{bytes_of, millis};
use crate::doors::{HttpClose, HttpOpen, HttpReadOn, WsClose, WsOpen, WsRecv, WsSend};
use crate::{Call, Failure};

/// What came next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<T> {
    /// This.
    Item(T),
    /// Nothing, in the time that was given.
    Quiet,
    /// The end.
    End,
}

/// An answer whose body is read bit by bit, either as bytes or as events. Dropping it closes it.
#[derive(Debug)]
pub struct HttpStream<'a> {
    call: &'a Call,
    opened: HttpOpened,
    events: VecDeque<ServerEvent>,
    ended: bool,
}

impl<'a> HttpStream<'a> {
    pub(crate) fn open(call: &'a Call, params: &HttpParams) -> Result<Self, Failure> {
        let opened = call.ask::<HttpOpen>(params)?;
        Ok(Self { call, opened, events: VecDeque::new(), ended: false })
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.opened.status
    }

    /// A header field, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.opened.headers.get(name).map(String::as_str)
    }

    /// The next bytes.
    pub fn bytes(&mut self, wait: Duration) -> Result<Next<Vec<u8>>, Failure> {
        if self.ended {
            return Ok(Next::End);
        }
        let read = self.read(false, wait)?;
        self.ended = read.end;
        match bytes_of(read.text, read.b64)? {
            Some(bytes) => Ok(Next::Item(bytes)),
            None if self.ended => Ok(Next::End),
            None => Ok(Next::Quiet),
        }
    }

    /// The whole body as JSON, when it is longer than an answer of [`send`](crate::HttpRequest::send) may be: after so
    /// long a silence, and beyond so many bytes, it is given up.
    pub fn json<T: DeserializeOwned>(mut self, quiet: Duration, most: usize) -> Result<T, Failure> {
        let mut text = Vec::new();
        while let Next::Item(bytes) = self.bytes(quiet)? {
            text.extend(bytes);
            if text.len() > most {
                return Err(Failure::quota(format!("an answer has more than {most} bytes")));
            }
        }
        serde_json::from_slice(&text)
            .map_err(|error| Failure::transient("an answer cannot be read").because(&error))
    }

    /// The next server-sent event.
    pub fn event(&mut self, wait: Duration) -> Result<Next<ServerEvent>, Failure> {
        if self.events.is_empty() && !self.ended {
            let read = self.read(true, wait)?;
            self.events.extend(read.events);
            self.ended = read.end;
        }
        Ok(match self.events.pop_front() {
            Some(event) => Next::Item(event),
            None if self.ended => Next::End,
            None => Next::Quiet,
        })
    }

    fn read(&self, events: bool, wait: Duration) -> Result<HttpRead, Failure> {
        let (call, stream) = (self.call.id(), self.opened.stream.clone());
        let params = HttpReadParams { call, stream, events, timeout_ms: Some(millis(wait)) };
        self.call.ask::<HttpReadOn>(&params)
    }
}

impl Drop for HttpStream<'_> {
    fn drop(&mut self) {
        let params = HttpCloseParams { call: self.call.id(), stream: self.opened.stream.clone() };
        // It is closed with the call anyway.
        let _ = self.call.ask::<HttpClose>(&params);
    }
}

/// One message of a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

/// An open WebSocket. Dropping it closes it.
#[derive(Debug)]
pub struct Socket<'a> {
    call: &'a Call,
    opened: WsOpened,
    closed: Option<u16>,
}

impl Call {
    /// Opens a WebSocket through the host; its `https` origin must be granted with the method `GET`.
    pub fn websocket(&self, url: &str, auth: Option<HttpAuth>) -> Result<Socket<'_>, Failure> {
        self.websocket_with(WsOpenParams {
            call: self.id(),
            url: url.to_owned(),
            headers: Default::default(),
            auth,
            protocols: Vec::new(),
            timeout_ms: None,
        })
    }

    /// The same with header fields and subprotocols.
    pub fn websocket_with(&self, mut params: WsOpenParams) -> Result<Socket<'_>, Failure> {
        params.call = self.id();
        let opened = self.ask::<WsOpen>(&params)?;
        Ok(Socket { call: self, opened, closed: None })
    }
}

impl Socket<'_> {
    /// The subprotocol the server chose.
    pub fn protocol(&self) -> Option<&str> {
        self.opened.protocol.as_deref()
    }

    /// Sends text.
    pub fn send_text(&self, text: &str) -> Result<(), Failure> {
        self.send(Some(text.to_owned()), None)
    }

    /// Sends bytes.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.send(None, Some(payload::b64(bytes)))
    }

    fn send(&self, text: Option<String>, b64: Option<String>) -> Result<(), Failure> {
        let (call, socket) = (self.call.id(), self.opened.socket.clone());
        self.call.ask::<WsSend>(&WsSendParams { call, socket, text, b64 }).map(drop)
    }

    /// The next message. After the end, [`closed`](Self::closed) says how it ended.
    pub fn recv(&mut self, wait: Duration) -> Result<Next<Message>, Failure> {
        if self.closed.is_some() {
            return Ok(Next::End);
        }
        let (call, socket) = (self.call.id(), self.opened.socket.clone());
        let params = WsRecvParams { call, socket, timeout_ms: Some(millis(wait)) };
        let message: WsMessage = self.call.ask::<WsRecv>(&params)?;
        self.closed = message.closed;
        Ok(match (message.text, message.b64, message.closed) {
            (Some(text), ..) => Next::Item(Message::Text(text)),
            (_, Some(b64), _) => {
                Next::Item(Message::Binary(payload::from_b64(&b64).map_err(Failure::internal)?))
            }
            (.., Some(_)) => Next::End,
            _ => Next::Quiet,
        })
    }

    /// The code the socket was closed with, once it is.
    pub fn closed(&self) -> Option<u16> {
        self.closed
    }
}

impl Drop for Socket<'_> {
    fn drop(&mut self) {
        let params = WsCloseParams { call: self.call.id(), socket: self.opened.socket.clone() };
        // It is closed with the call anyway.
        let _ = self.call.ask::<WsClose>(&params);
    }
}
