//! The command's standard input: bytes by offset, kept until the command takes them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::{Buf, Bytes};
use crabbox_wire::Packet;

/// End of file, typed on a terminal.
const END_OF_FILE: u8 = 4;

/// The writing end.
#[derive(Debug)]
pub(super) struct Input {
    to: Option<OwnedFd>,
    is_terminal: bool,
    waiting: VecDeque<Bytes>,
    received: u64,
    taken: u64,
    ended: bool,
}

impl Input {
    /// `None`: there is no standard input, and all that comes is thrown away.
    pub(super) fn new(to: Option<OwnedFd>, is_terminal: bool) -> Self {
        Self { to, is_terminal, waiting: VecDeque::new(), received: 0, taken: 0, ended: false }
    }

    /// Bytes the command took.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Somebody else writes from now on: what was not taken comes again from them.
    pub(super) fn begin_again(&mut self) {
        self.waiting.clear();
        self.received = self.taken;
        self.ended = false;
    }

    /// Bytes came. What came before is passed over; what leaves a gap is not believed.
    pub(super) fn push(&mut self, packet: Packet) {
        let (offset, mut body) = (packet.offset, packet.body);
        if offset > self.received || self.ended {
            return;
        }
        let known = usize::try_from(self.received - offset).unwrap_or(usize::MAX);
        body.advance(known.min(body.len()));
        self.received += body.len() as u64;
        self.ended = packet.last;
        if !body.is_empty() {
            self.waiting.push_back(body);
        }
        self.write();
    }

    /// Where to wait until the command takes more.
    pub(super) fn wants(&self) -> Option<BorrowedFd<'_>> {
        self.to.as_ref().filter(|_| !self.waiting.is_empty()).map(AsFd::as_fd)
    }

    /// Gives the command as much as it takes.
    pub(super) fn write(&mut self) {
        while let Some(front) = self.waiting.front_mut() {
            let wrote = match &self.to {
                None => Ok(front.len()),
                Some(to) => rustix::io::write(to, front),
            };
            match wrote {
                Ok(n) => {
                    front.advance(n);
                    self.taken += n as u64;
                    if front.is_empty() {
                        self.waiting.pop_front();
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => self.to = None,
            }
        }
        if self.ended
            && let Some(to) = self.to.take()
            && self.is_terminal
        {
            let _ = rustix::io::write(to, &[END_OF_FILE]);
        }
    }

    /// The command has ended and takes no more.
    pub(super) fn close(&mut self) {
        self.to = None;
    }
}
