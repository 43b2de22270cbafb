//! An answer that is read bit by bit: bytes, or server-sent events.

use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{HttpRead, ServerEvent};
use crabbox_wire::payload::{self, MAX_CHUNK};
use std::collections::VecDeque;
use tokio::time::{Instant, timeout_at};

use crate::net::Net;
use crate::redact::RedactStream;
use crate::send::Landed;
use crate::sse::Parser;

/// Most bytes of events in one answer to a read.
const MOST_EVENTS: usize = 256 * 1024;

/// An open answer. Nothing is read ahead: a plugin that does not read slows the server down.
pub struct Stream {
    landed: Landed,
    redact: RedactStream,
    /// Bytes that have come and were not read yet.
    ready: Bytes,
    mode: Mode,
    ended: bool,
}

#[derive(Default)]
enum Mode {
    #[default]
    Unread,
    Raw,
    Events(Parser, VecDeque<ServerEvent>),
}

impl Stream {
    pub(crate) fn new(mut landed: Landed) -> Self {
        landed.turn = None;
        Self {
            landed,
            redact: RedactStream::default(),
            ready: Bytes::new(),
            mode: Mode::default(),
            ended: false,
        }
    }

    /// What has come, or comes in time.
    pub async fn read(
        &mut self,
        net: &Net,
        events: bool,
        wait: Duration,
    ) -> Result<HttpRead, RpcError> {
        let until = Instant::now() + wait;
        match (&mut self.mode, events) {
            (Mode::Unread, true) => self.mode = Mode::Events(Parser::default(), VecDeque::new()),
            (Mode::Unread, false) => self.mode = Mode::Raw,
            (Mode::Raw, false) | (Mode::Events(..), true) => {}
            _ => return Err(invalid("a stream is read either as bytes or as events")),
        }
        match events {
            true => self.events(net, until).await,
            false => self.bytes(net, until).await,
        }
    }

    async fn bytes(&mut self, net: &Net, until: Instant) -> Result<HttpRead, RpcError> {
        while self.ready.is_empty() && !self.ended {
            if !self.more(net, until).await? {
                return Ok(HttpRead::default());
            }
        }
        let piece = self.ready.split_to(self.ready.len().min(MAX_CHUNK));
        let (text, b64) = match piece.is_empty() {
            true => (None, None),
            false => payload::pack(&piece),
        };
        let end = self.ended && self.ready.is_empty();
        Ok(HttpRead { text, b64, end, ..HttpRead::default() })
    }

    async fn events(&mut self, net: &Net, until: Instant) -> Result<HttpRead, RpcError> {
        loop {
            let ready = std::mem::take(&mut self.ready);
            let Mode::Events(parser, queue) = &mut self.mode else {
                return Ok(HttpRead::default());
            };
            let fed = parser.feed(&ready).map_err(|_| {
                RpcError::of(ErrorKind::Quota, "a server-sent event is larger than 512 KiB")
            })?;
            queue.extend(fed);
            if queue.is_empty() && !self.ended {
                match self.more(net, until).await? {
                    true => continue,
                    false => return Ok(HttpRead::default()),
                }
            }
            let (mut events, mut size) = (Vec::new(), 0);
            while let Some(event) = queue.front() {
                size += event.data.len() + event.event.len() + event.id.len() + 64;
                if size > MOST_EVENTS && !events.is_empty() {
                    break;
                }
                events.extend(queue.pop_front());
            }
            let (end, retry_ms) = (self.ended && queue.is_empty(), parser.retry_ms);
            return Ok(HttpRead { events, end, retry_ms, ..HttpRead::default() });
        }
    }

    /// Waits for bytes; false when none came in time.
    async fn more(&mut self, net: &Net, until: Instant) -> Result<bool, RpcError> {
        let Ok(piece) = timeout_at(until, self.landed.response.chunk()).await else {
            return Ok(false);
        };
        let piece = piece.map_err(|error| net.failed(error, &self.landed.origin))?;
        let redactor = net.vault.redactor();
        self.ready = match piece {
            Some(piece) => self.redact.feed(&redactor, &piece).into(),
            None => {
                self.ended = true;
                self.redact.end(&redactor).into()
            }
        };
        Ok(true)
    }
}

fn invalid(message: &str) -> RpcError {
    RpcError::of(ErrorKind::InvalidRequest, message)
}
