//! What a delegated command prints, sent in chunks as fast as the kernel takes them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crabbox_schemas::plugin::GapEvent;

use crate::{Call, Failure};

/// Which of the two channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Channel {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
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
    pub fn write(&self, channel: Channel, bytes: &[u8]) -> Result<(), Failure> {
        let mut offset = self.at(channel);
        self.call.host().print(channel, &mut offset, bytes, self.call.last_moment())
    }

    /// Says that bytes up to offset `to` are lost, and why; the channel goes on after them.
    pub fn gap(&self, channel: Channel, to: u64, reason: &str) {
        let mut offset = self.at(channel);
        if to > *offset {
            let ch = channel.word().to_owned();
            let (call, from, reason) = (self.call.id(), *offset, reason.to_owned());
            self.call.tell(&GapEvent { call, ch, from, to, reason });
            *offset = to;
        }
    }

    /// How many bytes of the channel are behind us.
    pub fn offset(&self, channel: Channel) -> u64 {
        *self.at(channel)
    }

    fn at(&self, channel: Channel) -> MutexGuard<'_, u64> {
        self.offsets[channel as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
