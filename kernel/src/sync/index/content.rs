//! Reads a content once: its length, its hash, and how it is cut when it is large.

use std::io::Read;

use crabbox_tree::{Chunk, Hash, WHOLE};
use sha2::{Digest, Sha256};

/// Size of one read.
const PIECE: usize = 256 << 10;

/// How much of a large content is gathered before it is cut. Bytes.
const GATHERED: usize = 4 << 20;

/// What a content is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::sync) struct Content {
    pub(in crate::sync) size: u64,
    pub(in crate::sync) sha256: Hash,
    /// Empty unless more than [`WHOLE`] was expected.
    pub(in crate::sync) chunks: Vec<Chunk>,
}

/// Reads to the end, in bounded memory. `expected` is the length the file's facts name.
pub(in crate::sync) fn read(
    from: &mut impl Read,
    expected: u64,
    buffer: &mut Vec<u8>,
) -> std::io::Result<Content> {
    // One byte more than a small file holds, so that its end shows in one read.
    let room = usize::try_from(expected).unwrap_or(PIECE).saturating_add(1).min(PIECE);
    if buffer.len() < room {
        buffer.resize(room, 0);
    }
    let mut hasher = Sha256::new();
    let mut cutter = (expected > WHOLE).then(Cutter::default);
    let mut size = 0;
    loop {
        let n = from.read(buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        if let Some(cutter) = &mut cutter {
            cutter.push(&buffer[..n]);
        }
        size += n as u64;
    }
    let chunks = cutter.map(Cutter::finish).unwrap_or_default();
    Ok(Content { size, sha256: hasher.finalize().into(), chunks })
}

/// Cuts a stream exactly as [`crabbox_tree::cut`] cuts the whole.
#[derive(Default)]
struct Cutter {
    held: Vec<u8>,
    chunks: Vec<Chunk>,
}

impl Cutter {
    fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= GATHERED {
            self.cut(false);
        }
    }

    fn cut(&mut self, last: bool) {
        let before = self.chunks.len();
        self.chunks.extend(crabbox_tree::cut(&self.held, last));
        let used: usize = self.chunks[before..].iter().map(|chunk| chunk.len as usize).sum();
        self.held.drain(..used);
    }

    fn finish(mut self) -> Vec<Chunk> {
        self.cut(true);
        self.chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that repeat nowhere near.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (*state >> 56) as u8
        };
        (0..len).map(|_| next(&mut state)).collect()
    }

    /// Hands out at most so many bytes at once.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let n = self.1.min(into.len());
            (&mut self.0).take(n as u64).read(into)
        }
    }

    #[test]
    fn a_stream_is_cut_as_the_whole_is() {
        for bytes in
            [noise(9_000_001), noise(GATHERED), vec![0; 5_000_000], noise(WHOLE as usize + 1)]
        {
            for step in [usize::MAX, 100_003] {
                let content =
                    read(&mut Drops(&bytes, step), bytes.len() as u64, &mut Vec::new()).unwrap();
                assert_eq!(content.chunks, crabbox_tree::cut(&bytes, true));
                assert_eq!(content.sha256, crabbox_tree::content_hash(&bytes));
                assert_eq!(content.size, bytes.len() as u64);
            }
        }
    }

    #[test]
    fn what_travels_whole_is_not_cut() {
        for len in [0, 1, WHOLE as usize] {
            let bytes = noise(len);
            let content = read(&mut bytes.as_slice(), len as u64, &mut Vec::new()).unwrap();
            assert_eq!((content.size, content.chunks), (len as u64, Vec::new()));
        }
    }
}
