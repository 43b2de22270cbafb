//! The box channel's packets: JSON frames and raw bytes of many channels and sessions on one pair of pipes.
//!
//! A packet is a head of 24 bytes and a body. The head, little-endian: body length `u32`, session `u32`, channel
//! `u32`, flags `u32` (bit 0: the last bytes of the channel), offset `u64`. Channel 0 carries one JSON-RPC frame a
//! packet (offset 0); any other carries bytes, `offset` being the place of the first in its channel.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::frame::{Frame, WireError};

/// What a helper writes before its first packet; whatever a login shell printed before it is skipped.
pub const GREETING: &[u8] = b"\ncrabbox-channel 1\n";

/// Largest body of a packet, bytes. A sealed block fits.
pub const MAX_BODY: usize = 3 << 20;

/// Bytes one channel may be ahead of its reader's grants.
pub const WINDOW: u64 = 8 << 20;

/// Length of the head.
pub const HEAD: usize = 24;
/// Flag: no bytes of the channel follow.
const LAST: u32 = 1;
/// How much talk before the greeting is skipped.
const MAX_NOISE: usize = 64 << 10;

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Whose it is: 0, or a number a keeper of the channel gave one of its clients.
    pub session: u32,
    /// 0 for a JSON frame.
    pub channel: u32,
    /// Whether these are the last bytes of the channel.
    pub last: bool,
    /// Place of the first byte in its channel.
    pub offset: u64,
    /// The frame's JSON, or bytes.
    pub body: Bytes,
}

impl Packet {
    /// A packet with a JSON frame.
    pub fn message(session: u32, frame: &Frame) -> Result<Self, WireError> {
        let mut body = frame.encode(MAX_BODY)?;
        body.pop();
        Ok(Self { session, channel: 0, last: false, offset: 0, body: body.into() })
    }

    /// A packet with bytes.
    pub fn data(session: u32, channel: u32, offset: u64, last: bool, body: Bytes) -> Self {
        Self { session, channel, last, offset, body }
    }

    /// The frame of a packet on channel 0.
    pub fn frame(&self) -> Result<Frame, WireError> {
        Frame::decode(&self.body)
    }

    /// The head; the body goes behind it.
    pub fn head(&self) -> [u8; HEAD] {
        Self::head_of(self.session, self.channel, self.offset, self.last, self.body.len())
    }

    /// The head of a packet whose body of `len` bytes is elsewhere.
    pub fn head_of(session: u32, channel: u32, offset: u64, last: bool, len: usize) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        let mut out = &mut head[..];
        out.put_u32_le(u32::try_from(len).unwrap_or(u32::MAX));
        out.put_u32_le(session);
        out.put_u32_le(channel);
        out.put_u32_le(if last { LAST } else { 0 });
        out.put_u64_le(offset);
        head
    }

    /// Head and body in one.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD + self.body.len());
        out.put_slice(&self.head());
        out.put_slice(&self.body);
        out.freeze()
    }
}

/// What the head of a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Length of the body.
    pub len: usize,
    /// Whose packet it is.
    pub session: u32,
    /// Which channel it is for.
    pub channel: u32,
    /// Whether no bytes of the channel follow.
    pub last: bool,
    /// Place of the first byte in its channel.
    pub offset: u64,
}

impl Head {
    /// Understands a head.
    pub fn decode(bytes: &[u8; HEAD]) -> Result<Self, WireError> {
        let mut head = &bytes[..];
        let len = head.get_u32_le() as usize;
        let (session, channel, flags) = (head.get_u32_le(), head.get_u32_le(), head.get_u32_le());
        if len > MAX_BODY || flags & !LAST != 0 {
            return Err(WireError::bad(bytes, "a bad packet head"));
        }
        let offset = head.get_u64_le();
        Ok(Self { len, session, channel, last: flags & LAST != 0, offset })
    }

    /// The head in bytes.
    pub fn encode(&self) -> [u8; HEAD] {
        Packet::head_of(self.session, self.channel, self.offset, self.last, self.len)
    }
}

/// Takes bytes as they arrive and gives packets; holds at most one packet and what was fed after it.
#[derive(Debug, Default)]
pub struct PacketReader {
    buffer: BytesMut,
    greeted: bool,
}

impl PacketReader {
    /// A reader that expects the greeting first.
    pub fn new() -> Self {
        Self::default()
    }

    /// A reader of a side that does not greet.
    pub fn without_greeting() -> Self {
        Self { buffer: BytesMut::new(), greeted: true }
    }

    /// Adds bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the other side has greeted.
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// What was fed and not yet taken, for a stream that goes on as something else.
    pub fn into_rest(self) -> BytesMut {
        self.buffer
    }

    /// What came before the greeting and is not part of it, for people.
    pub fn noise(&self) -> &[u8] {
        if self.greeted { &[] } else { &self.buffer }
    }

    /// The next packet; `None` until more bytes are fed. After an error the reader is of no more use.
    pub fn next_packet(&mut self) -> Option<Result<Packet, WireError>> {
        if !self.greeted && !self.skip_noise() {
            let fault = self.buffer.len() > MAX_NOISE;
            return fault.then(|| Err(WireError::bad(&self.buffer, "no greeting came")));
        }
        let head = match Head::decode(self.buffer.first_chunk()?) {
            Ok(head) => head,
            Err(bad) => return Some(Err(bad)),
        };
        let Head { len, session, channel, last, offset } = head;
        if self.buffer.len() < HEAD + len {
            self.buffer.reserve(HEAD + len - self.buffer.len());
            return None;
        }
        self.buffer.advance(HEAD);
        let body = self.buffer.split_to(len).freeze();
        Some(Ok(Packet { session, channel, last, offset, body }))
    }

    fn skip_noise(&mut self) -> bool {
        let found = self.buffer.windows(GREETING.len()).position(|w| w == GREETING);
        if let Some(at) = found {
            self.buffer.advance(at + GREETING.len());
            self.greeted = true;
        }
        self.greeted
    }
}
