//! One session: frames come in on one thread, calls run on threads of their own, answers go out.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crabbox_schemas::error::{Outcome, RpcError};
use crabbox_schemas::plugin::{CallContext, CancelParams, CreditParams, Limits, method};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::behaviour::Behaviour;
use crate::control::{Control, lock};
use crate::link::Link;
use crate::plugin::Plugin;
use crate::{Call, Failure};

/// Time calls get to clean up when the kernel is gone.
const LAST_GRACE: Duration = Duration::from_secs(10);
/// Calls that may wait for a free thread before further ones are refused.
const QUEUE: usize = 64;

/// What the other side sent. Everything it may leave out is optional.
#[derive(Deserialize)]
struct Incoming {
    jsonrpc: String,
    #[serde(default)]
    id: Option<Value>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    params: Option<Value>,
    #[serde(default)]
    result: Option<Value>,
    #[serde(default)]
    error: Option<RpcError>,
}

/// Serves one kernel until it closes its end, then gives open calls a last moment.
pub(crate) fn run(
    plugin: Plugin,
    input: impl Read,
    output: impl Write + Send + 'static,
) -> Result<(), Failure> {
    let limits = Limits::default();
    let link = Arc::new(Link::new(Box::new(output), limits.max_line));
    let mut session = Session { plugin: Some(plugin), link, open: None, limits, closing: false };
    let mut input = BufReader::new(input);
    let ended = loop {
        match next_line(&mut input, session.limits.max_line) {
            Ok(None) => break Ok(()),
            Ok(Some(line)) if line.is_empty() => {}
            Ok(Some(line)) => {
                if let Err(failure) = session.take(&line) {
                    break Err(failure);
                }
            }
            Err(failure) => break Err(failure),
        }
    };
    session.link.close();
    if let Some(open) = &session.open {
        open.calls.finish(LAST_GRACE);
    }
    ended
}

/// One line without its end; `None` at the end of input.
fn next_line(input: &mut impl BufRead, max: usize) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    let read = input
        .by_ref()
        .take(max as u64)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::internal("cannot read from the kernel").because(&error))?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        if line.len() >= max {
            return Err(Failure::internal("the kernel sent a line that is too long"));
        }
        return Ok(None);
    }
    line.pop();
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(line))
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
    calls: Arc<Calls>,
}

impl Session {
    fn take(&mut self, line: &[u8]) -> Result<(), Failure> {
        let frame: Incoming = serde_json::from_slice(line).map_err(|error| {
            Failure::internal("the kernel sent a line that is no frame").because(&error)
        })?;
        if frame.jsonrpc != "2.0" {
            return Err(Failure::internal("the kernel does not speak JSON-RPC 2.0"));
        }
        match (frame.id, frame.method) {
            (Some(id), Some(name)) => self.requested(id, &name, frame.params.unwrap_or(json!({}))),
            (None, Some(name)) => self.notified(&name, frame.params.unwrap_or_default()),
            (Some(Value::String(id)), None) => {
                let answer = frame.error.map_or_else(|| Ok(frame.result.unwrap_or(json!({}))), Err);
                self.link.answered(&id, answer);
            }
            _ => {}
        }
        Ok(())
    }

    fn requested(&mut self, id: Value, name: &str, params: Value) {
        let answer = match (name, &self.open) {
            (method::INITIALIZE, _) => self.initialize(params),
            (method::PING, _) => Ok(json!({})),
            (method::SHUTDOWN, _) => {
                self.closing = true;
                Ok(json!({}))
            }
            (_, None) => Err(fault(-32600, "initialize comes first")),
            (_, Some(_)) if self.closing => Err(fault(-32600, "the session is shut down")),
            (_, Some(open)) if open.provider.methods().contains(&name) => {
                match open.start(&self.link, &id, name, params, self.limits) {
                    Ok(()) => return,
                    Err(error) => Err(error),
                }
            }
            (_, Some(_)) => Err(fault(-32601, &format!("no method {name}"))),
        };
        self.link.reply(&id, answer);
    }

    fn initialize(&mut self, params: Value) -> Result<Value, RpcError> {
        let Some(plugin) = self.plugin.take() else {
            return Err(fault(-32600, "initialize comes once"));
        };
        let params = serde_json::from_value(params).map_err(|error| unfit(&error))?;
        let (provider, limits, result) = plugin.initialize(params)?;
        self.limits = limits;
        self.link.set_max_line(limits.max_line);
        self.open =
            Some(Open { provider, calls: Arc::new(Calls::new(limits.max_inflight.max(1))) });
        serde_json::to_value(result).map_err(|error| unfit(&error))
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
        id: &Value,
        name: &str,
        params: Value,
        limits: Limits,
    ) -> Result<(), RpcError> {
        let number = id.as_u64().ok_or_else(|| fault(-32600, "ids are positive integers"))?;
        let context = params.get("ctx").cloned().unwrap_or_default();
        let context: CallContext = serde_json::from_value(context).map_err(|e| unfit(&e))?;
        let control = Arc::new(Control::new(limits.output_window));
        let call = Call::new(number, context, control.clone(), link.clone());
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
            link.reply(&json!(cancel.id), Err(failure.into()));
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
    fn run(self) {
        let work = || self.provider.answer(&self.call, &self.name, self.params);
        let answer = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            Err(Failure::internal(format!("the provider panicked in {}", self.name))
                .outcome(Outcome::Uncertain)
                .hint("its log has the details"))
        });
        self.link.reply(&json!(self.call.id()), answer.map_err(Into::into));
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
    fn admit(self: &Arc<Self>, id: u64, control: Arc<Control>, task: Task) -> Result<(), RpcError> {
        let mut table = lock(&self.table);
        if table.open.contains_key(&id) {
            return Err(fault(-32600, "this id is in use"));
        }
        if table.queue.len() >= QUEUE {
            let failure = Failure::transient("too many calls wait already");
            return Err(failure.outcome(Outcome::NotStarted).into());
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

fn fault(code: i32, message: &str) -> RpcError {
    RpcError { code, message: message.to_owned(), data: None }
}

fn unfit(error: &serde_json::Error) -> RpcError {
    fault(-32602, &format!("the params do not fit: {error}"))
}
