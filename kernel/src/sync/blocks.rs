//! Pieces read from the files here, proved to be what was promised, and packed into blocks by threads.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use crabbox_schemas::error::ErrorCode;
use crabbox_tree::block::{Block, FULL};
use crabbox_tree::{Chunk, Delta, Have, Piece, Recipe, content_hash, cut};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use crate::error::{KernelError, Result};
use crate::sync::manifest::{Hash, open, unreadable};
use crate::sync::seed::Seeded;

/// zstd levels for a link that keeps up, and for one that does not.
pub(super) const FAST: i32 = 1;
const DENSE: i32 = 3;
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

/// Reads a parcel's pieces below `root` and seals them.
pub(super) fn pack(root: &Path, parcel: &Parcel, level: i32) -> Result<Bytes, Spoiled> {
    let mut block = Block::default();
    let mut opened: Option<(&Path, File)> = None;
    let mut buffer = Vec::new();
    for (path, piece) in &parcel.0 {
        let file = match opened.take().filter(|(of, _)| *of == path) {
            Some((_, file)) => file,
            None => reach(root, path)?,
        };
        buffer.resize(piece.len as usize, 0);
        match file.read_exact_at(&mut buffer, piece.at.1) {
            Ok(()) if content_hash(&buffer) == piece.sha256 => block.push(&piece.sha256, &buffer),
            Ok(()) => return Err(Spoiled::Changed(path.clone())),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(Spoiled::Changed(path.clone()));
            }
            Err(e) => return Err(Spoiled::Failed(unreadable(path).because(&e))),
        }
        opened = Some((path, file));
    }
    let level = block.shrinks().then_some(level);
    let sealed = block.seal(level).map_err(|e| Spoiled::Failed(internal(&e)))?;
    Ok(sealed.into())
}

fn reach(root: &Path, path: &Path) -> Result<File, Spoiled> {
    let at = root.join(path);
    match open(&at, path) {
        Ok((file, _)) => Ok(file),
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
    /// Begins to pack what stands below `root`.
    pub(super) fn start(root: &Path, parcels: Vec<Parcel>, seeded: &Arc<Seeded>) -> Self {
        let threads = threads().min(parcels.len());
        let level = Arc::new(AtomicI32::new(FAST));
        let left = parcels.len();
        let mut shares: Vec<Vec<Parcel>> = (0..threads).map(|_| Vec::new()).collect();
        for (index, parcel) in parcels.into_iter().enumerate() {
            shares[index % threads].push(parcel);
        }
        let lanes = shares
            .into_iter()
            .map(|share| lane(root, share, level.clone(), seeded.clone()))
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

    /// Packs denser while the link is what everything waits for.
    pub(super) fn link_keeps_up(&self, yes: bool) {
        self.level.store(if yes { FAST } else { DENSE }, Ordering::Relaxed);
    }
}

fn lane(
    root: &Path,
    share: Vec<Parcel>,
    level: Arc<AtomicI32>,
    seeded: Arc<Seeded>,
) -> mpsc::Receiver<Result<(Bytes, u64), Spoiled>> {
    let (sender, lane) = mpsc::channel(AHEAD);
    let root = root.to_owned();
    std::thread::spawn(move || {
        for parcel in share {
            let bytes = parcel.bytes();
            let parcel = parcel.without(&seeded);
            let block = match parcel.0.is_empty() {
                true => Ok(Bytes::new()),
                false => pack(&root, &parcel, level.load(Ordering::Relaxed)),
            };
            if sender.blocking_send(block.map(|block| (block, bytes))).is_err() {
                return; // nobody wants them any more
            }
        }
    });
    lane
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
    let mut file = reach(root, path)?;
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
