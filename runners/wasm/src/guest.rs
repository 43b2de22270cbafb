//! One instance of a component: its memory, its time, and the call it answers.

use std::time::{Duration, Instant};

use crabbox_plugin_sdk::{Call, ErrorKind, Failure, Outcome};
use crabbox_schemas::error::{ErrorData, RpcError};
use serde_json::Value;
use wasmtime::component::{ComponentType, InstancePre, Lift, Lower, ResourceTable, TypedFunc};
use wasmtime::{Engine, ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::engine::Ticker;

/// How long an instance may take to begin.
const BEGIN: Duration = Duration::from_secs(15);
/// Instances, tables and memories inside one component, and elements of one table.
const INSTANCES: usize = 16;
const TABLES: usize = 32;
const MEMORIES: usize = 4;
const ELEMENTS: usize = 1 << 20;

/// The record `rpc-error` of the WIT file.
#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(record)]
pub(crate) struct Refusal {
    pub(crate) code: i32,
    pub(crate) message: String,
    pub(crate) data: Option<String>,
}

/// What the functions of both sides answer.
pub(crate) type Answer = Result<String, Refusal>;

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let RpcError { code, message, data } = failure.into();
        Self { code, message, data: data.and_then(|data| serde_json::to_string(&data).ok()) }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let data = refusal.data.as_deref();
        let data = data.and_then(|data| serde_json::from_str::<ErrorData>(data).ok());
        RpcError { code: refusal.code, message: refusal.message, data }.into()
    }
}

/// What belongs to one instance.
pub(crate) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    bounds: Bounds,
    /// The call that is answered; none while the instance begins.
    pub(crate) call: Option<Call>,
    /// When it must have begun; none for a guest that only the host ends.
    begin_by: Option<Instant>,
}

impl State {
    pub(crate) fn new(wasi: WasiCtx, memory: usize) -> Self {
        Self { begin_by: Some(Instant::now() + BEGIN), ..Self::endless(wasi, memory) }
    }

    pub(crate) fn endless(wasi: WasiCtx, memory: usize) -> Self {
        let bounds = Bounds::new(memory);
        Self { wasi, table: ResourceTable::new(), bounds, call: None, begin_by: None }
    }

    fn is_late(&self) -> bool {
        let until = self.call.as_ref().map(Call::last_moment).or(self.begin_by);
        until.is_some_and(|until| Instant::now() >= until)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Bytes of memory that are left, over all memories of the instance.
pub(crate) struct Bounds {
    left: usize,
}

impl Bounds {
    pub(crate) fn new(left: usize) -> Self {
        Self { left }
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        match self.left.checked_sub(desired.saturating_sub(current)) {
            Some(left) => {
                self.left = left;
                Ok(true)
            }
            None => Err(wasmtime::Error::msg("it wants more memory than it may have")),
        }
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= ELEMENTS)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

/// A store whose guest is bounded in memory and time.
pub(crate) fn bounded(engine: &Engine, state: State) -> Store<State> {
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.bounds);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| match store.data().is_late() {
        true => Err(wasmtime::Error::msg("it did not stop in time")),
        false => Ok(UpdateDeadline::Continue(1)),
    });
    store
}

/// A component's instance, ready for calls.
pub(crate) struct Guest {
    store: Store<State>,
    initialize: TypedFunc<(String,), (Answer,)>,
    handle: TypedFunc<(String, String), (Answer,)>,
    fuel: Option<u64>,
}

impl Guest {
    pub(crate) fn new(
        pre: &InstancePre<State>,
        state: State,
        fuel: Option<u64>,
        ticker: &Ticker,
    ) -> Result<Self, Failure> {
        let mut store = bounded(pre.engine(), state);
        refuel(&mut store, fuel).map_err(|e| broken("begin", &e))?;
        let _busy = ticker.busy();
        let instance = pre.instantiate(&mut store).map_err(|e| broken("begin", &e))?;
        let other = |e: wasmtime::Error| {
            Failure::unsupported("it exports not what a provider of protocol 1 must")
                .because(&*flat(&e))
        };
        let initialize = instance.get_typed_func(&mut store, "initialize").map_err(other)?;
        let handle = instance.get_typed_func(&mut store, "handle").map_err(other)?;
        Ok(Self { store, initialize, handle, fuel })
    }

    pub(crate) fn initialize(&mut self, params: &str, ticker: &Ticker) -> Result<Value, Failure> {
        let _busy = ticker.busy();
        let answered = self.initialize.call(&mut self.store, (params.to_owned(),));
        read("initialize", answered)
    }

    /// Answers a call. After an error that says so the instance is of no use any more.
    pub(crate) fn handle(
        &mut self,
        call: &Call,
        method: &str,
        params: String,
        ticker: &Ticker,
    ) -> Result<Result<Value, Failure>, Failure> {
        self.store.data_mut().call = Some(call.clone());
        refuel(&mut self.store, self.fuel).map_err(|e| broken(method, &e))?;
        let _busy = ticker.busy();
        let answered = self.handle.call(&mut self.store, (method.to_owned(), params));
        self.store.data_mut().call = None;
        match answered {
            Ok(answer) => Ok(read(method, Ok(answer))),
            Err(trap) => Err(broken(method, &trap)),
        }
    }
}

fn refuel(store: &mut Store<State>, fuel: Option<u64>) -> wasmtime::Result<()> {
    fuel.map_or(Ok(()), |fuel| store.set_fuel(fuel))
}

fn read(method: &str, answered: wasmtime::Result<(Answer,)>) -> Result<Value, Failure> {
    let (answer,) = answered.map_err(|trap| broken(method, &trap))?;
    serde_json::from_str(&answer?).map_err(|error| {
        Failure::new(ErrorKind::ProviderBug, format!("its answer to {method} is no JSON"))
            .outcome(Outcome::Uncertain)
            .because(&error)
    })
}

/// The component trapped: nobody knows how far it got.
pub(crate) fn broken(what: &str, trap: &wasmtime::Error) -> Failure {
    let why = trap.root_cause().to_string();
    Failure::new(ErrorKind::ProviderBug, format!("the component broke down in {what}: {why}"))
        .outcome(Outcome::Uncertain)
        .hint("its log has the details; report it to the plugin's author")
}

/// An error of the engine as a standard one.
pub(crate) fn flat(error: &wasmtime::Error) -> Box<dyn std::error::Error> {
    format!("{error:#}").into()
}
