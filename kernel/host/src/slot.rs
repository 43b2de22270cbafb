//! One open call as the reader sees it: where its answer, events and journal entries go.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crabbox_kernel::event::{Event, Stream};
use crabbox_schemas::error::RpcError;
use crabbox_schemas::plugin::{
    AttemptEvent, GapEvent, LogEvent, OutputEvent, ProgressEvent, UsageEvent, event,
};
use crabbox_wire::{Credit, Id, payload};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc};

use crate::doors::Doors;
use crate::fault::one_line;
use crate::spawn::lock;

/// Callbacks one call may have open.
const CALLBACKS: usize = 16;
/// Log lines and attempts, and progress reports, passed on each second.
const LOGS: u32 = 200;
const PROGRESS: u32 = 10;

/// What reaches the task that made the call.
pub(crate) enum Inbound {
    /// The plugin's answer.
    Answer(Result<Value, RpcError>),
    /// The plugin is gone; the link knows why.
    Ended,
    /// Something to tell the user.
    Event(Box<Event>),
    /// Output of a delegated command.
    Output { stream: Stream, offset: u64, data: Bytes },
    /// Output that is honestly lost.
    Gap { stream: Stream, to: u64, reason: String },
    /// A journal entry to fsync before it is answered.
    Resource { id: Id, method: String, params: Value, room: Room },
}

/// Room for one open callback: of its call, and of all.
pub(crate) type Room = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// The reader's end of one call.
pub(crate) struct Slot {
    inbox: mpsc::UnboundedSender<Inbound>,
    wake: Arc<Notify>,
    callbacks: Arc<Semaphore>,
    credit: Mutex<Credit>,
    chatter: Mutex<Chatter>,
    /// What the plugin opened for this call.
    pub(crate) doors: Doors,
}

/// Bounds what a talkative plugin can queue; output has its credit instead.
struct Chatter {
    second: Instant,
    logs: u32,
    progress: u32,
    dropped: u32,
}

impl Slot {
    pub(crate) fn new(window: u64) -> (Arc<Self>, mpsc::UnboundedReceiver<Inbound>) {
        let (inbox, receiver) = mpsc::unbounded_channel();
        let chatter = Chatter { second: Instant::now(), logs: 0, progress: 0, dropped: 0 };
        let slot = Self {
            inbox,
            wake: Arc::new(Notify::new()),
            callbacks: Arc::new(Semaphore::new(CALLBACKS)),
            credit: Mutex::new(Credit::new(window)),
            chatter: Mutex::new(chatter),
            doors: Doors::default(),
        };
        (Arc::new(slot), receiver)
    }

    /// Hands something to the task of the call; it comes back when the call is over.
    pub(crate) fn deliver(&self, inbound: Inbound) -> Result<(), Inbound> {
        self.inbox.send(inbound).map_err(|unwanted| unwanted.0)
    }

    /// Wakes the callbacks that are pending now.
    pub(crate) fn wake(&self) {
        self.wake.notify_waiters();
    }

    /// Waits for the next [`wake`](Self::wake) from now on.
    pub(crate) fn woken(&self) -> impl Future<Output = ()> + Send + 'static {
        Arc::clone(&self.wake).notified_owned()
    }

    /// Room for one more callback.
    pub(crate) fn callback(&self) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        Arc::clone(&self.callbacks).try_acquire_owned()
    }

    /// `bytes` of output were consumed; returns how many to grant.
    pub(crate) fn consume(&self, bytes: u64) -> Option<u64> {
        lock(&self.credit).consume(bytes)
    }

    /// Takes an event; the error breaks the protocol. Unknown events are ignored.
    pub(crate) fn event(&self, method: &str, params: Value) -> Result<(), String> {
        let inbound = match method {
            event::OUTPUT => match self.output(read(params)?)? {
                Some(output) => output,
                None => return Ok(()),
            },
            event::GAP => {
                let gap: GapEvent = read(params)?;
                let (stream, reason) = (channel(&gap.ch)?, one_line(&gap.reason));
                // One left out is seen by the offset of what comes next.
                if !self.allow(LOGS, |c| &mut c.logs) {
                    return Ok(());
                }
                Inbound::Gap { stream, to: gap.to, reason }
            }
            event::LOG => match self.allow(LOGS, |c| &mut c.logs) {
                true => Inbound::Event(Box::new(log(read(params)?))),
                false => return Ok(()),
            },
            event::ATTEMPT => match self.allow(LOGS, |c| &mut c.logs) {
                true => Inbound::Event(Box::new(attempt(read(params)?))),
                false => return Ok(()),
            },
            event::PROGRESS => match self.allow(PROGRESS, |c| &mut c.progress) {
                true => Inbound::Event(Box::new(progress(read(params)?))),
                false => return Ok(()),
            },
            event::USAGE => match self.allow(LOGS, |c| &mut c.logs) {
                true => Inbound::Event(Box::new(usage(read(params)?))),
                false => return Ok(()),
            },
            _ => return Ok(()),
        };
        let _ = self.deliver(inbound);
        Ok(())
    }

    /// Takes a piece of output; one without bytes costs no credit and so is not queued.
    fn output(&self, output: OutputEvent) -> Result<Option<Inbound>, String> {
        let stream = channel(&output.ch)?;
        let data = payload::unpack(output.text, output.b64)?;
        if !lock(&self.credit).take(data.len() as u64) {
            return Err("more output than the kernel gave credit for".to_owned());
        }
        if data.is_empty() {
            return Ok(None);
        }
        Ok(Some(Inbound::Output { stream, offset: output.off, data: data.into() }))
    }

    /// Whether one more of its kind may pass this second; says how many did not in the second before.
    fn allow(&self, most: u32, count: impl Fn(&mut Chatter) -> &mut u32) -> bool {
        let mut chatter = lock(&self.chatter);
        if chatter.second.elapsed() >= Duration::from_secs(1) {
            if chatter.dropped > 0 {
                let message = format!("{} reports of the plugin left out", chatter.dropped);
                let _ = self.deliver(Inbound::Event(Box::new(Event::Debug { message })));
            }
            *chatter = Chatter { second: Instant::now(), logs: 0, progress: 0, dropped: 0 };
        }
        *count(&mut chatter) += 1;
        let allowed = *count(&mut chatter) <= most;
        chatter.dropped += u32::from(!allowed);
        allowed
    }
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, String> {
    serde_json::from_value(params).map_err(|e| e.to_string())
}

fn channel(ch: &str) -> Result<Stream, String> {
    match ch {
        "stdout" => Ok(Stream::Stdout),
        "stderr" => Ok(Stream::Stderr),
        _ => Err(format!("no channel is called {ch:?}")),
    }
}

fn log(log: LogEvent) -> Event {
    let message = one_line(&log.message);
    match &*log.level {
        "warn" | "error" => Event::Warning { message },
        _ => Event::Debug { message },
    }
}

fn attempt(attempt: AttemptEvent) -> Event {
    let parts = [attempt.region, attempt.server_type, attempt.market, attempt.category];
    let place = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let message = match place.is_empty() {
        true => one_line(&attempt.message),
        false => one_line(&format!("{place}: {}", attempt.message)),
    };
    Event::LeaseAttempt { message }
}

fn usage(usage: UsageEvent) -> Event {
    let UsageEvent { billed_secs, cost_micros, currency, .. } = usage;
    Event::Usage { billed_secs, cost_micros, currency: currency.map(|code| one_line(&code)) }
}

fn progress(progress: ProgressEvent) -> Event {
    Event::Progress {
        phase: one_line(&progress.phase),
        done: progress.done,
        total: progress.total,
        unit: "",
        message: progress.message.map(|text| one_line(&text)),
    }
}
