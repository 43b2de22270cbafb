//! Cuts a byte stream into bounded lines, and lines into frames.

use crate::frame::{Frame, WireError};

/// Longest line either side may send, LF included.
pub const MAX_LINE: usize = 1 << 20;

/// Takes bytes as they arrive and gives frames; holds at most one line and what was fed after it.
#[derive(Debug)]
pub struct LineReader {
    max_line: usize,
    buffer: Vec<u8>,
    /// Bytes of `buffer` already given out.
    taken: usize,
    /// Bytes of `buffer` already searched for LF.
    searched: usize,
    /// An oversize line is being dropped up to its LF.
    skipping: bool,
}

impl Default for LineReader {
    fn default() -> Self {
        Self::new(MAX_LINE)
    }
}

impl LineReader {
    /// A reader that refuses lines longer than `max_line` bytes, LF included.
    pub fn new(max_line: usize) -> Self {
        Self { max_line, buffer: Vec::new(), taken: 0, searched: 0, skipping: false }
    }

    /// Adds bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.searched -= self.taken;
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the stream would end in the middle of a line here.
    pub fn is_mid_line(&self) -> bool {
        self.skipping || self.taken < self.buffer.len()
    }

    /// The next whole line without its end; `None` until more bytes are fed. Empty lines are skipped.
    /// After an oversize line the reader goes on at the line behind it.
    pub fn next_line(&mut self) -> Option<Result<&[u8], WireError>> {
        loop {
            let found = self.buffer[self.searched..].iter().position(|&b| b == b'\n');
            let Some(at) = found.map(|n| self.searched + n) else {
                return self.wait_for_more();
            };
            let start = std::mem::replace(&mut self.taken, at + 1);
            self.searched = at + 1;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if at + 1 - start > self.max_line {
                return Some(Err(WireError::too_long(&self.buffer[start..at], self.max_line)));
            }
            let line = &self.buffer[start..at];
            let len = line.strip_suffix(b"\r").unwrap_or(line).len();
            if len > 0 {
                return Some(Ok(&self.buffer[start..start + len]));
            }
        }
    }

    fn wait_for_more(&mut self) -> Option<Result<&[u8], WireError>> {
        self.searched = self.buffer.len();
        let pending = &self.buffer[self.taken..];
        let fault = (!self.skipping && pending.len() >= self.max_line)
            .then(|| WireError::too_long(pending, self.max_line));
        self.skipping |= fault.is_some();
        if self.skipping {
            self.taken = self.buffer.len();
        }
        fault.map(Err)
    }

    /// The next frame; `None` until more bytes are fed.
    pub fn next_frame(&mut self) -> Option<Result<Frame, WireError>> {
        self.next_line().map(|line| line.and_then(Frame::decode))
    }
}
