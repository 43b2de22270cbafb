//! Blocks: pieces packed one behind the other, compressed when that helps.
//!
//! A sealed block is a codec byte (0 as is, 1 zstd, 2 and 3 see [`crate::lane`]), the unpacked length as a
//! little-endian `u32`, and the packed bytes. Unpacked, it is a row of records: the piece's hash, its length as
//! `u32`, its bytes.

use std::io::{self, Read};

use crate::TreeError;
use crate::entry::Hash;

/// How much a block is filled to before it is sealed. A record may overfill it. Bytes.
pub const FULL: usize = 1 << 20;

/// Most bytes a block may hold unpacked.
pub const MAX: usize = FULL + crate::WHOLE as usize + RECORD;

/// Bytes before a record's content.
const RECORD: usize = 36;
/// Bytes before a block's packed bytes.
pub(crate) const HEAD: usize = 5;

/// How many samples are compressed to judge a block, and how large each is. Bytes.
const SAMPLES: usize = 4;
const SAMPLE: usize = 8 << 10;

/// A block being filled.
#[derive(Debug, Default)]
pub struct Block {
    raw: Vec<u8>,
}

impl Block {
    /// Adds a piece.
    pub fn push(&mut self, sha256: &Hash, bytes: &[u8]) {
        self.raw.reserve(RECORD + bytes.len());
        self.raw.extend_from_slice(sha256);
        self.raw.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.raw.extend_from_slice(bytes);
    }

    /// Adds a piece that is read from a source, and gives its bytes. They may be cut off where the source ends; the
    /// hash is what somebody claims.
    pub fn pull(&mut self, sha256: &Hash, len: u32, from: impl Read) -> io::Result<&[u8]> {
        // A little more than needed, so that the end is seen without a try for more.
        self.raw.reserve(RECORD + len as usize + 64);
        self.raw.extend_from_slice(sha256);
        self.raw.extend_from_slice(&len.to_le_bytes());
        let start = self.raw.len();
        let _ = from.take(len.into()).read_to_end(&mut self.raw)?;
        Ok(&self.raw[start..])
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.raw.clear();
    }

    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Whether it should be sealed now.
    pub fn is_full(&self) -> bool {
        self.raw.len() >= FULL
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Whether compressing it is worth the time, judged by samples of it.
    pub fn shrinks(&self) -> bool {
        let step = (self.raw.len() / SAMPLES).max(SAMPLE);
        let sample: Vec<u8> =
            self.raw.chunks(step).flat_map(|c| &c[..c.len().min(SAMPLE)]).copied().collect();
        zstd::bulk::compress(&sample, 1).is_ok_and(|packed| packed.len() < sample.len() / 20 * 19)
    }

    /// The bytes for the wire; `level` is zstd's, `None` leaves them as they are.
    pub fn seal(&self, level: Option<i32>) -> Result<Vec<u8>, TreeError> {
        let packed = match level {
            Some(level) => Some(
                zstd::bulk::compress(&self.raw, level)
                    .map_err(|e| TreeError::new(format!("cannot compress a block: {e}")))?,
            ),
            None => None,
        };
        let (codec, body) = match &packed {
            Some(packed) if packed.len() < self.raw.len() => (1, packed),
            _ => (0, &self.raw),
        };
        let mut out =
            head(codec, self.raw.len()).map_err(|_| TreeError::new("a block too large"))?;
        out.extend_from_slice(body);
        Ok(out)
    }
}

/// The first bytes of a sealed block.
pub(crate) fn head(codec: u8, len: usize) -> io::Result<Vec<u8>> {
    let len = u32::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let [a, b, c, d] = len.to_le_bytes();
    Ok(vec![codec, a, b, c, d])
}

/// The codec of a sealed block, its length once unpacked, and what follows.
pub(crate) fn split_head(sealed: &[u8]) -> Result<(u8, usize, &[u8]), TreeError> {
    let (&[codec, a, b, c, d], body) =
        sealed.split_first_chunk::<HEAD>().ok_or_else(|| TreeError::new("a damaged block"))?;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    match len > MAX {
        true => Err(TreeError::new("a block larger than allowed")),
        false => Ok((codec, len, body)),
    }
}

/// Unpacks a sealed block that stands by itself. Never takes more memory than a block may hold.
pub fn open(sealed: &[u8]) -> Result<Vec<u8>, TreeError> {
    let bad = || TreeError::new("a damaged block");
    let (codec, len, body) = split_head(sealed)?;
    let raw = match codec {
        0 => body.to_vec(),
        1 => zstd::bulk::decompress(body, len).map_err(|_| bad())?,
        _ => return Err(TreeError::new("a block packed in an unknown way")),
    };
    if raw.len() == len { Ok(raw) } else { Err(bad()) }
}

/// The records of an unpacked block: hash and bytes, in order. The hashes are claims; check them.
pub fn records(raw: &[u8]) -> impl Iterator<Item = Result<(Hash, &[u8]), TreeError>> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = split(rest);
        rest = record.map_or(&[], |(_, _, after)| after);
        Some(
            record
                .map(|(hash, bytes, _)| (hash, bytes))
                .ok_or_else(|| TreeError::new("a damaged record in a block")),
        )
    })
}

fn split(raw: &[u8]) -> Option<(Hash, &[u8], &[u8])> {
    let (hash, rest) = raw.split_first_chunk::<32>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (bytes, after) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((*hash, bytes, after))
}
