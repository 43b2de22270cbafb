//! Accounts of output: how many bytes may be under way, and which of them are new.

use crate::payload::MAX_CHUNK;

/// Bytes that may still be sent before the receiver grants more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    window: u64,
    /// What the window may become.
    most: u64,
    left: i64,
    consumed: u64,
}

impl Credit {
    /// A full window.
    pub fn new(window: u64) -> Self {
        Self::growing(window, window)
    }

    /// A full window that the receiver may make as large as `most`.
    pub fn growing(window: u64, most: u64) -> Self {
        Self { window, most, left: window.min(i64::MAX as u64).cast_signed(), consumed: 0 }
    }

    /// Sender: whether another chunk may be sent now. The last one may overdraw.
    pub fn may_send(&self) -> bool {
        self.left > 0
    }

    /// Either side: `bytes` are under way. False when the sender overdrew by more than one chunk.
    pub fn take(&mut self, bytes: u64) -> bool {
        self.left = self.left.saturating_sub_unsigned(bytes);
        self.left >= -(MAX_CHUNK as i64)
    }

    /// Sender: the receiver granted more.
    pub fn grant(&mut self, bytes: u64) {
        self.left = self.left.saturating_add_unsigned(bytes).min(self.most.cast_signed());
    }

    /// Either side: how many bytes more are under way than were granted.
    pub fn overdrawn(&self) -> u64 {
        self.left.min(0).unsigned_abs()
    }

    /// Receiver: `bytes` were consumed. Returns how many to grant now, batched at half a window.
    pub fn consume(&mut self, bytes: u64) -> Option<u64> {
        self.consumed += bytes;
        if self.consumed < (self.window / 2).max(1) {
            return None;
        }
        let granted = std::mem::take(&mut self.consumed);
        self.grant(granted);
        Some(granted)
    }

    /// Receiver: the same, and when it has `caught up` with the sender the window doubles: then distance is what
    /// both wait for.
    pub fn consume_and_grow(&mut self, bytes: u64, caught_up: bool) -> Option<u64> {
        let granted = self.consume(bytes)?;
        let more = if caught_up { self.window.min(self.most - self.window) } else { 0 };
        self.window += more;
        self.grant(more);
        Some(granted + more)
    }
}

/// What a chunk is, seen from what arrived before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// Its bytes from this index on are new; all of them when 0.
    New(usize),
    /// Bytes `from..to` of the channel never came; the whole chunk is new.
    Gap(u64, u64),
    /// Everything in it came before.
    Old,
}

/// The next offset of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    next: u64,
}

impl Offsets {
    /// The offset of the next new byte.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Files a chunk of `len` bytes at `off`.
    pub fn place(&mut self, off: u64, len: usize) -> Placed {
        let end = off.saturating_add(len as u64);
        let had = self.next;
        self.next = had.max(end);
        match off {
            _ if end <= had && len > 0 => Placed::Old,
            off if off > had => Placed::Gap(had, off),
            off => Placed::New(usize::try_from(had - off).unwrap_or(usize::MAX).min(len)),
        }
    }

    /// Skips bytes that are honestly lost; returns the first of them that was still expected.
    pub fn skip(&mut self, to: u64) -> u64 {
        let had = self.next;
        self.next = had.max(to);
        had
    }
}
