//! Follows a run from another terminal: its output so far, what comes, and how it ends.

use std::fs::File;
use std::io::Read;

use bytes::Bytes;
use crabbox_schemas::ids::RunId;
use crabbox_schemas::run::RunRecord;

use super::store::RunStore;
use crate::error::Result;
use crate::event::Stream;

/// Most bytes one poll returns of one stream.
const PIECE: u64 = 256 * 1024;

/// One thing a follower sees.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// The next bytes of one stream.
    Output {
        /// Which.
        stream: Stream,
        /// Offset of the first byte in what was kept.
        offset: u64,
        /// The bytes, exactly.
        bytes: Bytes,
    },
    /// The run is over and everything was seen; always last.
    End(Box<RunRecord>),
}

/// Where a follower is in a run's output.
#[derive(Debug)]
pub struct Follow {
    store: RunStore,
    id: RunId,
    tails: [Tail; 2],
    ended: bool,
}

#[derive(Debug)]
struct Tail {
    stream: Stream,
    file: File,
    offset: u64,
}

impl Follow {
    /// Starts at the beginning of the run's output.
    pub fn open(store: &RunStore, id: &RunId) -> Result<Self> {
        let tail = |stream| store.output(id, stream).map(|file| Tail { stream, file, offset: 0 });
        let tails = [tail(Stream::Stdout)?, tail(Stream::Stderr)?];
        Ok(Self { store: store.clone(), id: id.clone(), tails, ended: false })
    }

    /// What is new since the last poll: at most one bounded piece a stream. Empty means: wait a little.
    pub fn poll(&mut self) -> Result<Vec<Followed>> {
        if self.ended {
            return Ok(Vec::new());
        }
        // Asked before reading: what a run printed is on disk before it ends.
        let live = self.store.is_live(&self.id);
        let mut seen = Vec::new();
        for tail in &mut self.tails {
            seen.extend(tail.next(&self.store, &self.id)?);
        }
        if seen.is_empty() && !live {
            self.ended = true;
            seen.extend(self.store.read(&self.id).map(|run| Followed::End(Box::new(run))));
        }
        Ok(seen)
    }
}

impl Tail {
    fn next(&mut self, store: &RunStore, id: &RunId) -> Result<Option<Followed>> {
        let mut bytes = Vec::new();
        let read = (&mut self.file).take(PIECE).read_to_end(&mut bytes);
        read.map_err(|e| store.unreadable(id, self.stream, &e))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        Ok(Some(Followed::Output { stream: self.stream, offset, bytes: bytes.into() }))
    }
}
