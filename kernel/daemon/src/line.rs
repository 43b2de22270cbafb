//! One socket connection as packets, in both directions; an interrupted read or write goes on where it was.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use crabbox_kernel::error::Result;
use crabbox_schemas::daemon::Answer;
use crabbox_schemas::helper::Blob;
use crabbox_wire::{Frame, Id, Packet, PacketReader};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes asked for at once.
const READ: usize = 64 << 10;

/// The reading half.
#[derive(Debug)]
pub(crate) struct Reader {
    half: OwnedReadHalf,
    packets: PacketReader,
    buffer: BytesMut,
}

/// The writing half. Closing it tells the other side that nothing more comes.
#[derive(Debug)]
pub(crate) struct Writer {
    half: OwnedWriteHalf,
    unsent: VecDeque<Bytes>,
}

/// Both halves.
pub(crate) fn split(stream: UnixStream) -> (Reader, Writer) {
    let (read, write) = stream.into_split();
    let packets = PacketReader::without_greeting();
    (
        Reader { half: read, packets, buffer: BytesMut::new() },
        Writer { half: write, unsent: VecDeque::new() },
    )
}

impl Reader {
    /// The next packet; an error also when the other side is gone.
    pub(crate) async fn next(&mut self) -> io::Result<Packet> {
        loop {
            match self.packets.next_packet() {
                Some(Ok(packet)) => return Ok(packet),
                Some(Err(bad)) => return Err(io::Error::new(io::ErrorKind::InvalidData, bad)),
                None => {
                    let bytes = self.bytes().await?;
                    self.packets.feed(&bytes);
                }
            }
        }
    }

    /// The next frame of channel 0; bytes of other channels are a fault here.
    pub(crate) async fn frame(&mut self) -> io::Result<Frame> {
        let packet = self.next().await?;
        let not_a_message = || io::Error::new(io::ErrorKind::InvalidData, "bytes of no channel");
        (packet.channel == 0).then_some(()).ok_or_else(not_a_message)?;
        packet.frame().map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))
    }

    /// From here on the stream is something else: what was read ahead comes first.
    pub(crate) fn into_raw(mut self) -> (Bytes, Self) {
        let ahead = std::mem::take(&mut self.packets).into_rest().freeze();
        (ahead, self)
    }

    /// Ends the connection in both directions, whoever holds the other half.
    pub(crate) fn shut(&self) {
        let stream: &UnixStream = self.half.as_ref();
        let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Both);
    }

    /// The next bytes as they come.
    pub(crate) async fn bytes(&mut self) -> io::Result<Bytes> {
        self.buffer.reserve(READ);
        match self.half.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(self.buffer.split().freeze()),
        }
    }
}

impl Writer {
    /// Sends a packet, and before it what an interrupted call left.
    pub(crate) async fn send(&mut self, packet: &Packet) -> io::Result<()> {
        self.raw(packet.to_bytes()).await
    }

    /// Sends bytes as they are.
    pub(crate) async fn raw(&mut self, bytes: Bytes) -> io::Result<()> {
        self.unsent.push_back(bytes);
        while let Some(front) = self.unsent.front_mut() {
            while !front.is_empty() {
                self.half.write_buf(front).await?;
            }
            self.unsent.pop_front();
        }
        Ok(())
    }

    /// Sends bytes as they are, all of them or the connection is of no more use.
    pub(crate) async fn stream(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.half.write_all(bytes).await
    }

    /// Lets go of this half without telling the other side.
    pub(crate) fn forget(self) {
        self.half.forget();
    }

    /// Sends a frame.
    pub(crate) async fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        let packet = Packet::message(0, frame)
            .map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
        self.send(&packet).await
    }

    /// Sends a notification.
    pub(crate) async fn note(&mut self, method: &str, params: &impl Serialize) -> io::Result<()> {
        self.frame(&encoded(Frame::notification(method, params))?).await
    }

    /// Sends a request.
    pub(crate) async fn ask(&mut self, method: &str, params: &impl Serialize) -> io::Result<()> {
        self.frame(&encoded(Frame::request(Id::Number(1), method, params))?).await
    }

    /// Answers a request.
    pub(crate) async fn answer<T: Serialize>(&mut self, id: Id, how: Result<T>) -> io::Result<()> {
        let answer = match how {
            Ok(done) => Answer::Done(done),
            Err(error) => Answer::Failed { failed: Box::new(error.to_failure()) },
        };
        self.frame(&encoded(Frame::success(id, &answer))?).await
    }
}

fn encoded<E: std::error::Error + Send + Sync + 'static>(
    frame: Result<Frame, E>,
) -> io::Result<Frame> {
    frame.map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))
}

/// Typed params or result.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> io::Result<T> {
    serde_json::from_value(value).map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))
}

/// A path for the wire.
pub(crate) fn blob(path: &Path) -> Blob {
    match path.to_str() {
        Some(text) => Blob::Text(text.to_owned()),
        None => Blob::Bytes { b64: STANDARD.encode(path.as_os_str().as_bytes()) },
    }
}

/// A path from the wire.
pub(crate) fn path(blob: Blob) -> io::Result<PathBuf> {
    match blob {
        Blob::Text(text) => Ok(text.into()),
        Blob::Bytes { b64 } => match STANDARD.decode(b64) {
            Ok(bytes) => Ok(OsString::from_vec(bytes).into()),
            Err(bad) => Err(io::Error::new(io::ErrorKind::InvalidData, bad)),
        },
    }
}
