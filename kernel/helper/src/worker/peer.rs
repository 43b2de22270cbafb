//! One who is connected to a worker: the serve that started it, or one that attached to its run.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crabbox_schemas::helper::Role;
use crabbox_wire::{Packet, PacketReader};
use rustix::event::PollFlags;
use serde::Serialize;

use crate::link::{Heard, Order, heard, place, receive, spoken};

/// The progress a peer is told of: lengths of both streams, and of standard input taken.
pub(super) type Progress = [u64; 3];

const ROLES: [Role; 3] = [Role::Stdout, Role::Stderr, Role::Stdin];

/// A connection that never waits.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: u64,
    /// Whether it is the serve that started us.
    pub(super) is_serve: bool,
    pub(super) is_gone: bool,
    stream: UnixStream,
    input: PacketReader,
    pending: Vec<u8>,
    told: Progress,
    /// From where on it needs both streams, while it reads.
    pub(super) needs: Option<[u64; 2]>,
    /// Whether standard input comes from it.
    pub(super) writes: bool,
}

impl Peer {
    pub(super) fn new(stream: UnixStream, id: u64, is_serve: bool) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            id,
            is_serve,
            is_gone: false,
            stream,
            input: PacketReader::without_greeting(),
            pending: Vec::new(),
            told: [0; 3],
            needs: None,
            writes: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> PollFlags {
        if self.pending.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// Becomes a reader of streams that begin at `from`.
    pub(super) fn attach(&mut self, from: [u64; 2], writes: bool, stdin_taken: u64) {
        self.needs = Some(from);
        self.writes = writes;
        self.told = [0, 0, stdin_taken];
    }

    /// It has read a stream up to here.
    pub(super) fn read_until(&mut self, index: usize, offset: u64) {
        if let Some(needs) = &mut self.needs {
            needs[index] = needs[index].max(offset);
        }
    }

    /// Reads no more.
    pub(super) fn detach(&mut self) {
        self.needs = None;
        self.writes = false;
    }

    /// Reads what is here; false when the other side is gone.
    pub(super) fn fill(&mut self, files: &mut Vec<OwnedFd>) -> bool {
        let mut buffer = [0; 64 << 10];
        match receive(&self.stream, &mut buffer, files) {
            Ok(0) => false,
            Ok(n) => {
                self.input.feed(&buffer[..n]);
                true
            }
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// The next thing that was read.
    pub(super) fn next(&mut self) -> io::Result<Option<Heard<Order>>> {
        match self.input.next_packet() {
            None => Ok(None),
            Some(packet) => heard(packet.map_err(io::Error::other)?).map(Some),
        }
    }

    /// Says something, when there is room.
    pub(super) fn tell(&mut self, words: &impl Serialize) {
        if let Ok(packet) = spoken(words) {
            self.queue(&packet);
            self.flush();
        }
    }

    /// Tells how far things are, or will when there is room: only the newest counts.
    pub(super) fn progress(&mut self, now: Progress) {
        if self.needs.is_none() {
            return;
        }
        self.flush();
        if self.pending.is_empty() && self.told != now {
            for (index, role) in ROLES.into_iter().enumerate() {
                if self.told[index] != now[index] {
                    self.queue(&place(role, now[index]));
                }
            }
            self.told = now;
            self.flush();
        }
    }

    fn queue(&mut self, packet: &Packet) {
        self.pending.extend_from_slice(&packet.to_bytes());
    }

    /// Sends what waits, as far as it goes; who is gone is noticed when reading.
    pub(super) fn flush(&mut self) {
        while !self.pending.is_empty() {
            match (&self.stream).write(&self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.pending.clear(),
            }
        }
    }

    /// Sends the last words, waiting a moment if it must.
    pub(super) fn part(mut self) {
        let soon = Some(std::time::Duration::from_millis(200));
        if !self.pending.is_empty()
            && self.stream.set_nonblocking(false).is_ok()
            && self.stream.set_write_timeout(soon).is_ok()
        {
            let _ = (&self.stream).write_all(&std::mem::take(&mut self.pending));
        }
    }
}
