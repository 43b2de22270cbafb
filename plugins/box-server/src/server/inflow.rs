//! Bytes from the client that a slow command or socket has not taken yet.
//!
//! The connection refills a channel's window as soon as data arrives, and waiting there would hold up
//! every other channel; so what is not taken waits here: some in memory, the rest in a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Bytes that wait in memory.
const IN_MEMORY: usize = 4 << 20;
/// Bytes taken from the file at once.
const CHUNK: u64 = 256 * 1024;

/// The client's end of a queue; dropping it ends the queue.
#[derive(Debug)]
pub(crate) struct Inflow(Arc<Queue>);

/// The command's end of a queue.
#[derive(Debug)]
pub(crate) struct Outflow(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
    folder: PathBuf,
}

#[derive(Debug, Default)]
struct Waiting {
    memory: VecDeque<Bytes>,
    in_memory: usize,
    /// What came after memory was full, and which part of it waits.
    file: Option<File>,
    start: u64,
    end: u64,
    done: bool,
}

/// Makes a queue whose overflow goes to a nameless file in a folder.
pub(crate) fn queue(folder: PathBuf) -> (Inflow, Outflow) {
    let queue = Queue { waiting: Mutex::default(), changed: Notify::new(), folder };
    let queue = Arc::new(queue);
    (Inflow(queue.clone()), Outflow(queue))
}

impl Inflow {
    /// Adds what the client sent; an error means that it is lost, and the channel with it.
    pub(crate) fn push(&self, data: Bytes) -> io::Result<()> {
        let mut waiting = self.0.lock();
        if waiting.start == waiting.end && waiting.in_memory < IN_MEMORY {
            waiting.in_memory += data.len();
            waiting.memory.push_back(data);
        } else {
            waiting.spill(&data, &self.0.folder)?;
        }
        self.0.changed.notify_one();
        Ok(())
    }
}

impl Drop for Inflow {
    fn drop(&mut self) {
        self.0.lock().done = true;
        self.0.changed.notify_one();
    }
}

impl Outflow {
    /// The next bytes; `None` once the client has ended its input and everything was taken.
    pub(crate) async fn pop(&mut self) -> Option<Bytes> {
        loop {
            {
                let mut waiting = self.0.lock();
                match waiting.take() {
                    Ok(Some(data)) => return Some(data),
                    Ok(None) if !waiting.done => {}
                    Ok(None) | Err(_) => return None,
                }
            }
            self.0.changed.notified().await;
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn spill(&mut self, data: &[u8], folder: &PathBuf) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile_in(folder)?,
        };
        let file = self.file.insert(file);
        file.write_all_at(data, self.end)?;
        self.end += data.len() as u64;
        Ok(())
    }

    fn take(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(data) = self.memory.pop_front() {
            self.in_memory -= data.len();
            return Ok(Some(data));
        }
        let Some(file) = self.file.as_ref().filter(|_| self.start < self.end) else {
            return Ok(None);
        };
        let count = CHUNK.min(self.end - self.start);
        let mut data = vec![0; usize::try_from(count).map_err(io::Error::other)?];
        file.read_exact_at(&mut data, self.start)?;
        self.start += count;
        if self.start == self.end {
            (self.file, self.start, self.end) = (None, 0, 0);
        }
        Ok(Some(data.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_keep_their_order_through_memory_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let (inflow, mut outflow) = queue(folder.path().to_owned());
        let piece = |n: u32| Bytes::from(n.to_le_bytes().repeat(8192));
        let mut expected = 0;
        for n in 0..400 {
            inflow.push(piece(n)).unwrap();
        }
        assert!(inflow.0.lock().in_memory <= IN_MEMORY + 32768);
        let mut got = Vec::new();
        while expected < 400 {
            got.extend_from_slice(&outflow.pop().await.unwrap());
            while got.len() >= 32768 {
                assert!(got.drain(..32768).eq(piece(expected)), "piece {expected}");
                expected += 1;
            }
        }
        inflow.push(piece(7)).unwrap();
        drop(inflow);
        assert_eq!(outflow.pop().await.unwrap(), piece(7));
        assert!(outflow.pop().await.is_none());
    }
}
