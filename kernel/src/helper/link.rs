//! An open channel to a helper: requests and notes out, answers, notes and bytes in, credit both ways.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::helper::{CancelParams, Feed, Grant, Hello, Role, method, note};
use crabbox_wire::{Credit, Frame, Id, MAX_BODY, Packet, PacketReader};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{KernelError, Result};
use crate::event::Stream;
use crate::helper::fault;
use crate::helper::feed::{Wide, feed};
use crate::ports::{Clock, Piece, ProcessInput, ProcessOutput, Starter};

/// How many bytes may wait to be written before a sender of bulk has to.
const QUEUE: usize = 4 << 20;
/// How much is handed to the connection at once, unless one packet is larger.
const WRITE: usize = 256 << 10;
/// Most memory that what was said and not taken may use, and what each thing needs besides its bytes.
const UNTAKEN: usize = 192 << 20;
const THING: usize = 128;
/// How much of what the helper complained about is kept.
const COMPLAINT: usize = 4 << 10;

/// Something the helper said, not yet taken.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// The answer to a request.
    Answer {
        /// The request.
        id: u64,
        /// How it went.
        result: Result<Value>,
    },
    /// A notification.
    Note {
        /// What happened.
        method: String,
        /// Its params.
        params: Value,
    },
    /// Bytes of a channel. Whoever takes them says [`Helper::consumed`] when they are used up.
    Bytes {
        /// The channel: `Role::of(base)`.
        channel: u32,
        /// Place of the first byte.
        offset: u64,
        /// No bytes follow.
        last: bool,
        /// The bytes.
        data: Bytes,
    },
}

impl Incoming {
    /// Whether this is about the byte channels of this base number: its bytes, and notes that name the base or
    /// one of its channels.
    pub fn concerns(&self, base: u32) -> bool {
        match self {
            Incoming::Answer { .. } => false,
            Incoming::Bytes { channel, .. } => channel / 16 == base,
            Incoming::Note { params, .. } => {
                let number = |name| params.get(name).and_then(Value::as_u64);
                number("channels") == Some(u64::from(base))
                    || number("channel").map(|c| c / 16) == Some(u64::from(base))
            }
        }
    }

    /// The params of a note of this method.
    pub fn note<T: DeserializeOwned>(&self, wanted: &str) -> Option<Result<T>> {
        match self {
            Incoming::Note { method, params } if method == wanted => Some(read(params.clone())),
            _ => None,
        }
    }
}

/// An open channel to a helper.
///
/// Nothing runs by itself: bytes move while one of the `async` methods is awaited. All of them may be dropped at
/// any point and called again; nothing is lost. What is asked for with the other methods is queued.
/// Dropping it gives the helper up; runs go on.
pub struct Helper {
    hello: Hello,
    line: Rc<RefCell<Line>>,
    pump: Pin<Box<dyn Future<Output = KernelError>>>,
    over: Option<KernelError>,
    ids: u64,
    bases: u32,
}

impl std::fmt::Debug for Helper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Helper").field("hello", &self.hello).finish_non_exhaustive()
    }
}

/// What both ends of the pump and the methods share.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Packets with frames; they go before bytes.
    urgent: VecDeque<Bytes>,
    /// Packets with bytes, and their channels.
    bulk: VecDeque<(u32, Bytes)>,
    /// Bytes in both, and in the hands of the connection.
    queued: usize,
    /// Which blocks may also take other ways.
    pub(super) wide: Option<Wide>,
    inbox: VecDeque<(usize, Incoming)>,
    /// What the inbox costs.
    untaken: usize,
    /// Bytes of each channel that came and are not consumed.
    unread: HashMap<u32, (u64, Credit)>,
    /// Where each channel we write stands.
    written: HashMap<u32, (u64, Credit)>,
    /// Which method each open request asked for.
    asked: HashMap<u64, String>,
    complaint: Vec<u8>,
}

impl Helper {
    /// Takes over a process that has greeted, or is about to: `reader` holds what it printed so far. Waits for its
    /// hello. With a starter bulk may take more ways than one.
    pub(super) async fn over<I: ProcessInput + 'static, O: ProcessOutput + 'static>(
        input: I,
        output: O,
        reader: PacketReader,
        starter: Option<Starter<I, O>>,
    ) -> Result<Self> {
        let line = Rc::<RefCell<Line>>::default();
        let hello = Hello {
            channel: 0,
            helper: String::new(),
            os: String::new(),
            arch: String::new(),
            pid: 0,
            now_ms: 0,
        };
        let pump = Box::pin(pump(input, output, reader, starter, line.clone()));
        let mut this = Self { hello, line, pump, over: None, ids: 0, bases: 0 };
        let said =
            this.next(|i| matches!(i, Incoming::Note { method, .. } if method == note::HELLO));
        this.hello = match said.await? {
            Incoming::Note { params, .. } => read(params)?,
            _ => return Err(nonsense("its hello is none")),
        };
        Ok(this)
    }

    /// Who is there.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// A base number for byte channels that was not used before.
    pub fn channels(&mut self) -> u32 {
        self.bases += 1;
        self.bases
    }

    /// Forgets a base number whose channels are done with, and what still lies there.
    pub fn forget(&mut self, base: u32) {
        let mut line = self.line.borrow_mut();
        line.inbox.retain(|(_, i)| !i.concerns(base));
        line.untaken = line.inbox.iter().map(|(cost, _)| cost).sum();
        line.unread.retain(|channel, _| channel / 16 != base);
        line.written.retain(|channel, _| channel / 16 != base);
    }

    /// Queues a request and returns its id.
    pub fn request(&mut self, method: &str, params: &impl Serialize) -> Result<u64> {
        self.ids += 1;
        let id = self.ids;
        self.post(Frame::request(Id::Number(id), method, params))?;
        self.line.borrow_mut().asked.insert(id, method.to_owned());
        Ok(id)
    }

    /// Queues a notification.
    pub fn note(&mut self, method: &str, params: &impl Serialize) -> Result<()> {
        self.post(Frame::notification(method, params))
    }

    /// Queues the wish that a request be given up. Its answer still comes.
    pub fn cancel(&mut self, id: u64) -> Result<()> {
        self.note(note::CANCEL, &CancelParams { id })
    }

    fn post(&mut self, frame: Result<Frame, crabbox_wire::WireError>) -> Result<()> {
        let packet = frame.and_then(|frame| Packet::message(0, &frame));
        let packet = packet.map_err(|e| {
            KernelError::new(ErrorCode::Internal, "a message for the box cannot be written")
                .because(&e)
        })?;
        let mut line = self.line.borrow_mut();
        let bytes = packet.to_bytes();
        line.queued += bytes.len();
        line.urgent.push_back(bytes);
        Ok(())
    }

    /// Asks, and waits this long for the answer.
    pub async fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &impl Serialize,
        limit: Duration,
        clock: &impl Clock,
    ) -> Result<T> {
        let id = self.request(method, params)?;
        let answer = tokio::select! {
            biased;
            answer = self.answer(id) => Some(answer),
            () = clock.sleep(limit) => None,
        };
        if let Some(answer) = answer {
            return answer;
        }
        self.cancel(id)?;
        let limit = crate::time::format_duration(limit);
        let what = format!("the box did not answer {method} within {limit}");
        Err(KernelError::new(ErrorCode::ConnectionLost, what))
    }

    /// Waits for the answer to a request and takes it.
    pub async fn answer<T: DeserializeOwned>(&mut self, id: u64) -> Result<T> {
        let mine = |i: &Incoming| matches!(i, Incoming::Answer { id: of, .. } if *of == id);
        match self.next(mine).await? {
            Incoming::Answer { result, .. } => read(result?),
            _ => Err(nonsense("an answer is none")),
        }
    }

    /// The oldest thing the helper said that is wanted, in the order it was said; others stay for others to take.
    pub async fn next(&mut self, mut wanted: impl FnMut(&Incoming) -> bool) -> Result<Incoming> {
        self.until(|line| line.take(&mut wanted)).await
    }

    /// Bytes that were taken are used up: the helper may send as many more. Who has taken all there is waits for the
    /// box or for the distance, so more may be under way.
    pub fn consumed(&mut self, channel: u32, bytes: u64) -> Result<()> {
        let granted = {
            let mut line = self.line.borrow_mut();
            let Some((unread, credit)) = line.unread.get_mut(&channel) else { return Ok(()) };
            *unread = unread.saturating_sub(bytes);
            credit.consume_and_grow(bytes, *unread == 0)
        };
        match granted {
            Some(bytes) => self.note(note::CREDIT, &Grant { channel, bytes }),
            None => Ok(()),
        }
    }

    /// Begins to write a channel at another place than 0.
    pub fn begin_at(&mut self, channel: u32, offset: u64) {
        self.line.borrow_mut().written.insert(channel, (offset, credit(channel)));
    }

    /// Whether bytes for a channel should be queued now.
    pub fn has_room(&self, channel: u32) -> bool {
        self.line.borrow().has_room(channel)
    }

    /// Waits until bytes for a channel should be queued; for ever if nobody reads them there.
    pub async fn room(&mut self, channel: u32) -> Result<()> {
        self.until(|line| line.has_room(channel).then_some(())).await
    }

    /// What [`Helper::next`] gives, or `None` when there is nothing yet and the channel has room.
    pub async fn next_or_room(
        &mut self,
        channel: u32,
        mut wanted: impl FnMut(&Incoming) -> bool,
    ) -> Result<Option<Incoming>> {
        self.until(|line| match line.take(&mut wanted) {
            None => line.has_room(channel).then_some(None),
            some => Some(some),
        })
        .await
    }

    /// Queues bytes for a channel, at most [`MAX_BODY`] of them.
    pub fn send(&mut self, channel: u32, data: Bytes, last: bool) {
        let mut line = self.line.borrow_mut();
        let (offset, credit) = line.written.entry(channel).or_insert_with(|| (0, credit(channel)));
        let at = *offset;
        *offset += data.len() as u64;
        credit.take(data.len() as u64);
        let bytes = Packet::data(0, channel, at, last, data).to_bytes();
        line.queued += bytes.len();
        line.bulk.push_back((channel, bytes));
    }

    /// Lets a flight's blocks take other ways too, until the flight is answered. Where none can be had nothing changes.
    pub fn widen(&mut self, base: u32, feed: &Feed) {
        self.line.borrow_mut().wide = Some(Wide::new(base, feed));
    }

    /// Waits until everything queued was handed to the connection.
    pub async fn flush(&mut self) -> Result<()> {
        self.until(|line| (line.queued == 0).then_some(())).await
    }

    /// Moves bytes both ways until `ready` finds what it waits for, or the channel is over.
    async fn until<T>(&mut self, mut ready: impl FnMut(&mut Line) -> Option<T>) -> Result<T> {
        poll_fn(|cx| {
            if self.over.is_none()
                && let Poll::Ready(error) = self.pump.as_mut().poll(cx)
            {
                self.over = Some(error);
            }
            if let Some(done) = ready(&mut self.line.borrow_mut()) {
                return Poll::Ready(Ok(done));
            }
            match &self.over {
                Some(error) => Poll::Ready(Err(error.clone())),
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl Line {
    fn has_room(&self, channel: u32) -> bool {
        self.queued < QUEUE && self.written.get(&channel).is_none_or(|(_, c)| c.may_send())
    }

    /// What to hand to the connection next: frames first, small packets together.
    fn next_write(&mut self) -> Option<Bytes> {
        let first = self.pop()?;
        let mut more = BytesMut::new();
        while let Some(next) = self.urgent.front().or(self.bulk.front().map(|(_, bytes)| bytes)) {
            if first.len().max(more.len()) + next.len() > WRITE {
                break;
            }
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(next);
            self.pop();
        }
        Some(if more.is_empty() { first } else { more.freeze() })
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.urgent.pop_front().or_else(|| self.bulk.pop_front().map(|(_, bytes)| bytes))
    }

    /// What to hand to another way next: a packet that may overtake others.
    pub(super) fn next_of(&mut self, channel: u32) -> Option<Bytes> {
        self.bulk.pop_front_if(|(of, _)| *of == channel).map(|(_, bytes)| bytes)
    }

    /// So many bytes were handed over.
    pub(super) fn handed_over(&mut self, bytes: usize) {
        self.queued -= bytes;
    }

    fn file(&mut self, packet: Packet) -> Result<()> {
        if packet.session != 0 {
            return Err(nonsense("it spoke to a session that is not ours"));
        }
        if packet.channel != 0 {
            return self.file_bytes(packet);
        }
        let cost = packet.body.len();
        let frame = packet.frame().map_err(|e| nonsense("it sent no frame").because(&e))?;
        match frame {
            Frame::Notification { method, params } if method == note::CREDIT => {
                let grant: Grant = read(params)?;
                if let Some((_, credit)) = self.written.get_mut(&grant.channel) {
                    credit.grant(grant.bytes);
                }
                Ok(())
            }
            Frame::Notification { method, params } => {
                self.keep(cost, Incoming::Note { method, params })
            }
            Frame::Response { id: Id::Number(id), result } => {
                let Some(asked) = self.asked.remove(&id) else {
                    return Err(nonsense("it answered what was not asked"));
                };
                if asked == method::FLIGHT {
                    self.wide = None;
                }
                let result = result.map_err(|e| fault::error(&asked, e));
                self.keep(cost, Incoming::Answer { id, result })
            }
            Frame::Response { .. } | Frame::Request { .. } => {
                Err(nonsense("it sent what only we send"))
            }
        }
    }

    fn keep(&mut self, bytes: usize, incoming: Incoming) -> Result<()> {
        let cost = THING + bytes;
        self.untaken += cost;
        self.inbox.push_back((cost, incoming));
        match self.untaken > UNTAKEN {
            true => Err(nonsense("it says more than anybody takes")),
            false => Ok(()),
        }
    }

    fn take(&mut self, wanted: &mut impl FnMut(&Incoming) -> bool) -> Option<Incoming> {
        let at = self.inbox.iter().position(|(_, i)| wanted(i))?;
        let (cost, incoming) = self.inbox.remove(at)?;
        self.untaken -= cost;
        Some(incoming)
    }

    fn file_bytes(&mut self, packet: Packet) -> Result<()> {
        let Packet { channel, last, offset, body: data, .. } = packet;
        let (unread, credit) = self.unread.entry(channel).or_insert_with(|| (0, credit(channel)));
        *unread += data.len() as u64;
        credit.take(data.len() as u64);
        if credit.overdrawn() > MAX_BODY as u64 {
            return Err(nonsense("it sent more bytes than were granted"));
        }
        self.keep(data.len(), Incoming::Bytes { channel, offset, last, data })
    }

    fn complain(&mut self, said: &[u8]) {
        let room = COMPLAINT.saturating_sub(self.complaint.len());
        self.complaint.extend_from_slice(&said[..said.len().min(room)]);
    }
}

/// Moves bytes both ways until the channel ends, and says why it did.
async fn pump<I: ProcessInput, O: ProcessOutput>(
    input: I,
    output: O,
    reader: PacketReader,
    starter: Option<Starter<I, O>>,
    line: Rc<RefCell<Line>>,
) -> KernelError {
    tokio::select! {
        biased;
        error = read_all(output, reader, &line) => error,
        error = write_all(input, &line) => error,
        error = feed(starter, &line) => error,
    }
}

/// The credit a channel begins with.
fn credit(channel: u32) -> Credit {
    let role = Role::from_channel(channel).map_or(Role::Delta, |(_, role)| role);
    Credit::growing(role.first_window(), role.window())
}

async fn write_all(mut input: impl ProcessInput, line: &RefCell<Line>) -> KernelError {
    loop {
        // Whoever queues something polls us afterwards: no waker is needed.
        let write = poll_fn(|_| match line.borrow_mut().next_write() {
            Some(bytes) => Poll::Ready(bytes),
            None => Poll::Pending,
        });
        let bytes = write.await;
        let len = bytes.len();
        if let Err(error) = input.write(bytes).await {
            return lost(error);
        }
        line.borrow_mut().handed_over(len);
    }
}

async fn read_all(
    mut output: impl ProcessOutput,
    mut reader: PacketReader,
    line: &RefCell<Line>,
) -> KernelError {
    loop {
        let mut is_news = false;
        while let Some(packet) = reader.next_packet() {
            is_news = true;
            let filed = packet
                .map_err(|e| nonsense("it sent no packet").because(&e))
                .and_then(|packet| line.borrow_mut().file(packet));
            if let Err(error) = filed {
                return error;
            }
        }
        if is_news {
            // Whoever waits for it may take it before more is read: then what is read needs no more room.
            tokio::task::yield_now().await;
        }
        match output.next().await {
            Ok(Piece::Data(Stream::Stdout, data)) => reader.feed(&data),
            Ok(Piece::Data(Stream::Stderr, data)) => line.borrow_mut().complain(&data),
            Ok(Piece::Exited(exit)) => return ended(exit.code, &line.borrow().complaint),
            Err(error) => return lost(error),
        }
    }
}

/// Whatever broke the connection, the caller may connect again.
pub(super) fn lost(error: KernelError) -> KernelError {
    let code = ErrorCode::ConnectionLost;
    if error.code == code { error } else { KernelError { code, ..error } }
}

fn ended(code: i32, complaint: &[u8]) -> KernelError {
    let error = KernelError::new(
        ErrorCode::ConnectionLost,
        format!("the helper on the box ended with status {code}"),
    );
    let said = String::from_utf8_lossy(complaint);
    let causes = said.lines().rev().take(3).map(|l| l.trim().to_owned()).collect::<Vec<_>>();
    KernelError { causes: causes.into_iter().rev().filter(|l| !l.is_empty()).collect(), ..error }
}

fn nonsense(what: &str) -> KernelError {
    KernelError::new(
        ErrorCode::ConnectionLost,
        format!("the helper on the box talks nonsense: {what}"),
    )
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| nonsense("a message does not fit").because(&e))
}
