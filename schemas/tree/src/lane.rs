//! Lanes: blocks that are packed one behind the other, each against what the ones before it held.
//!
//! A flight's blocks travel in a few lanes, packed and unpacked side by side. Within a lane a block is of use only
//! after those before it; a block that begins the lane anew needs none. Sealed, such a block is its codec
//! byte, the unpacked length, the lane's number, and the next bytes of a zstd stream.

use std::collections::BTreeMap;
use std::io;

use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::compress_bound;

use crate::TreeError;
use crate::block::{self, Block, HEAD};

/// How far back a block may refer within its lane, as a power of two. Bytes.
const WINDOW: u32 = 23;
/// Repetitions far apart are looked for at one place in so many, as a power of two, and count from this length on.
const SPARSE: (u32, u32) = (11, 128);
/// What a flushed stream may need besides its content. Bytes.
const SLACK: usize = 1 << 10;
/// Codecs of a block that begins its lane, and of one that goes on.
const BEGINS: u8 = 2;
const GOES_ON: u8 = 3;

/// Packs the blocks of one lane.
pub struct Packer {
    lane: u8,
    stream: Option<(i32, Encoder<'static>)>,
}

impl Packer {
    /// The lane of this number, with nothing in it.
    pub fn new(lane: u8) -> Self {
        Self { lane, stream: None }
    }

    /// The bytes for the wire; `level` is zstd's. Another level than the last begins the lane anew.
    pub fn seal(&mut self, block: &Block, level: i32) -> Result<Vec<u8>, TreeError> {
        self.packed(block, level).map_err(|e| {
            self.stream = None;
            TreeError::new(format!("cannot compress a block: {e}"))
        })
    }

    fn packed(&mut self, block: &Block, level: i32) -> io::Result<Vec<u8>> {
        let raw = block.raw();
        let room = compress_bound(raw.len()) + SLACK;
        let (codec, stream) = match &mut self.stream {
            Some((known, stream)) if *known == level => (GOES_ON, stream),
            other => (BEGINS, &mut other.insert((level, encoder(level)?)).1),
        };
        let mut out = block::head(codec, raw.len())?;
        out.push(self.lane);
        out.reserve(room);
        let start = out.len();
        let mut to = OutBuffer::around_pos(&mut out, start);
        let mut from = InBuffer::around(raw);
        while from.pos() < raw.len() {
            let before = from.pos();
            let _ = stream.run(&mut from, &mut to)?;
            if from.pos() == before {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        match stream.flush(&mut to)? {
            0 => Ok(out),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

fn encoder(level: i32) -> io::Result<Encoder<'static>> {
    let mut encoder = Encoder::new(level)?;
    encoder.set_parameter(CParameter::WindowLog(WINDOW))?;
    encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
    encoder.set_parameter(CParameter::LdmHashRateLog(SPARSE.0))?;
    encoder.set_parameter(CParameter::LdmMinMatch(SPARSE.1))?;
    encoder.set_parameter(CParameter::ContentSizeFlag(false))?;
    Ok(encoder)
}

/// The lane of a sealed block; one that stands by itself has none.
pub fn lane(sealed: &[u8]) -> Option<u8> {
    match sealed.first()? {
        &BEGINS | &GOES_ON => sealed.get(HEAD).copied(),
        _ => None,
    }
}

/// Unpacks blocks, those of each lane in their order.
#[derive(Default)]
pub struct Unpacker {
    lanes: BTreeMap<u8, Decoder<'static>>,
}

impl Unpacker {
    /// Unpacks a sealed block into `raw`, in place of what is there. Never takes more memory than a block may hold.
    pub fn open(&mut self, sealed: &[u8], raw: &mut Vec<u8>) -> Result<(), TreeError> {
        let bad = || TreeError::new("a damaged block");
        let (codec, len, body) = block::split_head(sealed)?;
        if codec != BEGINS && codec != GOES_ON {
            *raw = block::open(sealed)?;
            return Ok(());
        }
        let (&number, packed) = body.split_first().ok_or_else(bad)?;
        let mut stream = match codec {
            BEGINS => decoder().map_err(|_| bad())?,
            _ => self.lanes.remove(&number).ok_or_else(bad)?,
        };
        raw.clear();
        raw.reserve(len + 1);
        unpack(&mut stream, packed, raw, len + 1).map_err(|_| bad())?;
        self.lanes.insert(number, stream);
        if raw.len() == len { Ok(()) } else { Err(bad()) }
    }
}

fn decoder() -> io::Result<Decoder<'static>> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW))?;
    Ok(decoder)
}

/// Unpacks all of `packed`, at most `most` bytes.
fn unpack(
    stream: &mut Decoder<'_>,
    packed: &[u8],
    raw: &mut Vec<u8>,
    most: usize,
) -> io::Result<()> {
    let mut from = InBuffer::around(packed);
    let mut to = OutBuffer::around(raw);
    loop {
        let before = (from.pos(), to.pos());
        let _ = stream.run(&mut from, &mut to)?;
        if to.pos() >= most {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if (from.pos(), to.pos()) == before {
            return Ok(());
        }
    }
}
