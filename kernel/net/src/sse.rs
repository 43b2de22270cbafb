//! Server-sent events, read as the WHATWG text says, from pieces cut anywhere.

use crabbox_schemas::plugin::ServerEvent;

/// Most bytes of one event or line.
const MOST: usize = 512 * 1024;

/// An event that is too large to hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// What has come of a stream of events so far.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    /// The last byte was CR: a LF that follows belongs to it.
    after_cr: bool,
    /// The first line may begin with a byte order mark.
    begun: bool,
    event: String,
    data: Option<String>,
    last_id: String,
    /// How many milliseconds the server wants between reconnects.
    pub(crate) retry_ms: Option<u64>,
}

impl Parser {
    /// Takes bytes; gives back the events they complete. What is incomplete at the end of a stream is no event.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<ServerEvent>, TooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            let second_half = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            match byte {
                _ if second_half => {}
                b'\r' | b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.line(&line)?);
                }
                _ => self.line.push(byte),
            }
            if self.line.len() > MOST {
                return Err(TooLarge);
            }
        }
        Ok(events)
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<ServerEvent>, TooLarge> {
        let line = match self.begun {
            false => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line),
            true => line,
        };
        self.begun = true;
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                let data = self.data.get_or_insert_default();
                if data.len() + value.len() > MOST {
                    return Err(TooLarge);
                }
                data.push_str(value);
                data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.last_id),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                self.retry_ms = value.parse().ok();
            }
            _ => {} // a comment, or a field from the future
        }
        Ok(None)
    }

    fn dispatch(&mut self) -> Option<ServerEvent> {
        let event = std::mem::take(&mut self.event);
        let mut data = self.data.take()?;
        data.pop();
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(ServerEvent { event, data, id: self.last_id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "\u{feff}: hello\n\ndata: YHOO\ndata: +2\r\ndata:10\r\revent: add\r\ndata\nid: 1\n\n\
        data:  two spaces\nid\nretry: 2500\nretry: soon\nunknown: x\n\nid: a\0b\ndata: é ☃\n\nevent: lost\n\ndata: cut";

    fn expected() -> Vec<ServerEvent> {
        let event = |event: &str, data: &str, id: &str| ServerEvent {
            event: event.to_owned(),
            data: data.to_owned(),
            id: id.to_owned(),
        };
        vec![
            event("message", "YHOO\n+2\n10", ""),
            event("add", "", "1"),
            event("message", " two spaces", ""),
            event("message", "é ☃", ""),
        ]
    }

    #[test]
    fn a_stream_cut_at_any_byte_gives_the_same_events() {
        let bytes = STREAM.as_bytes();
        for cut in 0..=bytes.len() {
            let mut parser = Parser::default();
            let mut events = parser.feed(&bytes[..cut]).unwrap();
            events.extend(parser.feed(&bytes[cut..]).unwrap());
            assert_eq!(events, expected(), "cut at {cut}");
            assert_eq!(parser.retry_ms, Some(2500));
        }
        let mut parser = Parser::default();
        let singly =
            bytes.chunks(1).flat_map(|byte| parser.feed(byte).unwrap()).collect::<Vec<_>>();
        assert_eq!(singly, expected());
    }

    #[test]
    fn an_endless_line_or_event_is_refused() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(&vec![b'x'; MOST + 1]), Err(TooLarge));
        let mut parser = Parser::default();
        let line = format!("data: {}\n", "x".repeat(1000));
        let refused = (0..MOST / 1000 + 1).find_map(|_| parser.feed(line.as_bytes()).err());
        assert_eq!(refused, Some(TooLarge));
    }
}
