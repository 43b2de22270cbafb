//! The live pipe to a plugin: writes frames, reads frames, routes them to calls, and sees the end.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crabbox_kernel::error::KernelError;
use crabbox_plugins::Written;
use crabbox_schemas::error::{ErrorCode, ErrorKind, RpcError};
use crabbox_schemas::plugin::{Limits, callback, event};
use crabbox_wire::{Frame, Id, LineReader, MAX_LINE, WireError};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::broker::Broker;
use crate::fault::{broken, one_line, refuse};
use crate::slot::{Inbound, Slot};
use crate::spawn::{Exit, Group, Running, lock};
use crate::transcript::{Side, Transcript};

/// How long output is still read after the plugin ended: something else may hold the pipe open.
const DRAIN: Duration = Duration::from_millis(200);
/// How long a plugin may live on after closing its stdout.
const LINGER: Duration = Duration::from_secs(1);
/// Callbacks that may be open at once.
const CALLBACKS: usize = 64;
/// Bytes that may wait for the plugin to read them: all open callbacks at the longest line.
const UNREAD: usize = CALLBACKS << 20;
const STDERR_KEPT: usize = 64 * 1024;
const STDERR_LINE: usize = 8 * 1024;
const STDERR_SHOWN: usize = 20;

/// What a task of its own can serve.
pub(crate) trait Pipe: Send + Unpin + 'static {}

impl<T: Send + Unpin + 'static> Pipe for T {}

/// One plugin process as the host sees it.
pub(crate) struct Link {
    pub(crate) provider: String,
    pub(crate) limits: Limits,
    pub(crate) group: Arc<Group>,
    /// Bounds how many calls are under way; further ones wait.
    pub(crate) inflight: Semaphore,
    pub(crate) broker: Arc<Broker>,
    /// Where the provider's settings were written.
    pub(crate) written: Written,
    transcript: Option<Arc<Transcript>>,
    outbox: Mutex<Option<mpsc::UnboundedSender<Vec<u8>>>>,
    /// Bytes in the outbox.
    unread: Arc<AtomicUsize>,
    slots: Mutex<HashMap<u64, Arc<Slot>>>,
    issued: AtomicU64,
    greeted: AtomicBool,
    closing: AtomicBool,
    callbacks: Arc<Semaphore>,
    stderr: Mutex<VecDeque<String>>,
    end: Mutex<Option<KernelError>>,
}

impl Link {
    /// Takes over a child: from now on its pipes are served whatever the caller does.
    pub(crate) fn attach(
        provider: &str,
        limits: Limits,
        running: Running<impl Pipe + AsyncWrite, impl Pipe + AsyncRead, impl Pipe + AsyncRead>,
        broker: Broker,
        transcript: Option<Arc<Transcript>>,
        written: Written,
    ) -> Arc<Self> {
        let (outbox, lines) = mpsc::unbounded_channel();
        let link = Arc::new(Self {
            provider: provider.to_owned(),
            limits,
            group: running.group,
            inflight: Semaphore::new(limits.max_inflight.max(1)),
            broker: Arc::new(broker),
            written,
            transcript,
            outbox: Mutex::new(Some(outbox)),
            unread: Arc::default(),
            slots: Mutex::default(),
            issued: AtomicU64::new(0),
            greeted: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            callbacks: Arc::new(Semaphore::new(CALLBACKS)),
            stderr: Mutex::default(),
            end: Mutex::new(None),
        });
        tokio::spawn(write(running.stdin, lines, Arc::clone(&link.unread)));
        tokio::spawn(Arc::clone(&link).supervise(running.stdout, running.stderr));
        link
    }

    /// A slot for a new call; the error is why there can be none any more.
    pub(crate) fn open(
        &self,
    ) -> Result<(u64, Arc<Slot>, mpsc::UnboundedReceiver<Inbound>), KernelError> {
        let id = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
        let (slot, inbox) = Slot::new(self.limits.output_window);
        lock(&self.slots).insert(id, Arc::clone(&slot));
        match self.ended() {
            Some(end) => {
                lock(&self.slots).remove(&id);
                Err(end)
            }
            None => Ok((id, slot, inbox)),
        }
    }

    /// Forgets a call; what is still said about it is ignored.
    pub(crate) fn close(&self, id: u64) {
        lock(&self.slots).remove(&id);
    }

    /// Queues a frame; what is said to a plugin that is gone is lost.
    pub(crate) fn send(&self, frame: &Frame) -> Result<(), WireError> {
        let line = frame.encode(self.limits.max_line.min(MAX_LINE))?;
        let waiting = self.unread.fetch_add(line.len(), Ordering::SeqCst) + line.len();
        if waiting > UNREAD {
            self.condemn(broken(&self.provider, "it does not read what it is sent"));
        }
        if let (Some(outbox), None) = (&*lock(&self.outbox), self.ended()) {
            self.note(Side::Kernel, frame);
            let _ = outbox.send(line);
        }
        Ok(())
    }

    fn note(&self, side: Side, frame: &Frame) {
        if let Some(transcript) = &self.transcript {
            transcript.note(side, frame, &self.broker.net.vault().redactor());
        }
    }

    /// From now on the plugin may end, at the pace of whoever closes the session.
    pub(crate) fn closes(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Ends the plugin's stdin: the polite request to go.
    pub(crate) fn hang_up(&self) {
        lock(&self.outbox).take();
    }

    /// The plugin answered `initialize` well.
    pub(crate) fn greet(&self) {
        self.greeted.store(true, Ordering::SeqCst);
    }

    /// Kills the plugin; from now on nothing more is asked of it.
    pub(crate) fn condemn(&self, why: KernelError) {
        lock(&self.end).get_or_insert(why);
        self.group.signal(Signal::KILL);
    }

    /// Why the session is over, when it is.
    pub(crate) fn ended(&self) -> Option<KernelError> {
        lock(&self.end).clone()
    }

    async fn supervise(
        self: Arc<Self>,
        stdout: impl Pipe + AsyncRead,
        stderr: impl Pipe + AsyncRead,
    ) {
        let log = tokio::spawn(Arc::clone(&self).drain(stderr));
        let mut reading = std::pin::pin!(self.read(stdout));
        let fault = tokio::select! {
            fault = &mut reading => fault,
            _ = self.group.ended() => timeout(DRAIN, &mut reading).await.unwrap_or(None),
        };
        let goes = fault.is_none()
            && (self.closing.load(Ordering::SeqCst)
                || timeout(LINGER, self.group.ended()).await.is_ok());
        if !goes {
            self.group.signal(Signal::KILL);
        }
        let exit = self.group.ended().await;
        let stop_log = log.abort_handle();
        if timeout(DRAIN, log).await.is_err() {
            stop_log.abort();
        }
        let error = self.explain(fault, exit);
        lock(&self.end).get_or_insert(error);
        lock(&self.outbox).take();
        let slots = std::mem::take(&mut *lock(&self.slots));
        for slot in slots.values() {
            slot.wake();
            slot.doors.clear();
            let _ = slot.deliver(Inbound::Ended);
        }
    }

    /// Reads until the end of the stream (`None`) or the first frame that cannot be forgiven.
    async fn read(self: &Arc<Self>, mut stdout: impl Pipe + AsyncRead) -> Option<String> {
        let mut lines = LineReader::new(self.limits.max_line);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = match stdout.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => n,
            };
            lines.feed(&buffer[..n]);
            while let Some(frame) = lines.next_frame() {
                if let Err(fault) = frame.map_err(|e| e.to_string()).and_then(|f| self.take(f)) {
                    return Some(self.broker.net.vault().redactor().text(&fault).into_owned());
                }
            }
        }
    }

    fn take(self: &Arc<Self>, mut frame: Frame) -> Result<(), String> {
        self.clean(&mut frame);
        self.note(Side::Plugin, &frame);
        match frame {
            Frame::Response { id: Id::Number(id), result } => self.answered(id, result),
            Frame::Response { id, .. } => {
                Err(format!("it answered {id}, which is no request of ours"))
            }
            Frame::Notification { method, params } => {
                self.slot(&params).map_or(Ok(()), |(_, slot)| {
                    slot.event(&method, params).map_err(|what| format!("{method}: {what}"))
                })
            }
            Frame::Request { id, method, params } => {
                self.called_back(id, method, params);
                Ok(())
            }
        }
    }

    /// Takes secrets that the plugin was given out of what it says of itself. What it asks for, and the output of
    /// the user's command, stay as they are.
    fn clean(&self, frame: &mut Frame) {
        let redactor = self.broker.net.vault().redactor();
        if redactor.is_empty() {
            return;
        }
        match frame {
            Frame::Response { result: Ok(value), .. } => redactor.json(value),
            Frame::Response { result: Err(error), .. } => {
                let mut value = serde_json::to_value(&*error).unwrap_or_default();
                redactor.json(&mut value);
                if let Ok(clean) = serde_json::from_value(value) {
                    *error = clean;
                }
            }
            Frame::Notification { method, params } if method != event::OUTPUT => {
                redactor.json(params);
            }
            Frame::Request { method, params, .. } if method.starts_with("host/resource.") => {
                redactor.json(params);
            }
            Frame::Notification { .. } | Frame::Request { .. } => {}
        }
    }

    fn answered(&self, id: u64, result: Result<Value, RpcError>) -> Result<(), String> {
        if id == 0 || id > self.issued.load(Ordering::SeqCst) {
            return Err(format!("it answered call {id}, which was never made"));
        }
        // From its answer on, nothing is asked for a call any more.
        let slot = lock(&self.slots).remove(&id);
        match slot {
            Some(slot) => drop(slot.deliver(Inbound::Answer(result))),
            None => tracing::debug!(provider = %self.provider, id, "an answer nobody waits for"),
        }
        Ok(())
    }

    fn slot(&self, params: &Value) -> Option<(u64, Arc<Slot>)> {
        let call = params.get("call").and_then(Value::as_u64)?;
        Some((call, lock(&self.slots).get(&call).cloned()?))
    }

    /// Serves a callback in a task of its own that never waits for the plugin.
    fn called_back(self: &Arc<Self>, id: Id, method: String, params: Value) {
        let Some((_, slot)) = self.slot(&params) else {
            let error = refuse(ErrorKind::InvalidRequest, "the call it belongs to is not open");
            return self.answer(id, Err(error));
        };
        let (Ok(mine), Ok(all)) =
            (slot.callback(), Arc::clone(&self.callbacks).try_acquire_owned())
        else {
            let error = refuse(ErrorKind::RateLimited, "too many callbacks are open");
            return self.answer(id, Err(error));
        };
        if matches!(&*method, callback::RESOURCE_RECORD | callback::RESOURCE_FORGET) {
            let report = Inbound::Resource { id, method, params, room: (mine, all) };
            if let Err(report) = slot.deliver(report) {
                self.too_late(report);
            }
            return;
        }
        let woken = slot.woken();
        let link = Arc::clone(self);
        tokio::spawn(async move {
            let answer = tokio::select! {
                answer = link.broker.answer(&slot.doors, &method, params) => answer,
                () = woken => cancelled(&method),
            };
            link.answer(id, answer);
            drop((mine, all));
        });
    }

    /// Answers a report that the task of its call does not take any more.
    pub(crate) fn too_late(&self, inbound: Inbound) {
        if let Inbound::Resource { id, method, .. } = inbound {
            self.answer(id, cancelled(&method));
        }
    }

    /// Answers a callback.
    pub(crate) fn answer(&self, id: Id, result: Result<Value, RpcError>) {
        let frame = Frame::Response { id: id.clone(), result };
        if self.send(&frame).is_err() {
            let error = refuse(ErrorKind::Quota, "the answer does not fit a line").with(|data| {
                data.hint = Some("take it in pieces, or into a blob".to_owned());
            });
            let _ = self.send(&Frame::failure(id, error));
        }
    }

    async fn drain(self: Arc<Self>, mut stderr: impl Pipe + AsyncRead) {
        let mut buffer = vec![0; 8 * 1024];
        let mut line = Vec::new();
        while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
            for &byte in &buffer[..n] {
                if byte == b'\n' {
                    self.said(&std::mem::take(&mut line));
                } else if line.len() < STDERR_LINE {
                    line.push(byte);
                }
            }
        }
        self.said(&line);
    }

    fn said(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let line = one_line(&self.broker.net.vault().redactor().text(&line));
        if line.is_empty() {
            return;
        }
        tracing::debug!(target: "plugin", provider = %self.provider, "{line}");
        let mut kept = lock(&self.stderr);
        kept.push_back(line);
        while kept.iter().map(String::len).sum::<usize>() > STDERR_KEPT
            || kept.len() > STDERR_KEPT / 64
        {
            kept.pop_front();
        }
    }

    fn explain(&self, fault: Option<String>, exit: Exit) -> KernelError {
        let name = &self.provider;
        let greeted = self.greeted.load(Ordering::SeqCst);
        let mut error = match fault {
            Some(fault) if !greeted && fault.starts_with("a line is not") => KernelError::new(
                ErrorCode::PluginFault,
                format!("the {name} plugin printed on stdout instead of speaking: {fault}"),
            ),
            Some(fault) => broken(name, fault),
            None if !greeted => KernelError::new(
                ErrorCode::PluginFault,
                format!("the {name} plugin ended before it said hello ({exit})"),
            )
            .hint(early_hint(exit)),
            None => KernelError::new(
                ErrorCode::PluginFault,
                format!("the {name} plugin ended unexpectedly ({exit})"),
            )
            .hint("try again; report it to the plugin's author if it happens again"),
        };
        let kept = lock(&self.stderr);
        let skipped = kept.len().saturating_sub(STDERR_SHOWN);
        error.causes.extend(kept.iter().skip(skipped).map(|line| format!("stderr: {line}")));
        error
    }
}

fn early_hint(exit: Exit) -> &'static str {
    match exit.code {
        126 | 127 => {
            "its program cannot run here: wrong architecture, or something it needs is missing"
        }
        _ => "run again with --debug to see everything it printed",
    }
}

fn cancelled(method: &str) -> Result<Value, RpcError> {
    match method {
        callback::SLEEP => Ok(json!({"woken": "cancel"})),
        _ => Err(refuse(ErrorKind::Cancelled, "the call was cancelled")),
    }
}

async fn write(
    mut stdin: impl Pipe + AsyncWrite,
    mut lines: mpsc::UnboundedReceiver<Vec<u8>>,
    unread: Arc<AtomicUsize>,
) {
    while let Some(line) = lines.recv().await {
        unread.fetch_sub(line.len(), Ordering::SeqCst);
        if stdin.write_all(&line).await.is_err() {
            break; // the reader learns why
        }
    }
}
