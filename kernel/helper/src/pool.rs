//! Workers: one idle one is kept ready, so that starting a command starts nothing else.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Fault;
use crate::link::Link;
use crate::program;

/// A worker of ours, free until it is told to start something.
#[derive(Debug)]
pub(crate) struct Hand {
    pub(crate) link: Option<Link>,
    child: Child,
}

/// The idle worker, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<Option<Hand>>,
}

impl Pool {
    /// A free worker.
    pub(crate) fn take(&self) -> Result<Hand, Fault> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        match idle {
            Some(hand) if hand.is_alive() => Ok(hand),
            _ => Hand::hire().map_err(|e| Fault::io("cannot start a worker", e)),
        }
    }

    /// Makes one ready.
    pub(crate) fn prepare(&self) {
        if let Ok(hand) = self.take() {
            self.give(hand);
        }
    }

    /// A worker is free again; one more than is needed goes.
    pub(crate) fn give(&self, hand: Hand) {
        let before = self.idle.lock().unwrap_or_else(PoisonError::into_inner).replace(hand);
        drop(before);
    }
}

impl Hand {
    fn hire() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = program::another("work")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { link: Some(Link::new(ours)), child })
    }

    /// An idle worker says nothing; if there is something to read, it is its end.
    fn is_alive(&self) -> bool {
        let Some(link) = &self.link else { return false };
        let mut fds = [PollFd::new(link.stream(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())) == Ok(0)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        // It goes when its socket closes; while something runs it stays, and we wait with it.
        self.link = None;
        let _ = self.child.wait();
    }
}
