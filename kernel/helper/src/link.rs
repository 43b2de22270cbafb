//! Between a serve and a worker: packets on a socket, with open files beside them.
//!
//! Channel 0 carries an [`Order`] or a [`News`] as JSON. On the channels of base 1 travel, to the worker: standard input
//! by offset, and (empty, the offset tells) from where on a reader still needs a stream; to the serve, always
//! empty: how long a stream is by now, and how much of standard input was taken. A serve may meet the worker of an
//! older helper: these words are only ever added to.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use crabbox_schemas::helper::{Blob, Role, RunExit, Terminal};
use crabbox_wire::{MAX_BODY, Packet, PacketReader};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::out::write_both;

/// A command, ready to be started by a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The run's folder before it has its name.
    pub(crate) unnamed: String,
    /// The run's folder.
    pub(crate) dir: String,
    /// Where the command runs.
    pub(crate) workdir: String,
    /// Arguments of our exec mode: how to start, and the words.
    pub(crate) words: Vec<Blob>,
    /// The whole environment.
    pub(crate) env: Vec<(Blob, Blob)>,
    pub(crate) umask: u32,
    /// Limits of resources that differ from ours, in the words of the login module.
    pub(crate) limits: String,
    pub(crate) pty: Option<Terminal>,
    pub(crate) stdin: bool,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) spool_bytes: u64,
    /// How many files come with it.
    pub(crate) files: usize,
    /// Offers: standard output and error are read from their beginning.
    pub(crate) attached: bool,
}

/// What a serve tells a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Start this; the files that come with it are kept open until the command has ended.
    Start(Box<Start>),
    /// Here is a reader that needs the streams from these offsets on; with `stdin` it writes too.
    Attach { stdout: u64, stderr: u64, stdin: bool },
    /// The reader is gone.
    Detach,
    /// End the command.
    Signal { now: bool },
    /// The terminal's size.
    Resize { columns: u32, rows: u32 },
}

/// What a worker tells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// The command runs.
    Started { pid: u32, at_ms: u64 },
    /// It was started before.
    Twice,
    /// It could not be started.
    Failed(String),
    /// The answer to `Attach`: how much of standard input was taken.
    Attached { stdin_taken: u64 },
    /// The disk is full, and the command waits.
    Stalled,
    /// The command ended; the worker is free again.
    Exited(Box<RunExit>),
    /// The answer to `Signal`: whether every process is gone.
    Signalled { gone: bool },
}

/// A packet of channel 0.
pub(crate) fn spoken(words: &impl Serialize) -> io::Result<Packet> {
    Ok(Packet::data(0, 0, 0, false, serde_json::to_vec(words)?.into()))
}

/// A packet that says a place in a stream.
pub(crate) fn place(role: Role, offset: u64) -> Packet {
    Packet::data(0, role.of(1), offset, false, Bytes::new())
}

/// What a packet is.
#[derive(Debug)]
pub(crate) enum Heard<T> {
    Said(T),
    Stream(Role, Packet),
}

/// Understands a packet.
pub(crate) fn heard<T: DeserializeOwned>(packet: Packet) -> io::Result<Heard<T>> {
    if packet.channel == 0 {
        return Ok(Heard::Said(serde_json::from_slice(&packet.body)?));
    }
    match Role::from_channel(packet.channel) {
        Some((1, role)) => Ok(Heard::Stream(role, packet)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The serve's end; it may wait.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    input: PacketReader,
    buffer: Vec<u8>,
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, input: PacketReader::without_greeting(), buffer: vec![0; 16 << 10] }
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Says something.
    pub(crate) fn tell(&mut self, order: &Order) -> io::Result<()> {
        self.send(&spoken(order)?)
    }

    /// Sends a packet.
    pub(crate) fn send(&mut self, packet: &Packet) -> io::Result<()> {
        write_both(&mut &self.stream, &packet.head(), &packet.body)
    }

    /// Says something and hands open files over with it.
    pub(crate) fn tell_with(&mut self, order: &Order, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = spoken(order)?;
        if packet.body.len() > MAX_BODY {
            return Err(io::ErrorKind::ArgumentListTooLong.into());
        }
        let bytes = packet.to_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sent =
            sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        write_both(&mut &self.stream, bytes.get(sent..).unwrap_or_default(), &[])
    }

    /// The next packet that is here already.
    pub(crate) fn next(&mut self) -> io::Result<Option<Heard<News>>> {
        match self.input.next_packet() {
            None => Ok(None),
            Some(packet) => heard(packet.map_err(io::Error::other)?).map(Some),
        }
    }

    /// Waits until bytes are here; false at the end.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        loop {
            match (&self.stream).read(&mut self.buffer) {
                Ok(n) => {
                    self.input.feed(&self.buffer[..n]);
                    return Ok(n > 0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits for the next thing said; passes over everything else.
    pub(crate) fn answer(&mut self) -> io::Result<News> {
        loop {
            match self.next()? {
                Some(Heard::Said(news)) => return Ok(news),
                Some(Heard::Stream(..)) => {}
                None if self.fill()? => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

/// Reads bytes, and files that were handed over with them.
pub(crate) fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    files: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got =
        recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            files.extend(fds);
        }
    }
    Ok(got.bytes)
}
