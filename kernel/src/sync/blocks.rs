//! Pieces read from the files here, proved to be what was promised, and packed into blocks by threads.

use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use crabbox_schemas::error::ErrorCode;
use crabbox_tree::block::{Block, FULL};
use crabbox_tree::lane::Packer;
use crabbox_tree::{Chunk, Delta, Have, Piece, Recipe, content_hash, cut};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use crate::error::{KernelError, Result};
use crate::sync::LocalTree;
use crate::sync::index::record::Stat;
use crate::sync::manifest::{Hash, open, unreadable};
use crate::sync::seed::Seeded;

/// zstd's level for a link that keeps up.
pub(super) const FAST: i32 = 1;
/// And for one that carries less than so many bytes in a second.
const DENSE: &[(u64, i32)] = &[(8 << 20, 5), (24 << 20, 3)];
/// A link that answered within this time keeps up, whatever it carried. Milliseconds.
const NEAR: u64 = 20;
/// Most threads that pack.
const THREADS: usize = 4;
/// Blocks each of them may be ahead.
const AHEAD: usize = 2;
/// How much of a large file is read at a time; far more than its largest chunk.
const READ: usize = 8 << 20;
/// What a record takes in a block besides its content.
const RECORD: usize = 36;

/// Why a piece cannot be had.
#[derive(Debug)]
pub(super) enum Spoiled {
    /// The file is not what it was when it was described.
    Changed(PathBuf),
    /// It cannot be read.
    Failed(KernelError),
}

/// What becomes one block: places in files, with what should be there.
#[derive(Debug, Default)]
pub(super) struct Parcel(Vec<(PathBuf, Piece)>);

impl Parcel {
    /// The bytes of its pieces.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, piece)| u64::from(piece.len)).sum()
    }

    /// Leaves out what the box has found meanwhile.
    fn without(mut self, seeded: &Seeded) -> Self {
        self.0.retain(|(_, piece)| !seeded.has(&piece.sha256));
        self
    }
}

/// The pieces that are not there yet, in order, a block's worth each.
pub(super) fn parcels(delta: &Delta, pieces: &[Piece], have: &Have) -> Vec<Parcel> {
    let mut parcels = Vec::new();
    let (mut parcel, mut size) = (Parcel::default(), 0);
    let missing = pieces.iter().enumerate().filter(|(index, _)| !have.has(*index));
    for (_, piece) in missing {
        let Some(entry) = delta.wanted.get(piece.at.0) else { continue };
        parcel.0.push((entry.path.clone(), *piece));
        size += RECORD + piece.len as usize;
        if size >= FULL {
            parcels.push(std::mem::take(&mut parcel));
            size = 0;
        }
    }
    if !parcel.0.is_empty() {
        parcels.push(parcel);
    }
    parcels
}

/// Where contents are read from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    root: PathBuf,
    /// What did not change since then is what it was described as, and need not be hashed once more: the box checks
    /// every piece.
    moment: i64,
}

impl Source {
    pub(super) fn of(tree: &LocalTree) -> Self {
        Self { root: tree.root.clone(), moment: tree.moment }
    }

    /// A parcel's pieces as a block that stands by itself.
    pub(super) fn pack(&self, parcel: &Parcel) -> Result<Bytes, Spoiled> {
        let mut block = Block::default();
        self.fill(&mut block, parcel)?;
        let level = block.shrinks().then_some(FAST);
        Ok(block.seal(level).map_err(|e| Spoiled::Failed(internal(&e)))?.into())
    }

    /// The same as the next block of a lane. What does not shrink stands by itself.
    fn pack_next(
        &self,
        block: &mut Block,
        packer: &mut Packer,
        parcel: &Parcel,
        level: i32,
    ) -> Result<Bytes, Spoiled> {
        block.clear();
        self.fill(block, parcel)?;
        let sealed = if block.shrinks() { packer.seal(block, level) } else { block.seal(None) };
        Ok(sealed.map_err(|e| Spoiled::Failed(internal(&e)))?.into())
    }

    fn fill(&self, block: &mut Block, parcel: &Parcel) -> Result<(), Spoiled> {
        let mut opened: Option<(&Path, File, bool)> = None;
        for (path, piece) in &parcel.0 {
            let (mut file, still) = match opened.take().filter(|(of, ..)| *of == path) {
                Some((_, file, still)) => (file, still),
                None => self.reach(path)?,
            };
            let failed = |e: std::io::Error| Spoiled::Failed(unreadable(path).because(&e));
            if piece.chunk {
                let _ = file.seek(SeekFrom::Start(piece.at.1)).map_err(failed)?;
            }
            let bytes = block.pull(&piece.sha256, piece.len, &file).map_err(failed)?;
            let right =
                bytes.len() == piece.len as usize && (still || content_hash(bytes) == piece.sha256);
            if !right {
                return Err(Spoiled::Changed(path.clone()));
            }
            opened = Some((path, file, still));
        }
        Ok(())
    }

    /// Opens a file; whether it is what it was at the moment.
    fn reach(&self, path: &Path) -> Result<(File, bool), Spoiled> {
        let (file, facts) = reach(&self.root, path)?;
        Ok((file, !Stat::of(&facts).is_racy(self.moment)))
    }
}

fn reach(root: &Path, path: &Path) -> Result<(File, Metadata), Spoiled> {
    let at = root.join(path);
    match open(&at, path) {
        Ok(opened) => Ok(opened),
        // Gone, or no file any more: that is a change, too.
        Err(_) if !at.symlink_metadata().is_ok_and(|m| m.is_file()) => {
            Err(Spoiled::Changed(path.to_owned()))
        }
        Err(error) => Err(Spoiled::Failed(error)),
    }
}

fn internal(error: &crabbox_tree::TreeError) -> KernelError {
    KernelError::new(ErrorCode::Internal, "a block cannot be packed").because(error)
}

/// Threads that pack parcels, each a little ahead of what is sent.
#[derive(Debug)]
pub(super) struct Packers {
    lanes: Vec<mpsc::Receiver<Result<(Bytes, u64), Spoiled>>>,
    next: usize,
    left: usize,
    level: Arc<AtomicI32>,
}

impl Packers {
    /// Begins to pack; what the box found by itself meanwhile is left out.
    pub(super) fn start(source: &Source, parcels: Vec<Parcel>, seeded: &Arc<Seeded>) -> Self {
        let threads = threads().min(parcels.len());
        let level = Arc::new(AtomicI32::new(FAST));
        let left = parcels.len();
        let mut shares: Vec<Vec<Parcel>> = (0..threads).map(|_| Vec::new()).collect();
        for (index, parcel) in parcels.into_iter().enumerate() {
            shares[index % threads].push(parcel);
        }
        let lanes = shares.into_iter().zip(0..);
        let lanes = lanes
            .map(|(share, lane)| start(source, lane, share, level.clone(), seeded.clone()))
            .collect();
        Self { lanes, next: 0, left, level }
    }

    /// Blocks not yet taken.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// The next block in order, empty when the box has its content already, and the bytes that are done with it;
    /// `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Result<(Bytes, u64), Spoiled>> {
        if self.left == 0 {
            return None;
        }
        let lanes = self.lanes.len();
        let block = self.lanes[self.next % lanes].recv().await.unwrap_or_else(|| {
            Err(Spoiled::Failed(KernelError::new(ErrorCode::Internal, "a packing thread died")))
        });
        self.next += 1;
        self.left -= 1;
        Some(block)
    }

    /// Packs denser from now on where that pays: `bytes` took `ms` over the link.
    pub(super) fn suit(&self, bytes: u64, ms: u64) {
        self.level.store(level(bytes, ms), Ordering::Relaxed);
    }
}

/// The processor's time hides behind a slow link.
fn level(bytes: u64, ms: u64) -> i32 {
    let rate = bytes.saturating_mul(1000) / ms.max(1);
    let slow = DENSE.iter().find(|(below, _)| ms > NEAR && rate < *below);
    slow.map_or(FAST, |(_, level)| *level)
}

fn start(
    source: &Source,
    lane: u8,
    share: Vec<Parcel>,
    level: Arc<AtomicI32>,
    seeded: Arc<Seeded>,
) -> mpsc::Receiver<Result<(Bytes, u64), Spoiled>> {
    let (sender, blocks) = mpsc::channel(AHEAD);
    let source = source.clone();
    std::thread::spawn(move || {
        let (mut block, mut packer) = (Block::default(), Packer::new(lane));
        for parcel in share {
            let bytes = parcel.bytes();
            let parcel = parcel.without(&seeded);
            let level = level.load(Ordering::Relaxed);
            let sealed = match parcel.0.is_empty() {
                true => Ok(Bytes::new()),
                false => source.pack_next(&mut block, &mut packer, &parcel, level),
            };
            if sender.blocking_send(sealed.map(|sealed| (sealed, bytes))).is_err() {
                return; // nobody wants them any more
            }
        }
    });
    blocks
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS)
}

/// A large content to be cut: where it stands and what it is.
pub(super) type Large = (PathBuf, Hash);

/// Cuts large files, a few at a time, in threads; the first trouble ends it.
pub(super) async fn recipes(root: &Path, large: Vec<Large>) -> Result<Vec<Recipe>, Spoiled> {
    let (threads, todo) = (threads().min(large.len()), Arc::new(Mutex::new(large)));
    let mut answers = Vec::new();
    for _ in 0..threads {
        let (todo, root) = (todo.clone(), root.to_owned());
        let (told, answer) = oneshot::channel();
        std::thread::spawn(move || {
            let mut done = Vec::new();
            loop {
                let next = todo.lock().ok().and_then(|mut todo| todo.pop());
                let Some((path, content)) = next else { break };
                if told.is_closed() {
                    break;
                }
                done.push(recipe(&root, &path, content));
            }
            let _ = told.send(done);
        });
        answers.push(answer);
    }
    let mut recipes = Vec::new();
    for answer in answers {
        let died =
            || Spoiled::Failed(KernelError::new(ErrorCode::Internal, "a cutting thread died"));
        for recipe in answer.await.map_err(|_| died())? {
            recipes.push(recipe?);
        }
    }
    Ok(recipes)
}

/// How one large file is cut, proved to be the content it should be.
fn recipe(root: &Path, path: &Path, content: Hash) -> Result<Recipe, Spoiled> {
    let (mut file, _) = reach(root, path)?;
    let (mut chunks, mut hasher) = (Vec::<Chunk>::new(), Sha256::new());
    let (mut buffer, mut filled) = (vec![0; READ], 0);
    loop {
        let n = read_full(&mut file, &mut buffer[filled..])
            .map_err(|e| Spoiled::Failed(unreadable(path).because(&e)))?;
        hasher.update(&buffer[filled..filled + n]);
        filled += n;
        let last = filled < buffer.len();
        let made = cut(&buffer[..filled], last);
        let used: usize = made.iter().map(|c| c.len as usize).sum();
        chunks.extend(made);
        if last {
            break;
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
    let hash: Hash = hasher.finalize().into();
    if hash == content {
        Ok(Recipe { content, chunks })
    } else {
        Err(Spoiled::Changed(path.into()))
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
