//! One connection through a line: two lanes of bytes that wait for their time.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::sockopt::set_socket_linger;

use super::{Direction, Shape, Shared, rest, watch};

/// Bytes one lane may hold before it stops reading.
const IN_FLIGHT: usize = 16 << 20;
/// Bytes taken at once; fewer on a link with a rate, where a piece arrives only with its last byte.
const PIECE: usize = 256 * 1024;
const PACED_PIECE: usize = 16 * 1024;
/// How far ahead of its rate a lane may read, so that a late wake-up costs no throughput.
const AHEAD: Duration = Duration::from_millis(2);

/// Carries one connection, born after so many cuts, until both sides have said everything or something resets it.
pub(super) fn carry(shared: &Shared, client: TcpStream, wake: UnixStream, cuts: u64) {
    let Some(shape) = open(shared, &wake, cuts) else { return reset(&client) };
    let Ok(server) = TcpStream::connect(shared.target) else { return reset(&client) };
    let (up, mut down) = (Lane::new(Direction::Up, cuts), Lane::new(Direction::Down, cuts));
    // The server heard of the client half a round trip later than it was told here.
    down.not_before = Instant::now() + shape.rtt;
    let mut link = Link { shared, wake, client, server, up, down };
    if link.prepare().and_then(|()| link.run(cuts)).is_err() {
        reset(&link.client);
        reset(&link.server);
    }
}

/// Waits as long as the handshake takes on this line; nothing when the connection dies first.
fn open(shared: &Shared, wake: &UnixStream, cuts: u64) -> Option<Shape> {
    let begun = Instant::now();
    loop {
        let (shape, black_hole) = shared.now(cuts)?;
        let left = shape.rtt.saturating_sub(begun.elapsed());
        if left.is_zero() && !black_hole {
            return Some(shape);
        }
        let limit = (!black_hole).then_some(left);
        rest(&mut [PollFd::new(wake, PollFlags::IN)], wake, limit);
    }
}

/// Has the kernel send a reset, not a goodbye, when the socket closes.
pub(super) fn reset(socket: &TcpStream) {
    let _ = set_socket_linger(socket, Some(Duration::ZERO));
}

struct Link<'a> {
    shared: &'a Shared,
    wake: UnixStream,
    client: TcpStream,
    server: TcpStream,
    up: Lane,
    down: Lane,
}

impl Link<'_> {
    fn prepare(&self) -> io::Result<()> {
        for socket in [&self.client, &self.server] {
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
        }
        Ok(())
    }

    fn run(&mut self, cuts: u64) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        while !(self.up.closed && self.down.closed) {
            let now = self.shared.now(cuts);
            let (shape, black_hole) = now.ok_or(io::ErrorKind::ConnectionReset)?;
            if !black_hole {
                self.up.take_in(&self.client, shape, &mut buffer)?;
                self.up.hand_on(&self.server, self.shared)?;
                self.down.take_in(&self.server, shape, &mut buffer)?;
                self.down.hand_on(&self.client, self.shared)?;
            }
            self.wait(black_hole);
        }
        Ok(())
    }

    fn wait(&self, black_hole: bool) {
        let mut watched = vec![PollFd::new(&self.wake, PollFlags::IN)];
        let mut limit = None;
        if !black_hole {
            let now = Instant::now();
            watched.extend(watch(&self.client, self.up.hungry(now), self.down.blocked));
            watched.extend(watch(&self.server, self.down.hungry(now), self.up.blocked));
            let next = [self.up.next(now), self.down.next(now)].into_iter().flatten().min();
            limit = next.map(|at| at.saturating_duration_since(now));
        }
        rest(&mut watched, &self.wake, limit);
    }
}

/// One direction: what was read and when it is due.
struct Lane {
    way: Direction,
    cuts: u64,
    queue: VecDeque<Piece>,
    held: usize,
    /// When the rate lets the next piece leave.
    free_at: Instant,
    not_before: Instant,
    /// The writer's end has been read.
    ended: bool,
    /// The reader has no room.
    blocked: bool,
    /// The end has been handed on.
    closed: bool,
}

/// Bytes and the moment they arrive; no bytes are the end.
struct Piece {
    due: Instant,
    bytes: Vec<u8>,
    done: usize,
}

impl Lane {
    fn new(way: Direction, cuts: u64) -> Self {
        let now = Instant::now();
        let (free_at, not_before) = (now, now);
        let (ended, blocked, closed) = (false, false, false);
        let (queue, held) = (VecDeque::new(), 0);
        Self { way, cuts, queue, held, free_at, not_before, ended, blocked, closed }
    }

    /// Whether it would read.
    fn hungry(&self, now: Instant) -> bool {
        self.has_room() && self.free_at <= now + AHEAD
    }

    fn has_room(&self) -> bool {
        !self.ended && self.held < IN_FLIGHT
    }

    /// When it has something to do that no socket tells.
    fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.queue.front().map(|piece| piece.due).filter(|_| !self.blocked);
        let free = (self.has_room() && !self.hungry(now)).then(|| self.free_at - AHEAD);
        due.into_iter().chain(free).min()
    }

    /// Reads once, and says when those bytes arrive.
    fn take_in(&mut self, mut from: &TcpStream, shape: Shape, buffer: &mut [u8]) -> io::Result<()> {
        if !self.hungry(Instant::now()) {
            return Ok(());
        }
        let most = if shape.mbit.is_some() { PACED_PIECE } else { PIECE };
        let bytes = match from.read(&mut buffer[..most]) {
            Ok(count) => buffer[..count].to_vec(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        };
        self.ended = bytes.is_empty();
        self.held += bytes.len();
        self.free_at = self.free_at.max(Instant::now()) + shape.time_of(bytes.len());
        let due = (self.free_at + shape.rtt / 2).max(self.not_before);
        // A line that was just made shorter still keeps the order.
        let due = self.queue.back().map_or(due, |last| due.max(last.due));
        self.queue.push_back(Piece { due, bytes, done: 0 });
        Ok(())
    }

    /// Writes what is due.
    fn hand_on(&mut self, to: &TcpStream, shared: &Shared) -> io::Result<()> {
        self.blocked = false;
        while let Some(piece) = self.queue.front_mut().filter(|p| p.due <= Instant::now()) {
            if piece.bytes.is_empty() {
                self.closed = true;
                self.queue.clear();
                // A reader that has gone already needs no goodbye.
                let _ = to.shutdown(Shutdown::Write);
                return Ok(());
            }
            match shared.forward(self.way, self.cuts, to, &piece.bytes[piece.done..]) {
                Ok(Some(count)) => piece.done += count,
                Ok(None) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
            if piece.done == piece.bytes.len() {
                self.held -= piece.done;
                self.queue.pop_front();
            }
        }
        Ok(())
    }
}
