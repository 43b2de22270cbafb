//! A line: what the laptop sent for one flight or attachment and what it granted, until its thread takes it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use crabbox_schemas::helper::Role;
use crabbox_wire::{Credit, MAX_BODY};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::Fault;

/// Bytes of a channel.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) last: bool,
    pub(crate) bytes: Bytes,
}

/// One of the channels to us.
#[derive(Debug)]
struct Lane {
    waiting: VecDeque<Piece>,
    credit: Credit,
}

#[derive(Debug)]
struct Inner {
    lanes: [Lane; ROLES],
    granted: [u64; ROLES],
    size: Option<(u32, u32)>,
    cancelled: bool,
    gone: bool,
    over: bool,
}

/// How many roles a channel can have.
const ROLES: usize = Role::ALL.len();

/// What happened on a line that its thread has to act upon.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) stdin: Vec<Piece>,
    pub(crate) granted: [u64; 2],
    pub(crate) size: Option<(u32, u32)>,
    /// The client is not there any more.
    pub(crate) gone: bool,
}

/// Shared by the thread that reads packets and the one that serves the request.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) session: u32,
    pub(crate) base: u32,
    inner: Mutex<Inner>,
    bell: OwnedFd,
}

impl Line {
    pub(crate) fn new(session: u32, base: u32) -> Result<Self, Fault> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Fault::io("cannot make an event", e))?;
        let lanes = Role::ALL
            .map(|role| Lane { waiting: VecDeque::new(), credit: Credit::new(role.window()) });
        let inner = Inner {
            lanes,
            granted: [0; ROLES],
            size: None,
            cancelled: false,
            gone: false,
            over: false,
        };
        Ok(Self { session, base, inner: Mutex::new(inner), bell })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Readable while something happened that nobody looked at.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Bytes arrived. False when the sender had no credit for them. Blocks may overtake each other, and the one that
    /// used the credit up may come before others.
    pub(crate) fn push(&self, role: Role, piece: Piece) -> bool {
        let mut inner = self.inner();
        let lane = &mut inner.lanes[role as usize];
        let allowed = lane.credit.may_send()
            || role == Role::Blocks && lane.credit.overdrawn() < MAX_BODY as u64;
        lane.credit.take(piece.bytes.len() as u64);
        lane.waiting.push_back(piece);
        drop(inner);
        self.ring();
        allowed
    }

    /// The laptop takes more of a channel.
    pub(crate) fn granted(&self, role: Role, bytes: u64) {
        let sum = &mut self.inner().granted[role as usize];
        *sum = sum.saturating_add(bytes);
        self.ring();
    }

    /// The terminal has a new size.
    pub(crate) fn resized(&self, columns: u32, rows: u32) {
        self.inner().size = Some((columns, rows));
        self.ring();
    }

    /// The answer is not wanted any more.
    pub(crate) fn cancel(&self) {
        self.inner().cancelled = true;
        self.ring();
    }

    /// The client is not there any more.
    pub(crate) fn leave(&self) {
        let mut inner = self.inner();
        inner.cancelled = true;
        inner.gone = true;
        drop(inner);
        self.ring();
    }

    /// Its last words are about to be sent: the base number may be used again.
    pub(crate) fn finish(&self) {
        self.inner().over = true;
    }

    /// Whether its last words were said.
    pub(crate) fn is_over(&self) -> bool {
        self.inner().over
    }

    /// Whether the work for it should stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.inner().cancelled
    }

    /// Bytes of a channel were used up: what to grant now, if anything.
    pub(crate) fn used(&self, role: Role, bytes: u64) -> Option<u64> {
        self.inner().lanes[role as usize].credit.consume(bytes)
    }

    /// Waits for the next bytes of a channel.
    pub(crate) fn next(&self, role: Role) -> Result<Piece, Fault> {
        loop {
            let mut inner = self.inner();
            if inner.cancelled {
                return Err(Fault::cancelled());
            }
            if let Some(piece) = inner.lanes[role as usize].waiting.pop_front() {
                return Ok(piece);
            }
            drop(inner);
            self.wait()?;
        }
    }

    /// Waits until the laptop grants more of a channel to it.
    pub(crate) fn next_grant(&self, role: Role) -> Result<u64, Fault> {
        loop {
            let mut inner = self.inner();
            if inner.cancelled {
                return Err(Fault::cancelled());
            }
            let granted = std::mem::take(&mut inner.granted[role as usize]);
            if granted > 0 {
                return Ok(granted);
            }
            drop(inner);
            self.wait()?;
        }
    }

    /// Forgets what came for the tree: it was not needed after all.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner();
        for role in [Role::Delta, Role::Blocks, Role::Script] {
            inner.lanes[role as usize].waiting.clear();
        }
    }

    fn wait(&self) -> Result<(), Fault> {
        match poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Fault::io("cannot wait for the laptop", e)),
        }
        self.hush();
        Ok(())
    }

    fn hush(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    /// Everything that happened since the last turn; never waits.
    pub(crate) fn turn(&self) -> Turn {
        self.hush();
        let mut inner = self.inner();
        let mut take = |role: Role| std::mem::take(&mut inner.granted[role as usize]);
        let granted = [take(Role::Stdout), take(Role::Stderr)];
        Turn {
            stdin: inner.lanes[Role::Stdin as usize].waiting.drain(..).collect(),
            granted,
            size: inner.size.take(),
            gone: inner.gone,
        }
    }
}
