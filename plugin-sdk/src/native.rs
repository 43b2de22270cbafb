//! A plugin as a library: its session runs on a thread of its own, and bytes come and go through three functions.

#![allow(improper_ctypes_definitions, reason = "layouts are compared when the library is loaded")]

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crabbox_native::abi_stable::prefix_type::PrefixTypeTrait;
use crabbox_native::{Native, ROption, RSlice, RString};

use crate::{Failure, Plugin};

pub use crabbox_native::{NativeRef, Session, Sink, export};

/// Pieces that may wait to be read.
const WAITING: usize = 16;

/// A session as the runner holds it.
struct Open {
    pieces: SyncSender<Vec<u8>>,
    served: JoinHandle<Result<(), Failure>>,
}

/// The library's functions, around the plugin that `plugin` makes.
pub fn table(open: extern "C" fn(Sink) -> Session) -> NativeRef {
    Native { protocol: 1, open, feed, close }.leak_into_prefix()
}

/// Begins a session of a plugin.
pub fn open(plugin: Plugin, sink: Sink) -> Session {
    let (pieces, waiting) = sync_channel(WAITING);
    let served = std::thread::spawn(move || {
        plugin.serve(Pieces { waiting, piece: io::Cursor::default() }, Lines(sink))
    });
    Session::from_value(Open { pieces, served })
}

extern "C" fn feed(session: &Session, bytes: RSlice<'_, u8>) {
    if let Ok(open) = session.downcast_as::<Open>() {
        // A session that ended reads nothing more.
        let _ = open.pieces.send(bytes.to_vec());
    }
}

extern "C" fn close(session: Session) -> ROption<RString> {
    let Ok(open) = session.downcast_into::<Open>() else {
        return ROption::RSome("a session of another library".into());
    };
    let Open { pieces, served } = crabbox_native::RBox::into_inner(open);
    drop(pieces);
    match served.join() {
        Ok(Ok(())) => ROption::RNone,
        Ok(Err(failure)) => ROption::RSome(failure.to_string().into()),
        Err(_) => ROption::RSome("the plugin panicked; its log has the details".into()),
    }
}

/// The way in: pieces as they were fed, and the end when nobody can feed any more.
struct Pieces {
    waiting: Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.piece.read(into)? {
                0 => match self.waiting.recv() {
                    Ok(piece) => self.piece = io::Cursor::new(piece),
                    Err(_) => return Ok(0),
                },
                count => return Ok(count),
            }
        }
    }
}

/// The way out.
struct Lines(Sink);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match (self.0.write)(&self.0.to, RSlice::from_slice(bytes)) {
            true => Ok(bytes.len()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
