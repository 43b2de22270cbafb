//! One session: frames come in on one thread, calls run on threads of their own, answers go out.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crabbox_schemas::error::{ErrorKind as Kind, Outcome};
use crabbox_schemas::plugin::{CallContext, CancelParams, CreditParams, Limits, method};
use crabbox_wire::{Frame, Id, LineReader};
use serde_json::{Value, json};

use crate::behaviour::Behaviour;
use crate::control::{Control, lock};
use crate::host::Host;
use crate::link::Link;
use crate::plugin::{Opened, Plugin, unfit};
use crate::{Call, Failure};

/// Time calls get to clean up when the kernel is gone.
const LAST_GRACE: Duration = Duration::from_secs(10);
/// Calls that may wait for a free thread before further ones are refused.
const QUEUE: usize = 64;
/// Bytes taken from the pipe at a time.
const READ_AT_ONCE: usize = 64 * 1024;

/// Serves one kernel until it closes its end, then gives open calls a last moment.
pub(crate) fn run(
    plugin: Plugin,
    input: impl Read,
    output: impl Write + Send + 'static,
) -> Result<(), Failure> {
    let limits = Limits::default();
    let link = Arc::new(Link::new(Box::new(output), limits.max_line));
    let mut session = Session { plugin: Some(plugin), link, open: None, limits, closing: false };
    let ended = session.read(input);
    session.link.close();
    if let Some(open) = &session.open {
        open.calls.finish(LAST_GRACE);
    }
    ended
}

struct Session {
    /// What to open; gone once `initialize` was asked for.
    plugin: Option<Plugin>,
    link: Arc<Link>,
    open: Option<Open>,
    limits: Limits,
    closing: bool,
}

/// What exists after `initialize`.
struct Open {
    provider: Arc<dyn Behaviour>,
    methods: Vec<String>,
    calls: Arc<Calls>,
}

impl Session {
    /// Takes frames until the kernel closes its end or breaks the protocol.
    fn read(&mut self, mut input: impl Read) -> Result<(), Failure> {
        let mut lines = LineReader::new(self.limits.max_line);
        let mut bytes = vec![0; READ_AT_ONCE];
        loop {
            let count = match input.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(Failure::internal("cannot read from the kernel").because(&error));
                }
            };
            lines.feed(&bytes[..count]);
            while let Some(frame) = lines.next_frame() {
                self.take(frame.map_err(|error| {
                    Failure::internal(format!("the kernel broke the protocol: {error}"))
                })?);
            }
        }
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Request { id, method, params } => self.requested(id, &method, params),
            Frame::Notification { method, params } => self.notified(&method, params),
            Frame::Response { id: Id::Text(id), result } => self.link.answered(&id, result),
            Frame::Response { id: Id::Number(_), .. } => {}
        }
    }

    fn requested(&mut self, id: Id, name: &str, params: Value) {
        let answer = match (name, &self.open) {
            (method::INITIALIZE, _) => self.initialize(params),
            (method::PING, _) => Ok(json!({})),
            (method::SHUTDOWN, _) => {
                self.closing = true;
                Ok(json!({}))
            }
            (_, None) => Err(invalid("initialize comes first")),
            (_, Some(_)) if self.closing => Err(invalid("the session is shut down")),
            (_, Some(open)) if open.methods.iter().any(|own| own == name) => {
                match open.start(&self.link, &id, name, params, self.limits) {
                    Ok(()) => return,
                    Err(failure) => Err(failure),
                }
            }
            (_, Some(_)) => Err(unknown(name)),
        };
        self.link.reply(id, answer);
    }

    fn initialize(&mut self, params: Value) -> Result<Value, Failure> {
        let Some(plugin) = self.plugin.take() else {
            return Err(invalid("initialize comes once"));
        };
        let limits = params.get("limits").cloned().unwrap_or_else(|| json!({}));
        self.limits = serde_json::from_value(limits).map_err(|error| unfit(&error))?;
        let Opened { provider, methods, hello } = (plugin.open)(params)?;
        self.link.set_max_line(self.limits.max_line);
        let calls = Arc::new(Calls::new(self.limits.max_inflight.max(1)));
        self.open = Some(Open { provider, methods, calls });
        Ok(hello)
    }

    fn notified(&self, name: &str, params: Value) {
        let Some(open) = &self.open else { return };
        match name {
            method::CANCEL => {
                if let Ok(cancel) = serde_json::from_value::<CancelParams>(params) {
                    open.cancel(&self.link, &cancel);
                }
            }
            method::CREDIT => {
                if let Ok(credit) = serde_json::from_value::<CreditParams>(params)
                    && let Some(control) = open.calls.control(credit.call)
                {
                    control.grant(credit.bytes);
                }
            }
            _ => {}
        }
    }
}

impl Open {
    fn start(
        &self,
        link: &Arc<Link>,
        id: &Id,
        name: &str,
        params: Value,
        limits: Limits,
    ) -> Result<(), Failure> {
        let &Id::Number(number) = id else { return Err(invalid("ids are integers")) };
        let context = params.get("ctx").cloned().unwrap_or_default();
        let context: CallContext = serde_json::from_value(context).map_err(|e| unfit(&e))?;
        let control = Arc::new(Control::new(limits.output_window));
        let call = Call::new(context, Host::new(number, control.clone(), link.clone()));
        let task = Task {
            call,
            name: name.to_owned(),
            params,
            provider: self.provider.clone(),
            link: link.clone(),
        };
        self.calls.admit(number, control, task)
    }

    fn cancel(&self, link: &Link, cancel: &CancelParams) {
        if let Some(control) = self.calls.control(cancel.id) {
            control.cancel(Duration::from_millis(cancel.grace_ms));
        }
        if self.calls.withdraw(cancel.id) {
            let failure = Failure::cancelled("cancelled before it began", Outcome::NotStarted);
            link.reply(Id::Number(cancel.id), Err(failure));
        }
    }
}

/// A call and what it needs to run.
struct Task {
    call: Call,
    name: String,
    params: Value,
    provider: Arc<dyn Behaviour>,
    link: Arc<Link>,
}

impl Task {
    /// A build that aborts on panic ends the process instead; the kernel then says the same of the call.
    fn run(self) {
        let work = || {
            self.call.begin()?;
            self.provider.answer(&self.call, &self.name, self.params)
        };
        let answer = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            Err(Failure::internal(format!("the provider panicked in {}", self.name))
                .outcome(Outcome::Uncertain)
                .hint("its log has the details"))
        });
        let answer = answer.map_err(|failure| match (failure.kind(), failure.data().outcome) {
            // Whoever passes on the host's refusal to go on has not said what is left behind.
            (Kind::Cancelled | Kind::Timeout, None) => failure.outcome(Outcome::Uncertain),
            _ => failure,
        });
        self.link.reply(Id::Number(self.call.id()), answer);
    }
}

/// The calls that run or wait for their turn.
struct Calls {
    table: Mutex<Table>,
    ended: Condvar,
    most: usize,
}

#[derive(Default)]
struct Table {
    open: HashMap<u64, Arc<Control>>,
    queue: VecDeque<(u64, Task)>,
    running: usize,
}

impl Calls {
    fn new(most: usize) -> Self {
        Self { table: Mutex::default(), ended: Condvar::new(), most }
    }

    fn control(&self, id: u64) -> Option<Arc<Control>> {
        lock(&self.table).open.get(&id).cloned()
    }

    /// Starts a call now, or when a running one ends.
    fn admit(self: &Arc<Self>, id: u64, control: Arc<Control>, task: Task) -> Result<(), Failure> {
        let mut table = lock(&self.table);
        if table.open.contains_key(&id) {
            return Err(invalid("this id is in use"));
        }
        if table.queue.len() >= QUEUE {
            let failure = Failure::transient("too many calls wait already");
            return Err(failure.outcome(Outcome::NotStarted));
        }
        table.open.insert(id, control);
        if table.running >= self.most {
            table.queue.push_back((id, task));
            return Ok(());
        }
        table.running += 1;
        drop(table);
        let calls = self.clone();
        std::thread::spawn(move || calls.work(id, task));
        Ok(())
    }

    /// One thread: runs a call, then whatever waits.
    fn work(&self, id: u64, task: Task) {
        let mut next = Some((id, task));
        while let Some((id, task)) = next {
            task.run();
            let mut table = lock(&self.table);
            table.open.remove(&id);
            next = table.queue.pop_front();
            if next.is_none() {
                table.running -= 1;
                self.ended.notify_all();
            }
        }
    }

    /// Takes a call back that has not begun.
    fn withdraw(&self, id: u64) -> bool {
        let mut table = lock(&self.table);
        let before = table.queue.len();
        table.queue.retain(|(waiting, _)| *waiting != id);
        let gone = table.queue.len() < before;
        if gone {
            table.open.remove(&id);
        }
        gone
    }

    /// Cancels everything and waits for it, but not for ever.
    fn finish(&self, grace: Duration) {
        let until = Instant::now() + grace;
        let mut table = lock(&self.table);
        table.queue.clear();
        for control in table.open.values() {
            control.cancel(grace);
        }
        while table.running > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            table = self.ended.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn invalid(message: &str) -> Failure {
    Failure::breach(-32600, Kind::InvalidRequest, message)
}

fn unknown(method: &str) -> Failure {
    Failure::breach(-32601, Kind::Unsupported, format!("no method {method}"))
}
