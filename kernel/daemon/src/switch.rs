//! One helper, many clients: packets are relabelled and passed on in order as their bytes come, and nothing is held back
//! for a client that does not read.

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
use crabbox_wire::{Frame, GREETING, HEAD, Head, Packet, PacketReader};
use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

use crate::line::{Reader, Writer};

/// How long a helper that greeted may take to say hello.
const HELLO: Duration = Duration::from_secs(30);
/// Packets that may wait for the connection; then their senders do, each in turn.
const WAITING: usize = 1;
/// Most bytes that wait for one client. The helper sends each channel only what its reader granted, so a client
/// that has more waiting took part in no agreement, and is let go.
const MOST: usize = 32 << 20;
/// Room for bytes that is kept while none are there.
const ROOM: usize = 256 << 10;

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
    clients: RefCell<HashMap<u32, Rc<Mailbox>>>,
    over: Cell<bool>,
}

/// What waits for one client, as it will be sent: in one buffer, so that it costs no more than it is.
#[derive(Default)]
struct Mailbox {
    waiting: RefCell<Vec<u8>>,
    /// How many bytes were taken and are on their way to it.
    leaving: Cell<usize>,
    /// Something came, or nothing comes any more.
    changed: Notify,
    closed: Cell<bool>,
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
        let rest = packets.into_rest();
        let reading = spawn_local(read_all(output, rest.into(), Rc::clone(&board))).abort_handle();
        let (hello, sessions) = (hello.body, Cell::new(0));
        Ok(Rc::new(Self { hello, to_helper, board, sessions, reading }))
    }

    /// Whether the helper or the connection to it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.board.over.get()
    }

    /// Serves one client until it or the helper goes away. Its half-sent packet is dropped, never passed on.
    pub(crate) async fn serve(&self, mut from: Reader, mut to: Writer) {
        let (session, mail) = self.enter();
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
            let mut bytes = Vec::new();
            while mail.take(&mut bytes).await {
                if to.stream(&bytes).await.is_err() {
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

    fn enter(&self) -> (u32, Rc<Mailbox>) {
        let session = self.sessions.get().wrapping_add(1).max(1);
        self.sessions.set(session);
        let mail = Rc::<Mailbox>::default();
        if self.is_over() {
            mail.close();
        } else {
            self.board.clients.borrow_mut().insert(session, Rc::clone(&mail));
        }
        (session, mail)
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

impl Mailbox {
    /// Takes all there is in place of what was taken before; false when nothing comes any more.
    async fn take(&self, bytes: &mut Vec<u8>) -> bool {
        bytes.clear();
        bytes.shrink_to(ROOM);
        loop {
            std::mem::swap(&mut *self.waiting.borrow_mut(), bytes);
            self.leaving.set(bytes.len());
            if !bytes.is_empty() {
                return true;
            }
            if self.closed.get() {
                return false;
            }
            self.changed.notified().await;
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.changed.notify_one();
    }
}

impl Board {
    fn end(&self) {
        self.over.set(true);
        self.clients.borrow_mut().drain().for_each(|(_, mail)| mail.close());
    }

    /// Puts bytes where their client finds them.
    fn hand_over(&self, session: u32, bytes: &[u8]) {
        let mut clients = self.clients.borrow_mut();
        let Some(mail) = clients.get(&session) else { return };
        let mut waiting = mail.waiting.borrow_mut();
        waiting.extend_from_slice(bytes);
        mail.changed.notify_one();
        if waiting.len() + mail.leaving.get() > MOST {
            drop(waiting);
            clients.remove(&session).inspect(|mail| mail.close());
        }
    }
}

/// The helper's packets, sorted as their bytes come.
#[derive(Default)]
struct Sorter {
    head: Vec<u8>,
    /// Whose packet comes, and how much of its body is missing.
    session: u32,
    left: usize,
}

impl Sorter {
    fn sort(&mut self, mut bytes: &[u8], board: &Board) -> Result<()> {
        while !bytes.is_empty() {
            let wanted = if self.left > 0 { self.left } else { HEAD - self.head.len() };
            let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.left > 0 {
                self.left -= part.len();
                board.hand_over(self.session, part);
                continue;
            }
            self.head.extend_from_slice(part);
            if let Some(head) = self.head.first_chunk::<HEAD>() {
                let head = Head::decode(head);
                let head = head.map_err(|bad| nonsense("it sent no packet").because(&bad))?;
                (self.session, self.left) = (head.session, head.len);
                self.head.clear();
                board.hand_over(head.session, &Head { session: 0, ..head }.encode());
            }
        }
        Ok(())
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

async fn read_all(mut output: impl ProcessOutput, mut bytes: Bytes, board: Rc<Board>) {
    let mut sorter = Sorter::default();
    let why = loop {
        if let Err(error) = sorter.sort(&bytes, &board) {
            break error;
        }
        match said(&mut output).await {
            Ok(more) => bytes = more,
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
        packets.feed(&said(output).await?);
    }
}

/// What the helper says next, in bytes.
async fn said(output: &mut impl ProcessOutput) -> Result<Bytes> {
    loop {
        match output.next().await? {
            Piece::Data(Stream::Stdout, data) => return Ok(data),
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
