//! A box in this process: programs that echo, flood and pretend to be a helper, and a count of who dialled.

#![expect(clippy::unwrap_used, reason = "a fake that cannot play its part fails the test")]

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::Path;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use crabbox_daemon::{Caller, Place, Server, WarmDialer, serve};
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::{Event, Stream};
use crabbox_kernel::helper::Binaries;
use crabbox_kernel::ports::{
    Address, Clock, Dialer, EventSink, Exit, HostKey, Piece, ProcessInput, ProcessOutput, Pty,
    Remote, Stop,
};
use crabbox_kernel::state::State;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::SshEndpoint;
use crabbox_wire::{Frame, GREETING, Packet, PacketReader};
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// What the tests see of the box, and how it should behave.
#[derive(Clone, Default)]
pub(crate) struct Town {
    pub(crate) dials: Rc<Cell<u32>>,
    pub(crate) abandoned: Rc<Cell<u32>>,
    pub(crate) helpers: Rc<Cell<u32>>,
    /// Dialling ends with this.
    pub(crate) refuses: Rc<RefCell<Option<KernelError>>>,
    /// Dialling never ends.
    pub(crate) hangs: Rc<Cell<bool>>,
    /// Dialling takes this long.
    pub(crate) slow: Rc<Cell<Duration>>,
    /// Every packet the helper got, its session before it.
    pub(crate) heard: Rc<RefCell<Vec<(u32, Packet)>>>,
    /// What kills the helper.
    pub(crate) hearts: Rc<RefCell<Vec<mpsc::UnboundedSender<Piece>>>>,
}

struct Abandon(Rc<Cell<u32>>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

impl Dialer for Town {
    type Remote = Town;

    fn key_pair(&self, _: &Path, _: &str) -> Result<String> {
        Ok("ssh-ed25519 AAAA".to_owned())
    }

    fn host_key(&self, _: &str) -> Result<HostKey> {
        Ok(HostKey { private: "secret".to_owned(), public: "ssh-ed25519 BBBB".to_owned() })
    }

    async fn dial(&self, _: &Address, events: &mut dyn EventSink, _: &Stop) -> Result<Town> {
        self.dials.set(self.dials.get() + 1);
        events.emit(Event::BootstrapWaiting { stage: "tcp".into(), message: "not yet".into() });
        tokio::task::yield_now().await;
        if !self.slow.get().is_zero() {
            tokio::time::sleep(self.slow.get()).await;
        }
        if self.hangs.get() {
            let _abandon = Abandon(Rc::clone(&self.abandoned));
            std::future::pending::<()>().await;
        }
        let refused = self.refuses.borrow().clone();
        refused.map_or_else(|| Ok(self.clone()), Err)
    }
}

pub(crate) struct Input(Option<mpsc::UnboundedSender<Bytes>>);
pub(crate) struct Output(mpsc::UnboundedReceiver<Piece>);

impl Remote for Town {
    type Input = Input;
    type Output = Output;

    async fn start(&self, command: &str, _: Option<&Pty>) -> Result<(Input, Output)> {
        let (to, stdin) = mpsc::unbounded_channel();
        let (pieces, output) = mpsc::unbounded_channel();
        let (program, word) = command.split_once(' ').unwrap_or((command, ""));
        match program {
            "echo" => drop(spawn_local(echo(stdin, pieces))),
            "flood" => flood(word.parse().expect("a number"), &pieces),
            "exec" if word.contains("/noexec") => {
                let none = Bytes::from_static(b"crabbox-none nothing can be executed there\n");
                let _ = pieces.send(Piece::Data(Stream::Stdout, none));
                let _ = pieces.send(Piece::Exited(Exit { code: 0, signal: None }));
            }
            "exec" => {
                self.helpers.set(self.helpers.get() + 1);
                self.hearts.borrow_mut().push(pieces.clone());
                drop(spawn_local(helper(stdin, pieces, Rc::clone(&self.heard))));
            }
            _ => {
                let what = "the box opens no further channel";
                return Err(KernelError::new(ErrorCode::ConnectionLost, what).hint("look"));
            }
        }
        Ok((Input(Some(to)), Output(output)))
    }

    fn peer(&self) -> &str {
        "10.0.0.1:22"
    }

    async fn close(self) {}
}

async fn echo(mut stdin: mpsc::UnboundedReceiver<Bytes>, to: mpsc::UnboundedSender<Piece>) {
    while let Some(bytes) = stdin.recv().await {
        let _ = to.send(Piece::Data(Stream::Stdout, bytes));
    }
    let _ = to.send(Piece::Data(Stream::Stderr, Bytes::from_static(b"bye")));
    let _ = to.send(Piece::Exited(Exit { code: 143, signal: Some("TERM".into()) }));
}

fn flood(pieces: usize, to: &mpsc::UnboundedSender<Piece>) {
    for n in 0..pieces {
        let byte = u8::try_from(n % 251).unwrap();
        let _ = to.send(Piece::Data(Stream::Stdout, vec![byte; 64 << 10].into()));
    }
    let _ = to.send(Piece::Exited(Exit { code: 0, signal: None }));
}

/// Greets, then answers each packet with the same packet; a body `send N` with N packets of 64 KiB.
async fn helper(
    mut stdin: mpsc::UnboundedReceiver<Bytes>,
    to: mpsc::UnboundedSender<Piece>,
    heard: Rc<RefCell<Vec<(u32, Packet)>>>,
) {
    let say = |bytes: Bytes| {
        let _ = to.send(Piece::Data(Stream::Stdout, bytes));
    };
    let hello = Frame::notification("hello", &json!({"pid": 7})).unwrap();
    say([b"motd", GREETING, &Packet::message(0, &hello).unwrap().to_bytes()].concat().into());
    let mut packets = PacketReader::without_greeting();
    while let Some(bytes) = stdin.recv().await {
        packets.feed(&bytes);
        while let Some(packet) = packets.next_packet() {
            let packet = packet.expect("only whole packets arrive");
            let session = packet.session;
            heard.borrow_mut().push((session, packet.clone()));
            let flood =
                std::str::from_utf8(&packet.body).ok().and_then(|t| t.strip_prefix("send "));
            match flood.and_then(|n| n.parse::<u64>().ok()) {
                Some(n) => (0..n).for_each(|at| {
                    let body = vec![1; 64 << 10].into();
                    say(Packet::data(session, 21, at << 16, false, body).to_bytes());
                }),
                None => say(packet.to_bytes()),
            }
        }
    }
}

impl ProcessInput for Input {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let sent = self.0.as_ref().map(|to| to.send(data));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(KernelError::new(ErrorCode::ConnectionLost, "it takes no more input")),
        }
    }

    async fn finish(&mut self) -> Result<()> {
        self.0 = None;
        Ok(())
    }

    async fn signal(&mut self, _: &str) -> Result<()> {
        self.finish().await
    }

    async fn resize(&mut self, _: u32, _: u32) -> Result<()> {
        Ok(())
    }
}

impl ProcessOutput for Output {
    async fn next(&mut self) -> Result<Piece> {
        let lost = || KernelError::new(ErrorCode::ConnectionLost, "the connection broke");
        self.0.recv().await.ok_or_else(lost)
    }
}

/// Real time, from an arbitrary beginning.
struct Time(Instant);

impl Clock for Time {
    fn now_ms(&self) -> u64 {
        self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

pub(crate) fn place(dir: &Path) -> Place {
    let state = State { root: dir.join("state"), config: dir.join("config") };
    Place::find(None, &state).unwrap()
}

/// A caller whose daemon, when it is started, keeps connections to this box.
pub(crate) fn caller(dir: &Path, town: &Town, build: &str, idle: Duration) -> Rc<Caller> {
    let (place, town, name) = (place(dir), town.clone(), build.to_owned());
    let at = place.clone();
    let helpers = dir.to_path_buf();
    std::fs::write(helpers.join("crabbox-helper-linux-x86_64"), "a program").unwrap();
    Rc::new(Caller::new(place, build.to_owned(), move || {
        let (place, build, dialer) = (at.clone(), name.clone(), town.clone());
        let (binaries, clock) = (Binaries::in_dir(helpers.clone()), Time(Instant::now()));
        let server = Server { place, build, idle, dialer, binaries, clock };
        spawn_local(async move { serve(server, &Stop::never()).await.unwrap() });
        Ok(())
    }))
}

/// What a daemon holds: the lock of its place, and the socket.
pub(crate) fn owns(caller: &Caller) -> (File, UnixListener) {
    let lock = File::create(&caller.place.lock).unwrap();
    lock.lock().unwrap();
    (lock, UnixListener::bind(&caller.place.socket).unwrap())
}

/// A daemon that says hello to one caller an entry, answers their first request with it if it is any, and then hangs.
pub(crate) fn hangs_after(caller: &Caller, answers: &'static [Option<&'static str>]) {
    let (lock, listener) = owns(caller);
    let say = |frame: &Frame| Packet::message(0, frame).unwrap().to_bytes();
    let hello =
        say(&Frame::notification("hello", &json!({"build": caller.build, "pid": 7})).unwrap());
    drop(spawn_local(async move {
        let (_lock, mut held) = (lock, Vec::new());
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&hello).await.unwrap();
            if let Some(answer) = answer {
                let mut packets = PacketReader::without_greeting();
                let request = loop {
                    if let Some(packet) = packets.next_packet() {
                        break packet.unwrap().frame().unwrap();
                    }
                    let mut bytes = BytesMut::new();
                    stream.read_buf(&mut bytes).await.unwrap();
                    packets.feed(&bytes);
                };
                let Frame::Request { id, .. } = request else { panic!("{request:?}") };
                let result = Ok(serde_json::from_str(answer).unwrap());
                stream.write_all(&say(&Frame::Response { id, result })).await.unwrap();
            }
            held.push(stream);
        }
        std::future::pending::<()>().await;
    }));
}

pub(crate) fn dialer(caller: &Rc<Caller>, direct: &Town) -> WarmDialer<Town> {
    WarmDialer::through(Rc::clone(caller), direct.clone())
}

pub(crate) fn address(host: &str) -> Address {
    Address {
        endpoint: SshEndpoint { host: host.to_owned(), ..SshEndpoint::default() },
        key: "/nowhere/id".into(),
        known_hosts: "/".into(),
        patience: Duration::from_secs(5),
    }
}

/// Everything a process prints, and how it ends.
pub(crate) async fn drain(output: &mut impl ProcessOutput) -> (Vec<u8>, Vec<u8>, Exit) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match output.next().await.unwrap() {
            Piece::Data(Stream::Stdout, data) => out.extend_from_slice(&data),
            Piece::Data(Stream::Stderr, data) => err.extend_from_slice(&data),
            Piece::Exited(exit) => return (out, err, exit),
        }
    }
}
