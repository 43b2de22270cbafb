//! A flight between its two halves: takes blocks, on several threads when there are many.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use crabbox_schemas::helper::Applied;
use crabbox_tree::lane::{Unpacker, lane};
use crabbox_tree::{Have, Piece};

use crate::tree::fault::{Fault, Result};
use crate::tree::find::Finder;
use crate::tree::plan::Plan;
use crate::tree::shelf::Shelf;
use crate::tree::{Tree, apply, threads};

/// A block up to this size that comes alone is not worth a thread. Bytes.
const SMALL: usize = 128 << 10;
/// Blocks that may wait for each writer.
const WAITING: usize = 2;

/// A flight whose content is being put in. Dropping it gives the flight up; what was put in is found by the next.
#[derive(Debug)]
pub struct Staging {
    pub(super) top: OwnedFd,
    pub(super) plan: Plan,
    /// A flight before this one was cut off.
    pub(super) repairs: bool,
    shelf: Arc<Shelf>,
    writers: Option<Writers>,
    fault: Option<Fault>,
    started: Instant,
}

/// Takes pieces for a flight from whoever found them.
#[derive(Debug)]
pub(crate) struct Offers {
    shelf: Arc<Shelf>,
    lacks: Vec<Lack>,
}

/// A content that is missing, by the path of a file that shall have it.
#[derive(Debug, Clone)]
pub(crate) struct Lack {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    /// In the order of their places.
    pub(crate) pieces: Vec<Part>,
}

/// A piece: its number, and its place in the content.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) number: usize,
    pub(crate) at: u64,
    pub(crate) len: u32,
}

impl Offers {
    /// What was missing when the flight began.
    pub(crate) fn lacks(&self) -> &[Lack] {
        &self.lacks
    }

    /// Takes a piece, unless it is not what it should be, or is here already.
    pub(crate) fn offer(&self, number: usize, bytes: &[u8]) -> bool {
        self.shelf.offer(number, bytes)
    }
}

/// Threads that stage blocks; all blocks of a lane go to one of them.
#[derive(Debug)]
struct Writers {
    queues: Vec<SyncSender<Bytes>>,
    threads: Vec<JoinHandle<Result<()>>>,
    /// Whose turn it is when it does not matter.
    turn: usize,
}

impl Staging {
    pub(super) fn new(
        tree: &Tree,
        top: OwnedFd,
        mut plan: Plan,
        ask: bool,
        repairs: bool,
        started: Instant,
    ) -> Result<Self> {
        let mut shelf = Shelf::new(tree.place.clone(), &plan)?;
        let finder = Finder { place: &tree.place, top: &top, state: &tree.state };
        shelf.fill(&mut plan, ask.then_some(&finder))?;
        let shelf = Arc::new(shelf);
        Ok(Self { top, plan, repairs, shelf, writers: None, fault: None, started })
    }

    /// The distinct pieces of the delta, in the order both ends know.
    pub fn pieces(&self) -> &[Piece] {
        &self.shelf.pieces
    }

    /// Which of them are not needed any more.
    pub fn have(&self) -> Have {
        self.shelf.have()
    }

    /// How many of them are missing.
    pub fn missing(&self) -> u64 {
        self.shelf.missing()
    }

    /// Where pieces that come from elsewhere are taken.
    pub(crate) fn offers(&self) -> Offers {
        Offers { shelf: self.shelf.clone(), lacks: self.lacks() }
    }

    /// Every content that is missing, or parts of it.
    fn lacks(&self) -> Vec<Lack> {
        let mut lacks: Vec<(usize, Lack)> = Vec::new();
        for (number, piece) in
            self.pieces().iter().enumerate().filter(|(n, _)| self.shelf.needs(*n))
        {
            let part = Part { number, at: piece.at.1, len: piece.len };
            match lacks.last_mut() {
                Some((wanted, lack)) if *wanted == piece.at.0 => lack.pieces.push(part),
                _ => {
                    let entry = &self.plan.delta.wanted[piece.at.0];
                    let (path, size) = (entry.path.clone(), entry.size());
                    lacks.push((piece.at.0, Lack { path, size, pieces: vec![part] }));
                }
            }
        }
        lacks.into_iter().map(|(_, lack)| lack).collect()
    }

    /// Takes a sealed block; those of a lane come in their order, others in any. It may still be worked on when this
    /// returns, so a fault may show with a later block, or when the flight is applied.
    pub fn put(&mut self, sealed: Bytes) -> Result<()> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.writers.is_none() && sealed.len() <= SMALL && lane(&sealed).is_none() {
            let put = self.shelf.put_block(&sealed, &mut Unpacker::default(), &mut Vec::new());
            self.fault = put.as_ref().err().cloned();
            return put;
        }
        let writers = match &mut self.writers {
            Some(writers) => writers,
            none => none.insert(Writers::start(&self.shelf)?),
        };
        match writers.take(sealed) {
            true => Ok(()),
            false => self.settle(),
        }
    }

    /// Waits for the writers; the first fault counts.
    fn settle(&mut self) -> Result<()> {
        if let Some(writers) = self.writers.take() {
            drop(writers.queues);
            for thread in writers.threads {
                let lost = |_| Err(Fault::Io("a writer died".into()));
                if let Err(fault) = thread.join().unwrap_or_else(lost) {
                    self.fault.get_or_insert(fault);
                }
            }
        }
        self.fault.clone().map_or(Ok(()), Err)
    }

    /// Makes the tree exactly as wanted, once every piece is here.
    pub fn apply(mut self, tree: &mut Tree) -> Result<Applied> {
        self.settle()?;
        if self.missing() > 0 {
            return Err(Fault::Protocol(format!("{} pieces did not come", self.missing())));
        }
        for partial in &self.shelf.partials {
            partial.finish(&tree.place)?;
        }
        let needed = self.plan.moves().map(|(entry, _)| entry.size()).sum::<u64>();
        let mut applied = apply::apply(tree, &mut self)?;
        applied.received_bytes = self.shelf.received.load(Ordering::Relaxed);
        applied.reused_bytes = needed.saturating_sub(applied.received_bytes);
        applied.ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(applied)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // The next flight must find the folder at rest.
        let _ = self.settle();
    }
}

impl Writers {
    fn start(shelf: &Arc<Shelf>) -> Result<Self> {
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..threads::cores() {
            let (blocks, queue) = sync_channel(WAITING);
            let shelf = shelf.clone();
            let thread = std::thread::Builder::new().spawn(move || work(&shelf, &queue));
            threads.push(thread.map_err(Fault::io("start a writer"))?);
            queues.push(blocks);
        }
        Ok(Self { queues, threads, turn: 0 })
    }

    /// Hands a block to its writer; false when that has given up.
    fn take(&mut self, sealed: Bytes) -> bool {
        self.turn += 1;
        let writer = lane(&sealed).map_or(self.turn, usize::from) % self.queues.len();
        self.queues[writer].send(sealed).is_ok()
    }
}

/// Stages blocks until there are no more. A writer that found a fault goes on: what is right is kept for the
/// next flight.
fn work(shelf: &Shelf, queue: &Receiver<Bytes>) -> Result<()> {
    let (mut unpacker, mut raw) = (Unpacker::default(), Vec::new());
    let mut first = Ok(());
    for sealed in queue {
        if let Err(fault) = shelf.put_block(&sealed, &mut unpacker, &mut raw)
            && first.is_ok()
        {
            let full = matches!(fault, Fault::Full(_));
            first = Err(fault);
            if full {
                break;
            }
        }
    }
    first
}
