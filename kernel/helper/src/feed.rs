//! Further ways in: a process on an SSH channel of its own hands its standard input to the serve and waits.
//!
//! They meet at a socket without a file, so that no path is too long and nothing is left behind; both ends check that the
//! other is the same user.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::helper::{Feed, Role};
use crabbox_wire::{GREETING, PacketReader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::line::{Line, Piece};
use crate::serve::Serve;
use crate::{Fault, link, program};

/// Most feeders of one flight.
const MOST: usize = 4;
/// How long they may take to come, and one of them to hand over what it brings.
const COMING: Duration = Duration::from_secs(20);
/// What a feeder says when it hands its input over, and hears when that was taken.
const WORD: &[u8] = b"+";
/// Bytes read at once.
const READ: usize = 256 << 10;

/// Lets feeders come for the blocks of a flight.
pub(crate) fn open(serve: &Serve, session: u32, base: u32) -> Result<Feed, Fault> {
    let gone = || Fault::request("no flight is under way on these channels");
    let line = serve.line(session, base).ok_or_else(gone)?;
    let path = std::fs::read_link(program::SELF).ok().filter(|path| path.exists());
    let program = path.and_then(|path| path.into_os_string().into_string().ok());
    let program =
        program.ok_or_else(|| Fault::new(ErrorKind::Unsupported, "the helper has no path"))?;
    let socket = format!("crabbox-feed-{}-{session}-{base}", std::process::id());
    let cannot = |e| Fault::io("cannot listen for feeders", e);
    let address = SocketAddr::from_abstract_name(&socket).map_err(cannot)?;
    let listener = UnixListener::bind_addr(&address).map_err(cannot)?;
    std::thread::spawn(move || admit(&line, &listener));
    Ok(Feed { program, socket })
}

/// Takes what comes in time.
fn admit(line: &Arc<Line>, listener: &UnixListener) {
    let until = Instant::now() + COMING;
    for _ in 0..MOST {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now()));
        let came = left.map(|left| poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&left)));
        if !matches!(came, Ok(Ok(1..))) || line.is_over() {
            return;
        }
        let Ok((feeder, _)) = listener.accept() else { return };
        let line = line.clone();
        // Without it the laptop notices that the feeder ended, and connects again.
        std::thread::spawn(move || take_in(&line, &feeder));
    }
}

/// Takes a feeder's input for the line until it ends. What does not belong there ends it.
fn take_in(line: &Line, mut feeder: &UnixStream) -> Option<()> {
    let mut files = Vec::new();
    feeder.set_read_timeout(Some(COMING)).ok().filter(|()| is_ours(feeder))?;
    link::receive(feeder, &mut [0], &mut files).ok()?;
    let mut input = File::from(files.pop()?);
    feeder.write_all(WORD).ok()?;
    let mut packets = PacketReader::without_greeting();
    let mut buffer = vec![0; READ];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return None,
            Ok(n) => packets.feed(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
        while let Some(packet) = packets.next_packet() {
            let packet = packet.ok().filter(|p| p.channel == Role::Blocks.of(line.base))?;
            let piece = Piece { offset: packet.offset, last: packet.last, bytes: packet.body };
            line.push(Role::Blocks, piece).then_some(())?;
        }
    }
}

fn is_ours(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

/// The feed mode: hands standard input over, says so, and stays as long as it is read.
pub(crate) fn feed(args: &[OsString]) -> ExitCode {
    let [socket] = args else { return ExitCode::from(64) };
    match hand_over(socket.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn hand_over(socket: &[u8]) -> io::Result<()> {
    let mut serve = UnixStream::connect_addr(&SocketAddr::from_abstract_name(socket)?)?;
    if !is_ours(&serve) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let stdin = rustix::stdio::stdin();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [stdin.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(&serve, &[IoSlice::new(WORD)], &mut control, SendFlags::NOSIGNAL)?;
    serve.read_exact(&mut [0])?;
    let stdout = File::from(rustix::stdio::stdout().try_clone_to_owned()?);
    (&stdout).write_all(GREETING)?;
    // Says nothing more; its end is the end of the flight or of the serve.
    serve.read(&mut [0]).map(drop)
}
