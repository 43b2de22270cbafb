//! The lock of a work tree: one run at a time, with the holder's words for those who wait.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crabbox_schemas::helper::LockAsk;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::tree::fault::{Fault, Result};
use crate::tree::ghost;

/// Between two looks whether the lock is free: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(40));
/// Most bytes of a holder's words that are read.
const WORDS: u64 = 4096;

/// A held lock. It is given back when this and every copy of its file descriptor are closed.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Its file descriptor, to be handed on: who has it open holds the lock.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The same, without giving the lock back here.
    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }

    /// Takes the lock, waiting as `ask` says. `waiting` is told the holder's words whenever they change.
    pub(crate) fn take(
        file: File,
        ask: &LockAsk,
        waiting: &mut dyn FnMut(&str),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let deadline = Instant::now().checked_add(Duration::from_millis(ask.wait_ms));
        let mut pause = PAUSE.0;
        let (mut told, mut ghosts) = (None, ask.owner.as_str());
        loop {
            if try_lock(&file)? {
                return Self { file }.named(&ask.owner);
            }
            let owner = words(&file);
            if owner == ghosts && !owner.is_empty() {
                // The same run, over a connection that was given up here: it does not know that yet.
                ghost::end(&file);
                ghosts = "";
            }
            let over = deadline.is_some_and(|end| Instant::now() >= end);
            if over {
                return Err(Fault::Busy { owner });
            }
            if told.as_ref() != Some(&owner) {
                waiting(&owner);
                told = Some(owner);
            }
            if cancelled() {
                return Err(Fault::Cancelled);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Takes the lock when nobody holds it. The last holder's words stay.
    pub(crate) fn try_take(file: File) -> Result<Option<Self>> {
        Ok(try_lock(&file)?.then_some(Self { file }))
    }

    fn named(mut self, owner: &str) -> Result<Self> {
        let file = &mut self.file;
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(owner.as_bytes()))
            .map_err(Fault::io("note who holds the work tree"))?;
        Ok(self)
    }
}

fn try_lock(file: &File) -> Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(errno) => Err(Fault::of("lock the work tree")(errno)),
    }
}

fn words(mut file: &File) -> String {
    let mut words = Vec::new();
    let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(WORDS).read_to_end(&mut words));
    String::from_utf8_lossy(&words).into_owned()
}
