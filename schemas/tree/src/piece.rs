//! Pieces: the contents a delta needs, in an order both ends derive alike, and how large files are cut.

use crate::entry::{Hash, Kind, content_hash};
use crate::{ByHash, Delta, Hashes, TreeError};

/// Contents up to this size travel whole; larger ones are cut into chunks. Bytes.
pub const WHOLE: u64 = 1 << 20;

/// Chunk sizes: at least, on average, at most. Bytes.
const SIZES: (u32, u32, u32) = (16 << 10, 64 << 10, 256 << 10);

/// A part of a large content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its length in bytes, never 0.
    pub len: u32,
    /// The hash of its bytes.
    pub sha256: Hash,
}

/// How a large content is cut; the chunks follow each other without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The hash of the whole content.
    pub content: Hash,
    /// Its chunks, in order.
    pub chunks: Vec<Chunk>,
}

/// Something that may have to travel: a whole small content, or a chunk of a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The hash of its bytes.
    pub sha256: Hash,
    /// Its length in bytes.
    pub len: u32,
    /// Which entry of `delta.wanted` it is part of, and where it begins there.
    pub at: (usize, u64),
    /// Whether it is a chunk of something larger.
    pub chunk: bool,
}

/// The distinct pieces of a delta's contents, in order of first appearance. Empty files need none.
pub fn pieces(delta: &Delta) -> Result<Vec<Piece>, TreeError> {
    let recipes: ByHash<&Recipe> = delta.recipes.iter().map(|r| (r.content, r)).collect();
    let mut seen = Hashes::default();
    let mut pieces = Vec::with_capacity(delta.wanted.len());
    for (index, entry) in delta.wanted.iter().enumerate() {
        let Kind::File { size, sha256, .. } = entry.kind else { continue };
        if size <= WHOLE {
            if size > 0 && seen.insert(sha256) {
                let len = u32::try_from(size).unwrap_or(u32::MAX);
                pieces.push(Piece { sha256, len, at: (index, 0), chunk: false });
            }
            continue;
        }
        let recipe = recipes
            .get(&sha256)
            .ok_or_else(|| TreeError::new("a large file came without its recipe"))?;
        let mut at = 0;
        for chunk in &recipe.chunks {
            if seen.insert(chunk.sha256) {
                let Chunk { len, sha256 } = *chunk;
                pieces.push(Piece { sha256, len, at: (index, at), chunk: true });
            }
            at += u64::from(chunk.len);
        }
        if at != size || recipe.chunks.iter().any(|c| c.len == 0 || u64::from(c.len) > WHOLE) {
            return Err(TreeError::new("a recipe does not add up to its file"));
        }
    }
    Ok(pieces)
}

/// Cuts a buffer at content-defined places: the lengths of its chunks. Unless `last`, the final chunk is left
/// away, since more bytes may belong to it.
pub fn cut(buffer: &[u8], last: bool) -> Vec<Chunk> {
    let (min, average, max) = SIZES;
    let mut chunks: Vec<Chunk> = fastcdc::v2020::FastCDC::new(buffer, min, average, max)
        .map(|c| Chunk {
            len: u32::try_from(c.length).unwrap_or(u32::MAX),
            sha256: content_hash(&buffer[c.offset..c.offset + c.length]),
        })
        .collect();
    if !last {
        chunks.pop();
    }
    chunks
}

/// Which pieces one side has: a bit each, in the order of [`pieces`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Have(Vec<u8>);

impl Have {
    /// Nothing of `count` pieces.
    pub fn nothing(count: usize) -> Self {
        Self(vec![0; count.div_ceil(8)])
    }

    /// From bytes that came over the wire, for `count` pieces.
    pub fn from_bytes(bytes: Vec<u8>, count: usize) -> Result<Self, TreeError> {
        if bytes.len() != count.div_ceil(8) {
            return Err(TreeError::new("a list of pieces of the wrong length"));
        }
        Ok(Self(bytes))
    }

    /// The bytes for the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Notes that a piece is there.
    pub fn set(&mut self, index: usize) {
        if let Some(byte) = self.0.get_mut(index / 8) {
            *byte |= 1 << (index % 8);
        }
    }

    /// Whether a piece is there.
    pub fn has(&self, index: usize) -> bool {
        self.0.get(index / 8).is_some_and(|byte| byte & 1 << (index % 8) != 0)
    }
}
