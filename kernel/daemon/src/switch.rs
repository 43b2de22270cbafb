//! One helper, many clients: packets are relabelled and passed on, whole and in order, and nothing is held back for
//! a client that does not read.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Stream;
use crabbox_kernel::helper::Running;
use crabbox_kernel::ports::{Piece, ProcessInput, ProcessOutput};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::helper::note;
use crabbox_wire::{Frame, GREETING, Packet, PacketReader};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

use crate::line::{Reader, Writer};

/// How long a helper that greeted may take to say hello.
const HELLO: Duration = Duration::from_secs(30);
/// Packets that may wait for the connection; then their senders do, each in turn.
const WAITING: usize = 4;
/// Most bytes that wait for one client. The helper sends each channel only what its reader granted, so a client
/// that has more waiting took part in no agreement, and is let go.
const MOST: usize = 32 << 20;
/// What a packet costs besides its body.
const PACKET: usize = 128;

/// An open channel to a helper, shared. Dropping it ends the helper.
pub(crate) struct Switch {
    hello: Bytes,
    to_helper: mpsc::Sender<Bytes>,
    board: Rc<Board>,
    sessions: Cell<u32>,
    reading: AbortHandle,
}

/// Who waits for packets.
#[derive(Default)]
struct Board {
    clients: RefCell<HashMap<u32, Mailbox>>,
    over: Cell<bool>,
}

/// What waits for one client.
struct Mailbox {
    packets: mpsc::UnboundedSender<Packet>,
    bytes: Rc<Cell<usize>>,
}

impl Switch {
    /// Takes over a helper that has greeted; waits for its hello, which every client will hear again.
    pub(crate) async fn over<I, O>(helper: Running<I, O>) -> Result<Rc<Self>>
    where
        I: ProcessInput + 'static,
        O: ProcessOutput + 'static,
    {
        let Running { input, mut output, said } = helper;
        let mut packets = PacketReader::new();
        packets.feed(&said);
        let hello = timeout(HELLO, next(&mut output, &mut packets)).await;
        let hello = hello.map_err(|late| nonsense("it said no hello").because(&late))??;
        let (to_helper, waiting) = mpsc::channel(WAITING);
        let board = Rc::<Board>::default();
        spawn_local(write_all(input, waiting, Rc::clone(&board)));
        let reading = spawn_local(read_all(output, packets, Rc::clone(&board))).abort_handle();
        let (hello, sessions) = (hello.body, Cell::new(0));
        Ok(Rc::new(Self { hello, to_helper, board, sessions, reading }))
    }

    /// Whether the helper or the connection to it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.board.over.get()
    }

    /// Serves one client until it or the helper goes away. Its half-sent packet is dropped, never passed on.
    pub(crate) async fn serve(&self, mut from: Reader, mut to: Writer) {
        let (session, mut mail, waiting) = self.enter();
        let hello =
            Packet { session: 0, channel: 0, last: false, offset: 0, body: self.hello.clone() };
        let reading = async {
            while let Ok(packet) = from.next().await {
                let bytes = Packet { session, ..packet }.to_bytes();
                if self.to_helper.send(bytes).await.is_err() {
                    return;
                }
            }
        };
        let writing = async {
            let greeting = [GREETING, &hello.to_bytes()].concat();
            if to.raw(greeting.into()).await.is_err() {
                return;
            }
            while let Some(packet) = mail.recv().await {
                waiting.set(waiting.get().saturating_sub(packet.body.len() + PACKET));
                if to.send(&packet).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
        self.board.clients.borrow_mut().remove(&session);
        self.say_goodbye(session).await;
    }

    fn enter(&self) -> (u32, mpsc::UnboundedReceiver<Packet>, Rc<Cell<usize>>) {
        let session = self.sessions.get().wrapping_add(1).max(1);
        self.sessions.set(session);
        let (packets, mail) = mpsc::unbounded_channel();
        let bytes = Rc::new(Cell::new(0));
        if !self.is_over() {
            let mailbox = Mailbox { packets, bytes: Rc::clone(&bytes) };
            self.board.clients.borrow_mut().insert(session, mailbox);
        }
        (session, mail, bytes)
    }

    /// Tells the helper that a client is gone.
    async fn say_goodbye(&self, session: u32) {
        let frame = Frame::notification(note::SESSION_END, &json!({}));
        if let Ok(packet) = frame.and_then(|frame| Packet::message(session, &frame)) {
            let _ = self.to_helper.send(packet.to_bytes()).await;
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Board {
    fn end(&self) {
        self.over.set(true);
        self.clients.borrow_mut().clear();
    }

    /// Puts a packet where its client finds it.
    fn hand_over(&self, packet: Packet) {
        let mut clients = self.clients.borrow_mut();
        let session = packet.session;
        let Some(client) = clients.get(&session) else { return };
        let bytes = client.bytes.get() + packet.body.len() + PACKET;
        client.bytes.set(bytes);
        let sent = client.packets.send(Packet { session: 0, ..packet });
        if sent.is_err() || bytes > MOST {
            clients.remove(&session);
        }
    }
}

/// The only writer, so that every packet arrives whole.
async fn write_all(
    mut input: impl ProcessInput,
    mut waiting: mpsc::Receiver<Bytes>,
    board: Rc<Board>,
) {
    while let Some(packet) = waiting.recv().await {
        if let Err(error) = input.write(packet).await {
            tracing::debug!(%error, "a helper takes no more");
            break;
        }
        if board.over.get() {
            break;
        }
    }
    board.end();
}

async fn read_all(mut output: impl ProcessOutput, mut packets: PacketReader, board: Rc<Board>) {
    let why = loop {
        match next(&mut output, &mut packets).await {
            Ok(packet) => board.hand_over(packet),
            Err(error) => break error,
        }
    };
    tracing::debug!(%why, "a helper's channel ended");
    board.end();
}

/// The helper's next packet.
async fn next(output: &mut impl ProcessOutput, packets: &mut PacketReader) -> Result<Packet> {
    loop {
        if let Some(packet) = packets.next_packet() {
            return packet.map_err(|bad| nonsense("it sent no packet").because(&bad));
        }
        match output.next().await? {
            Piece::Data(Stream::Stdout, data) => packets.feed(&data),
            Piece::Data(Stream::Stderr, data) => {
                tracing::debug!(said = %String::from_utf8_lossy(&data), "a helper complains");
            }
            Piece::Exited(exit) => {
                let what = format!("the helper on the box ended with status {}", exit.code);
                return Err(KernelError::new(ErrorCode::ConnectionLost, what));
            }
        }
    }
}

fn nonsense(what: &str) -> KernelError {
    let what = format!("the helper on the box talks nonsense: {what}");
    KernelError::new(ErrorCode::ConnectionLost, what)
}
