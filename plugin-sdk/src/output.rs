//! What a delegated command prints, sent in chunks as fast as the kernel takes them.

use std::sync::Mutex;

use crabbox_schemas::error::Outcome;
use crabbox_schemas::plugin::{GapEvent, OutputEvent, event};
use crabbox_wire::payload::{self, MAX_CHUNK};

use crate::control::lock;
use crate::{Call, Failure};

/// Which of the two channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Passes on what a command prints. Writing waits while the kernel has no room, and gives up when
/// the call is cancelled meanwhile. Several threads may write.
#[derive(Debug)]
pub struct Output<'a> {
    call: &'a Call,
    offsets: [Mutex<u64>; 2],
}

impl<'a> Output<'a> {
    pub(crate) fn new(call: &'a Call) -> Self {
        Self { call, offsets: [Mutex::new(0), Mutex::new(0)] }
    }

    /// Sends bytes of one channel, all of them, in order.
    pub fn write(&self, channel: Channel, mut bytes: &[u8]) -> Result<(), Failure> {
        let mut offset = lock(&self.offsets[channel as usize]);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(piece(bytes));
            if !self.call.control().take(now.len(), self.call.last_moment()) {
                return Err(Failure::cancelled(
                    "cancelled while output was waiting",
                    Outcome::Uncertain,
                ));
            }
            self.call.tell(event::OUTPUT, &self.chunk(channel, *offset, now));
            *offset += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Says that bytes up to offset `to` are lost, and why; the channel goes on after them.
    pub fn gap(&self, channel: Channel, to: u64, reason: &str) {
        let mut offset = lock(&self.offsets[channel as usize]);
        if to > *offset {
            let ch = name(channel).to_owned();
            let (call, from, reason) = (self.call.id(), *offset, reason.to_owned());
            self.call.tell(event::GAP, &GapEvent { call, ch, from, to, reason });
            *offset = to;
        }
    }

    /// How many bytes of the channel are behind us.
    pub fn offset(&self, channel: Channel) -> u64 {
        *lock(&self.offsets[channel as usize])
    }

    fn chunk(&self, channel: Channel, off: u64, bytes: &[u8]) -> OutputEvent {
        let (text, b64) = payload::pack(bytes);
        OutputEvent { call: self.call.id(), ch: name(channel).to_owned(), off, text, b64 }
    }
}

fn name(channel: Channel) -> &'static str {
    match channel {
        Channel::Stdout => "stdout",
        Channel::Stderr => "stderr",
    }
}

/// How much of `bytes` goes into the next chunk: at most a chunk, and whole characters if possible.
fn piece(bytes: &[u8]) -> usize {
    let most = bytes.len().min(MAX_CHUNK);
    match std::str::from_utf8(&bytes[..most]) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_ends_between_characters_when_it_can() {
        let text = "é".repeat(MAX_CHUNK);
        assert_eq!(piece(format!("x{text}").as_bytes()), MAX_CHUNK - 1);
        assert_eq!(piece(&[0xff; 100_000]), MAX_CHUNK);
        assert_eq!(piece(&[0xc3]), 1);
    }
}
