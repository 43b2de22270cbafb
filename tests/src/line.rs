//! A link between a client and a server on this machine: its delay, its rate, its bytes, and its bad days.
//!
//! A proxy on loopback. Every byte is held for half the round-trip time and leaves no faster than the rate; a
//! new connection's handshake costs one round trip, as it does on a real link. What it does not play is the
//! inside of TCP: slow start, loss and retransmission.

mod link;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What a link is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shape {
    /// Time there and back; each direction takes half.
    pub rtt: Duration,
    /// Million bits a second in each direction; no limit when absent.
    pub mbit: Option<u32>,
}

impl Shape {
    /// A link with a round-trip time and no limit of its rate.
    pub fn rtt_ms(ms: u64) -> Self {
        Self { rtt: Duration::from_millis(ms), mbit: None }
    }

    /// The same with a rate.
    #[must_use]
    pub fn mbit(self, mbit: u32) -> Self {
        Self { mbit: Some(mbit), ..self }
    }

    /// How long the rate needs for so many bytes.
    fn time_of(self, bytes: usize) -> Duration {
        let seconds = |mbit| bytes as f64 * 8.0 / (f64::from(mbit) * 1e6);
        self.mbit.map_or(Duration::ZERO, |mbit| Duration::from_secs_f64(seconds(mbit)))
    }
}

/// Which way bytes go: up is from client to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

/// What can happen to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Every connection is reset; new ones are welcome.
    Cut,
    /// Nothing passes any more, and nobody is told.
    BlackHole,
    /// Every connection is reset, and new ones are refused.
    Down,
}

/// A running link. Dropping it resets what is still connected.
pub struct Line {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepts: Option<JoinHandle<()>>,
}

impl Line {
    /// Starts a link to `target`.
    pub fn start(target: SocketAddr, shape: Shape) -> Self {
        let listener = (0..20).find_map(|_| listen().ok()).expect("a port for the line");
        listener.set_nonblocking(true).expect("a listener that never blocks");
        let addr = listener.local_addr().expect("an address");
        let state = Mutex::new(State { shape, ..State::default() });
        let shared = Arc::new(Shared { listener, target, state });
        let (accepting, wake) = (shared.clone(), shared.waker());
        let accepts = Some(std::thread::spawn(move || accept(&accepting, &wake)));
        Self { addr, shared, accepts }
    }

    /// Where the client connects.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Gives the link another shape, for bytes that are not on it yet.
    pub fn reshape(&self, shape: Shape) {
        self.shared.change(|state| state.shape = shape);
    }

    /// Bytes handed to the server so far.
    pub fn bytes_up(&self) -> u64 {
        self.shared.state().up
    }

    /// Bytes handed to the client so far.
    pub fn bytes_down(&self) -> u64 {
        self.shared.state().down
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.state().connections
    }

    /// Resets every connection.
    pub fn cut(&self) {
        self.strike(Fault::Cut);
    }

    /// Swallows everything until told otherwise; what was on its way then arrives.
    pub fn black_hole(&self, on: bool) {
        self.shared.change(|state| state.black_hole = on);
    }

    /// Refuses new connections until told otherwise.
    pub fn refuse(&self, on: bool) {
        self.shared.refuse(&mut self.shared.state(), on);
        self.shared.change(|_| ());
    }

    /// Makes this happen now.
    pub fn strike(&self, fault: Fault) {
        self.shared.strike(&mut self.shared.state(), fault);
    }

    /// Makes this happen as soon as exactly `bytes` more have passed in a direction.
    pub fn strike_after(&self, bytes: u64, way: Direction, fault: Fault) {
        let mut state = self.shared.state();
        match bytes {
            0 => self.shared.strike(&mut state, fault),
            left => state.trap = Some(Trap { way, left, fault }),
        }
    }

    /// Resets every connection as soon as `bytes` more have passed in a direction.
    pub fn cut_after(&self, bytes: u64, way: Direction) {
        self.strike_after(bytes, way, Fault::Cut);
    }

    /// Undoes every fault: new connections are welcome, bytes pass, no trap is set.
    pub fn heal(&self) {
        self.shared.state().trap = None;
        self.refuse(false);
        self.black_hole(false);
    }

    /// Whether a fault that was to come after some bytes has not come yet.
    pub fn pending(&self) -> bool {
        self.shared.state().trap.is_some()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.change(|state| state.over = true);
        if let Some(accepts) = self.accepts.take() {
            let _ = accepts.join();
        }
    }
}

/// A fault that waits for bytes.
struct Trap {
    way: Direction,
    left: u64,
    fault: Fault,
}

/// Everything about a line that changes.
#[derive(Default)]
struct State {
    shape: Shape,
    black_hole: bool,
    refuse: bool,
    over: bool,
    /// How often connections were reset; each knows the number of its birth.
    cuts: u64,
    trap: Option<Trap>,
    up: u64,
    down: u64,
    connections: u64,
    /// One for each thread of the line: a byte makes it look at the state again.
    wakers: Vec<UnixStream>,
}

struct Shared {
    listener: TcpListener,
    target: SocketAddr,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of a line panics")
    }

    /// Changes the state and has every thread look at it.
    fn change(&self, what: impl FnOnce(&mut State)) {
        let mut state = self.state();
        what(&mut state);
        state.wake();
    }

    /// The link's shape and whether it is a black hole, for a connection born after so many cuts; nothing when
    /// it is to be reset.
    fn now(&self, cuts: u64) -> Option<(Shape, bool)> {
        let state = self.state();
        (!state.over && state.cuts == cuts).then_some((state.shape, state.black_hole))
    }

    /// The end a thread of the line waits on.
    fn waker(&self) -> UnixStream {
        let (keep, give) = UnixStream::pair().expect("a pair of sockets");
        for end in [&keep, &give] {
            end.set_nonblocking(true).expect("a socket that never blocks");
        }
        self.state().wakers.push(keep);
        give
    }

    /// The next connection that waits, and the number of cuts it was born after. The state is held meanwhile: a
    /// fault finds each connection either waiting or known.
    fn welcome(&self) -> Option<(TcpStream, u64)> {
        let mut state = self.state();
        let (client, _) = self.listener.accept().ok()?;
        state.connections += 1;
        Some((client, state.cuts))
    }

    fn strike(&self, state: &mut State, fault: Fault) {
        match fault {
            Fault::BlackHole => state.black_hole = true,
            Fault::Cut => self.cut(state),
            Fault::Down => {
                self.cut(state);
                self.refuse(state, true);
            }
        }
        state.wake();
    }

    fn cut(&self, state: &mut State) {
        state.cuts += 1;
        while let Ok((client, _)) = self.listener.accept() {
            state.connections += 1;
            link::reset(&client);
        }
    }

    /// Stops or starts listening while the port stays ours, which closing the listener would not promise.
    fn refuse(&self, state: &mut State, on: bool) {
        if std::mem::replace(&mut state.refuse, on) == on {
            return;
        }
        let done = match on {
            true => rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Read),
            false => rustix::net::listen(&self.listener, 128),
        };
        done.expect("a listener that can be turned off and on");
    }

    /// Hands bytes on and counts them, exactly up to where a trap goes off; nothing passes a black hole or
    /// what was cut since the connection's birth.
    fn forward(
        &self,
        way: Direction,
        cuts: u64,
        mut to: &TcpStream,
        bytes: &[u8],
    ) -> io::Result<Option<usize>> {
        let mut state = self.state();
        if state.black_hole || state.cuts != cuts {
            return Ok(None);
        }
        let trap = state.trap.as_ref().filter(|trap| trap.way == way);
        let room = trap.map_or(bytes.len(), |trap| bytes.len().min(clamp(trap.left)));
        let trapped = trap.is_some();
        let done = to.write(&bytes[..room])?;
        match way {
            Direction::Up => state.up += done as u64,
            Direction::Down => state.down += done as u64,
        }
        if trapped && let Some(trap) = &mut state.trap {
            trap.left -= done as u64;
        }
        if let Some(trap) = state.trap.take_if(|trap| trap.left == 0) {
            self.strike(&mut state, trap.fault);
        }
        Ok(Some(done))
    }
}

impl State {
    fn wake(&mut self) {
        // A thread that has ended has closed its end; one that has been woken already says it would block.
        self.wakers.retain_mut(|waker| {
            let told = waker.write(&[0]);
            told.is_ok() || told.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
        });
    }
}

/// A listener on a port it has asked for by number: only such a port stays its own while it does not listen.
fn listen() -> io::Result<TcpListener> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

fn clamp(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Accepts until the line is over.
fn accept(shared: &Arc<Shared>, wake: &UnixStream) {
    loop {
        let (over, refuse) = {
            let state = shared.state();
            (state.over, state.refuse)
        };
        if over {
            return;
        }
        while let Some((client, cuts)) = shared.welcome() {
            let (shared, wake) = (shared.clone(), shared.waker());
            std::thread::spawn(move || link::carry(&shared, client, wake, cuts));
        }
        let mut watched = vec![PollFd::new(wake, PollFlags::IN)];
        if !refuse {
            watched.push(PollFd::new(&shared.listener, PollFlags::IN));
        }
        rest(&mut watched, wake, None);
    }
}

/// Waits until a socket is ready, the state has changed, or the time is over.
fn rest(watched: &mut [PollFd<'_>], mut wake: &UnixStream, limit: Option<Duration>) {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // Interrupted or not, the caller looks at everything again.
    let _ = poll(watched, limit.as_ref());
    let mut bytes = [0; 64];
    while let Ok(1..) = wake.read(&mut bytes) {}
}

/// An entry of [`rest`]'s list, when there is anything to wait for.
fn watch(socket: &impl AsFd, read: bool, write: bool) -> Option<PollFd<'_>> {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, read);
    flags.set(PollFlags::OUT, write);
    (!flags.is_empty()).then(|| PollFd::new(socket, flags))
}

#[cfg(test)]
mod tests;
