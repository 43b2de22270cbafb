//! Output nobody has read yet: a few MiB in memory, the rest in a file without a name, always in order.
//!
//! SSH's own flow control would hold back one channel, but the window is opened again before anybody has
//! read; only the whole connection could be made to wait. So a reader that sleeps costs disk instead.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crabbox_kernel::event::Stream;
use crabbox_kernel::ports::{Exit, Piece};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

/// Output kept in memory.
const MEMORY: usize = 8 << 20;
/// Output kept in the file. Beyond it the whole connection waits for the reader.
const DISK: u64 = 4 << 30;
/// How long the connection may wait for a reader that is only just too slow, until it has caught up once.
const GRACE: Duration = Duration::from_millis(50);
/// What a piece costs besides its bytes.
const PIECE: usize = 64;
/// Read from the file at once.
const FETCH: u64 = 1 << 20;
/// In the file, a stream and a length precede the bytes.
const HEAD: usize = 5;

/// Where output goes in. Dropping it without an exit says that the connection broke.
pub(crate) struct Inlet(Arc<Shared>);

/// Where output comes out. Dropping it gives the output up.
#[derive(Debug)]
pub(crate) struct Outlet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    held: Mutex<Held>,
    /// The reader has something to look at.
    filled: Notify,
    /// The writer has something to look at.
    emptied: Notify,
    dir: PathBuf,
}

#[derive(Debug)]
struct Held {
    front: VecDeque<(Stream, Bytes)>,
    bytes: usize,
    /// What came after `front`, when there is any: records up to `written`, of which `read` bytes are taken.
    file: Option<Arc<File>>,
    written: u64,
    read: u64,
    /// What of the record being read is still in the file.
    part: Option<(Stream, usize)>,
    writing: bool,
    grace: Duration,
    /// The file took no more; it is left alone until memory has room again.
    full: bool,
    exit: Option<Exit>,
    over: bool,
    given_up: bool,
}

/// Makes the two ends; a file is only made when it is needed, in `dir` if that can be.
pub(crate) fn spool(dir: PathBuf) -> (Inlet, Outlet) {
    let (filled, emptied) = (Notify::new(), Notify::new());
    let shared = Arc::new(Shared { held: Mutex::new(Held::new(false)), filled, emptied, dir });
    (Inlet(shared.clone()), Outlet(shared))
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn new(given_up: bool) -> Self {
        Self {
            front: VecDeque::new(),
            bytes: 0,
            file: None,
            written: 0,
            read: 0,
            part: None,
            writing: false,
            grace: GRACE,
            full: false,
            exit: None,
            over: false,
            given_up,
        }
    }

    fn in_memory(&self) -> bool {
        self.read == self.written && !self.writing
    }

    fn push(&mut self, stream: Stream, data: Bytes) {
        self.bytes += data.len() + PIECE;
        self.front.push_back((stream, data));
    }

    fn pop(&mut self) -> Option<Piece> {
        let (stream, data) = self.front.pop_front()?;
        self.bytes -= data.len() + PIECE;
        if self.front.is_empty() && self.in_memory() {
            self.grace = GRACE;
        }
        Some(Piece::Data(stream, data))
    }

    /// Takes over what was read from the file; a record's head that is not complete stays there.
    fn take_over(&mut self, mut data: Bytes) {
        let before = data.len();
        loop {
            let (stream, left) = match self.part.take() {
                Some(part) => part,
                None if data.len() < HEAD => break,
                None => {
                    let stream = if data.get_u8() == 0 { Stream::Stdout } else { Stream::Stderr };
                    (stream, data.get_u32() as usize)
                }
            };
            let here = data.split_to(left.min(data.len()));
            if here.len() < left {
                self.part = Some((stream, left - here.len()));
            }
            self.push(stream, here);
            if self.part.is_some() {
                break;
            }
        }
        self.read += (before - data.len()) as u64;
        if self.in_memory() {
            // Nobody writes to it now, and its room is given back.
            (self.file, self.written, self.read) = (None, 0, 0);
        }
    }
}

/// What can be done with a piece now.
enum Room {
    Kept,
    Nobody,
    Soon(Duration),
    File(Option<Arc<File>>, u64),
    None,
}

impl Inlet {
    /// Keeps a piece, waiting only when memory and file are full.
    pub(crate) async fn put(&self, stream: Stream, data: Bytes) {
        while !data.is_empty() {
            match self.room(stream, &data) {
                Room::Kept => return self.0.filled.notify_one(),
                Room::Nobody => return,
                Room::None => self.0.emptied.notified().await,
                Room::Soon(grace) => {
                    let begun = Instant::now();
                    let _ = timeout(grace, self.0.emptied.notified()).await;
                    self.0.held().grace = grace.saturating_sub(begun.elapsed());
                }
                Room::File(file, at) => {
                    let (dir, record) = (self.0.dir.clone(), record(stream, &data));
                    let length = record.len() as u64;
                    let wrote = spawn_blocking(move || set_aside(file, &dir, &record, at)).await;
                    let wrote = wrote.unwrap_or_else(|e| Err(io::Error::other(e)));
                    if self.set_aside(wrote, length) {
                        return self.0.filled.notify_one();
                    }
                }
            }
        }
    }

    fn room(&self, stream: Stream, data: &Bytes) -> Room {
        let mut held = self.0.held();
        if held.given_up {
            return Room::Nobody;
        }
        if held.in_memory() && (held.bytes == 0 || held.bytes + data.len() <= MEMORY) {
            held.full = false;
            held.push(stream, data.clone());
            return Room::Kept;
        }
        if held.in_memory() && !held.grace.is_zero() {
            return Room::Soon(held.grace);
        }
        if held.full || held.written + (data.len() + HEAD) as u64 > DISK {
            return Room::None;
        }
        held.writing = true;
        Room::File(held.file.clone(), held.written)
    }

    fn set_aside(&self, wrote: io::Result<Arc<File>>, length: u64) -> bool {
        let mut held = self.0.held();
        held.writing = false;
        match wrote {
            Ok(file) => {
                held.file = Some(file);
                held.written += length;
                true
            }
            Err(error) => {
                tracing::debug!(%error, "output cannot be set aside");
                held.full = true;
                false
            }
        }
    }

    /// Waits until nobody wants the output any more.
    pub(crate) async fn given_up(&self) {
        while !self.0.held().given_up {
            self.0.emptied.notified().await;
        }
    }

    /// Nothing comes any more but the exit, if there is one.
    pub(crate) fn end(self, exit: Option<Exit>) {
        self.0.held().exit = exit;
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.held().over = true;
        self.0.filled.notify_one();
    }
}

impl Outlet {
    /// The next piece, `None` at the end. Can be given up at any point without losing any.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            let (file, at, length) = {
                let mut held = self.0.held();
                if let Some(piece) = held.pop() {
                    self.0.emptied.notify_one();
                    return Ok(Some(piece));
                }
                let length = (held.written - held.read).min(FETCH);
                if length == 0 && held.over {
                    return Ok(held.exit.take().map(Piece::Exited));
                }
                (held.file.clone(), held.read, length)
            };
            match file {
                Some(file) if length > 0 => {
                    let fetched = spawn_blocking(move || fetch(&file, at, length)).await;
                    let fetched = fetched.map_err(io::Error::other)??;
                    self.0.held().take_over(fetched);
                }
                _ => self.0.filled.notified().await,
            }
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        *self.0.held() = Held::new(true);
        self.0.emptied.notify_one();
    }
}

fn record(stream: Stream, data: &Bytes) -> Bytes {
    let mut record = BytesMut::with_capacity(HEAD + data.len());
    record.put_u8(u8::from(stream == Stream::Stderr));
    record.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
    record.put_slice(data);
    record.freeze()
}

fn set_aside(file: Option<Arc<File>>, dir: &Path, record: &[u8], at: u64) -> io::Result<Arc<File>> {
    let file = match file {
        Some(file) => file,
        None => Arc::new(tempfile::tempfile_in(dir).or_else(|_| tempfile::tempfile())?),
    };
    file.write_all_at(record, at)?;
    Ok(file)
}

fn fetch(file: &File, at: u64, length: u64) -> io::Result<Bytes> {
    let mut data = BytesMut::zeroed(usize::try_from(length).unwrap_or_default());
    file.read_exact_at(&mut data, at)?;
    Ok(data.freeze())
}
