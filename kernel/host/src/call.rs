//! One call, from request to answer: deadline, cancel that must be answered, events, journal entries.

use std::sync::Arc;
use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::{Event, Stream};
use crabbox_kernel::lease::trail::Trail;
use crabbox_kernel::ports::{EventSink, Stop, Urgency};
use crabbox_kernel::time::format_duration;
use crabbox_schemas::error::{ErrorCode, ErrorKind, Outcome, Resource, RpcError};
use crabbox_schemas::plugin::{CancelParams, CreditParams, ResourceParams, callback, method};
use crabbox_wire::{Frame, Id, Offsets, Placed};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::fault::{broken, from_rpc, one_line, refuse};
use crate::link::Link;
use crate::slot::{Inbound, Slot};

/// An answer that is on its way when the grace ends still counts.
const SLACK: Duration = Duration::from_millis(500);

/// Resources a call may record, and as many it may forget.
const REPORTS: u32 = 256;

/// What to call, and how long to wait.
pub(crate) struct Call<'a> {
    pub(crate) method: &'static str,
    pub(crate) params: Value,
    pub(crate) deadline: Duration,
    pub(crate) grace: Duration,
    /// Whether it may change the world: then silence is uncertain.
    pub(crate) mutating: bool,
    pub(crate) stop: &'a Stop,
}

/// Where the call's by-products go.
#[derive(Default)]
pub(crate) struct Hands<'a> {
    pub(crate) trail: Option<&'a mut Trail>,
    pub(crate) events: Option<&'a mut dyn EventSink>,
}

/// Why a call was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    User,
    Deadline,
}

/// A call under way. Dropping it unanswered cancels it at the plugin.
struct Open<'a> {
    link: &'a Arc<Link>,
    id: u64,
    slot: Arc<Slot>,
    inbox: mpsc::UnboundedReceiver<Inbound>,
    stdout: Offsets,
    stderr: Offsets,
    /// Resources it recorded, and forgot.
    reports: [u32; 2],
    settled: bool,
}

/// Makes one call and waits for its answer.
pub(crate) async fn call(link: &Arc<Link>, call: Call<'_>, mut hands: Hands<'_>) -> Result<Value> {
    let _permit = timeout(call.deadline, link.inflight.acquire()).await.map_err(|_| {
        too_slow(link, &call, "waited too long for earlier calls").outcome(Outcome::NotStarted)
    })?;
    let mut open = Open::start(link, &call)?;
    let mut cancel: Option<(Reason, Urgency)> = None;
    let mut until = far(call.deadline);
    loop {
        let next = if cancel.is_none() { Urgency::Gentle } else { Urgency::Now };
        let may_rise = cancel.is_none_or(|(_, urgency)| urgency < Urgency::Now);
        tokio::select! {
            inbound = open.inbox.recv() => match inbound {
                Some(Inbound::Answer(result)) => {
                    open.settled = true;
                    return result.map_err(|error| open.failed(&call, error, cancel));
                }
                Some(Inbound::Ended) | None => return Err(open.lost(&call)),
                Some(inbound) => open.take(inbound, &mut hands),

            },
            () = call.stop.reaches(next), if may_rise => {
                let urgency = call.stop.urgency();
                let grace = if urgency == Urgency::Now { Duration::ZERO } else { call.grace };
                open.cancel(Reason::User, grace);
                let granted = far(grace + SLACK);
                // The first cancel grants its grace, also when the deadline is near; a second one only shortens it.
                until = if cancel.is_some() { until.min(granted) } else { granted };
                cancel = Some((Reason::User, urgency));
            }
            () = sleep_until(until) => match cancel {
                None => {
                    open.cancel(Reason::Deadline, call.grace);
                    cancel = Some((Reason::Deadline, Urgency::None));
                    until = far(call.grace + SLACK);
                }
                Some((reason, _)) => return Err(open.give_up(&call, reason)),
            },
        }
    }
}

/// That much later; a day when the time is beyond counting.
fn far(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now + Duration::from_secs(86_400))
}

impl<'a> Open<'a> {
    fn start(link: &'a Arc<Link>, call: &Call<'_>) -> Result<Self> {
        let (id, slot, inbox) = link.open().map_err(|end| end.outcome(Outcome::NotStarted))?;
        let (stdout, stderr) = (Offsets::default(), Offsets::default());
        let mut open =
            Self { link, id, slot, inbox, stdout, stderr, reports: [0; 2], settled: true };
        let params = call.params.clone();
        let request = Frame::Request { id: Id::Number(id), method: call.method.to_owned(), params };
        link.send(&request).map_err(|e| {
            KernelError::new(ErrorCode::Usage, format!("{} is too large to ask for", call.method))
                .because(&e)
                .outcome(Outcome::NotStarted)
        })?;
        open.settled = false;
        Ok(open)
    }

    fn cancel(&self, reason: Reason, grace: Duration) {
        let reason = match reason {
            Reason::User => "user",
            Reason::Deadline => "deadline",
        };
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.tell(
            method::CANCEL,
            &CancelParams { id: self.id, reason: reason.to_owned(), grace_ms },
        );
        self.slot.wake();
    }

    fn tell(&self, method: &str, params: &impl Serialize) {
        // Both frames it is used for are small and always encode.
        let _ = Frame::notification(method, params).and_then(|frame| self.link.send(&frame));
    }

    fn take(&mut self, inbound: Inbound, hands: &mut Hands<'_>) {
        match inbound {
            Inbound::Answer(_) | Inbound::Ended => {}
            Inbound::Event(event) => emit(hands, *event),
            Inbound::Output { stream, offset, data } => {
                let len = data.len() as u64;
                match self.offsets(stream).place(offset, data.len()) {
                    Placed::Old => {}
                    Placed::New(from) => {
                        let offset = offset + from as u64;
                        emit(hands, Event::Output { stream, offset, data: data.slice(from..) });
                    }
                    Placed::Gap(from, to) => {
                        emit(hands, gap(stream, from, to, "the provider skipped them"));
                        emit(hands, Event::Output { stream, offset, data });
                    }
                }
                if let Some(bytes) = self.slot.consume(len) {
                    self.tell(method::CREDIT, &CreditParams { call: self.id, bytes });
                }
            }
            Inbound::Gap { stream, to, reason } => {
                let from = self.offsets(stream).skip(to);
                if to > from {
                    emit(hands, gap(stream, from, to, &reason));
                }
            }
            Inbound::Resource { id, method, params, room } => {
                let answer =
                    self.may_report(&method).and_then(|()| journal(hands, &method, params));
                self.link.answer(id, answer);
                drop(room);
            }
        }
    }

    /// Each report is on disk for as long as the lease is.
    fn may_report(&mut self, method: &str) -> Result<(), RpcError> {
        let reports = &mut self.reports[usize::from(method == callback::RESOURCE_FORGET)];
        *reports += 1;
        if *reports <= REPORTS {
            return Ok(());
        }
        let message = format!("a call reports at most {REPORTS} resources");
        Err(refuse(ErrorKind::Quota, message))
    }

    fn offsets(&mut self, stream: Stream) -> &mut Offsets {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn failed(
        &self,
        call: &Call<'_>,
        error: RpcError,
        cancel: Option<(Reason, Urgency)>,
    ) -> KernelError {
        let mapped = from_rpc(self.link, error, call.mutating);
        match (mapped.code, cancel) {
            (ErrorCode::Cancelled, Some((Reason::Deadline, _))) => KernelError {
                outcome: mapped.outcome,
                causes: [vec![mapped.message], mapped.causes].concat(),
                ..too_slow(
                    self.link,
                    call,
                    &format!("took longer than {}", format_duration(call.deadline)),
                )
            },
            _ => mapped,
        }
    }

    /// The plugin is gone.
    fn lost(&mut self, call: &Call<'_>) -> KernelError {
        self.settled = true;
        let end = self.link.ended();
        let end = end.unwrap_or_else(|| broken(&self.link.provider, "the session is over"));
        if call.mutating { end.outcome(Outcome::Uncertain) } else { end }
    }

    /// The plugin did not answer the cancel: it is killed, and nobody knows what it did.
    fn give_up(&mut self, call: &Call<'_>, reason: Reason) -> KernelError {
        self.settled = true;
        let code = match reason {
            Reason::User => ErrorCode::Cancelled,
            Reason::Deadline => ErrorCode::PluginFault,
        };
        let error = KernelError::new(
            code,
            format!(
                "the {} plugin did not answer the cancel of {} in time and was killed",
                self.link.provider, call.method
            ),
        );
        self.link.condemn(KernelError { code: ErrorCode::PluginFault, ..error.clone() });
        if call.mutating { error.outcome(Outcome::Uncertain) } else { error }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.cancel(Reason::User, Duration::ZERO);
        }
        self.link.close(self.id);
        self.slot.wake();
        self.slot.doors.clear();
        self.inbox.close();
        while let Ok(unwanted) = self.inbox.try_recv() {
            self.link.too_late(unwanted);
        }
    }
}

fn emit(hands: &mut Hands<'_>, event: Event) {
    if let Some(events) = &mut hands.events {
        events.emit(event);
    }
}

fn gap(stream: Stream, from: u64, to: u64, reason: &str) -> Event {
    let message = format!("{} bytes {from}..{to} are lost: {reason}", stream.word());
    Event::Warning { message }
}

/// Writes a resource to the lease's trail; the answer means that it is on disk.
fn journal(hands: &mut Hands<'_>, method: &str, params: Value) -> Result<Value, RpcError> {
    let params: ResourceParams = serde_json::from_value(params)
        .map_err(|e| refuse(ErrorKind::InvalidRequest, e.to_string()))?;
    let done = match (&mut hands.trail, method) {
        (Some(trail), callback::RESOURCE_FORGET) => trail.forget(&params.resource.cloud_id),
        (Some(trail), _) => trail.record(params.resource.clone()),
        (None, callback::RESOURCE_FORGET) => Ok(()),
        (None, _) => {
            return Err(refuse(ErrorKind::InvalidRequest, "this call may not create resources"));
        }
    };
    done.map_err(|e| refuse(ErrorKind::Internal, e.to_string()))?;
    if method == callback::RESOURCE_RECORD {
        let Resource { kind, cloud_id, .. } = params.resource;
        emit(hands, Event::LeaseResource { kind: one_line(&kind), cloud_id: one_line(&cloud_id) });
    }
    Ok(json!({}))
}

fn too_slow(link: &Link, call: &Call<'_>, what: &str) -> KernelError {
    KernelError::new(
        ErrorCode::ProviderTimeout,
        format!("{}: {} {what}", link.provider, call.method),
    )
}
