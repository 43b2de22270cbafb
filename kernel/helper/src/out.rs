//! The way to the laptop: whole packets on standard output, whoever sends them.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::{Mutex, PoisonError};

use crabbox_wire::{Frame, GREETING, Id, Packet};
use serde::Serialize;

use crate::Fault;

/// Standard output. Every packet is written by the thread that has it; there is no queue and nothing is kept back.
pub(crate) struct Out {
    pipe: Mutex<File>,
}

impl Out {
    pub(crate) fn new(pipe: File) -> Self {
        Self { pipe: Mutex::new(pipe) }
    }

    /// Says who speaks; nothing may be written before.
    pub(crate) fn greet(&self) -> io::Result<()> {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner).write_all(GREETING)
    }

    /// A notification.
    pub(crate) fn note(
        &self,
        session: u32,
        method: &str,
        params: &impl Serialize,
    ) -> io::Result<()> {
        self.frame(session, Frame::notification(method, params).map_err(io::Error::other)?)
    }

    /// The answer to a request.
    pub(crate) fn answer(
        &self,
        session: u32,
        id: Id,
        result: Result<impl Serialize, Fault>,
    ) -> io::Result<()> {
        let frame = match result {
            Ok(result) => Frame::success(id, &result).map_err(io::Error::other)?,
            Err(fault) => Frame::failure(id, fault.into_rpc()),
        };
        self.frame(session, frame)
    }

    /// A frame.
    pub(crate) fn frame(&self, session: u32, frame: Frame) -> io::Result<()> {
        let packet = Packet::message(session, &frame).map_err(io::Error::other)?;
        self.write(&packet.head(), &packet.body)
    }

    /// Bytes of a channel.
    pub(crate) fn bytes(
        &self,
        session: u32,
        channel: u32,
        offset: u64,
        last: bool,
        body: &[u8],
    ) -> io::Result<()> {
        self.write(&Packet::head_of(session, channel, offset, last, body.len()), body)
    }

    fn write(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        write_both(&mut *pipe, head, body)
    }
}

/// Writes two buffers one behind the other, in one call where the system can.
pub(crate) fn write_both(to: &mut impl Write, head: &[u8], body: &[u8]) -> io::Result<()> {
    let mut slices = [IoSlice::new(head), IoSlice::new(body)];
    let mut left = &mut slices[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match to.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut left, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
