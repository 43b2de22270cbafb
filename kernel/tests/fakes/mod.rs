//! Fakes at the four doors: a provider that does what a test wrote down, time held in hand, and boxes.

#![expect(clippy::unwrap_used, reason = "a fake that cannot play its part fails the test")]

pub(crate) mod scripted;
pub(crate) mod shell;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Event;
use crabbox_kernel::helper::Binaries;
use crabbox_kernel::lease::trail::Trail;
use crabbox_kernel::lease::{Ask, Bench, Fate, Held, Login, NewLease, with_lease};
use crabbox_kernel::ports::{
    About, Clock, DelegatedRun, EventSink, Provider, Query, Stop, Urgency, Wanted,
};
use crabbox_kernel::state::State;
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::{ErrorCode, Outcome, Resource};
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::lease::{BoxRequest, Lease, ReleaseOutcome, SshEndpoint};
use crabbox_schemas::plugin::{Check, ProviderKind, RunStartResult};
use tokio::task::yield_now;
use tokio::time::Instant;

use shell::Shell;

/// The runtime's time; a test that pauses it holds it in hand.
pub(crate) struct Time {
    start: Instant,
    /// Wall clock at the start; may jump.
    pub(crate) wall_ms: Cell<u64>,
}

impl Clock for Time {
    fn now_ms(&self) -> u64 {
        self.wall_ms.get() + self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// What the provider does instead of doing its job well.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// Nothing happens but an error.
    Refuse(ErrorCode, Option<Outcome>),
    /// The deed is done, but the answer is an error.
    DoThenFail(ErrorCode, Outcome),
    /// The deed is done and recorded, then nothing until it is cancelled.
    DoThenStall,
    /// Nothing at all until it is cancelled.
    Stall,
    /// An answer about another lease.
    OtherLease,
    /// Accepted, not finished.
    Pending,
}

type Watch = Box<dyn Fn(&str)>;

/// A provider whose boxes are entries of a map.
pub(crate) struct Toy {
    pub(crate) about: About,
    plugin: PluginPin,
    /// The boxes that exist.
    pub(crate) boxes: RefCell<BTreeMap<LeaseId, Lease>>,
    /// Where its boxes keep their work.
    pub(crate) work_root: Option<String>,
    /// A host with an id of its own, which `acquire` hands out.
    pub(crate) host: Option<Lease>,
    /// What a delegated run answers; without one it goes on until it is stopped.
    pub(crate) answer: RefCell<Option<Result<RunStartResult>>>,
    /// Calls in order: method, state or purpose, and when.
    pub(crate) calls: RefCell<Vec<(String, u64)>>,
    /// What the last acquire was told.
    pub(crate) wanted: RefCell<Option<Wanted>>,
    /// Looks at the world when a call arrives.
    pub(crate) watch: RefCell<Option<Watch>>,
    script: RefCell<HashMap<&'static str, VecDeque<Act>>>,
    start: Instant,
}

impl Toy {
    fn new(kind: ProviderKind) -> Self {
        let plugin = PluginPin {
            id: "example.dev/toy".into(),
            version: "1.0.0".into(),
            digest: "sha256:0".into(),
        };
        Self {
            about: About {
                provider: "toy".into(),
                kind,
                features: Vec::new(),
                settings: "0".into(),
            },
            plugin,
            boxes: RefCell::default(),
            work_root: None,
            host: None,
            answer: RefCell::default(),
            calls: RefCell::default(),
            wanted: RefCell::default(),
            watch: RefCell::default(),
            script: RefCell::default(),
            start: Instant::now(),
        }
    }

    /// What the next call of a method does.
    pub(crate) fn will(&self, method: &'static str, act: Act) {
        self.script.borrow_mut().entry(method).or_default().push_back(act);
    }

    /// How often a method was called, by its word and what was said with it.
    pub(crate) fn count(&self, call: &str) -> usize {
        self.times(call).len()
    }

    /// When a method was called.
    pub(crate) fn times(&self, call: &str) -> Vec<u64> {
        self.calls.borrow().iter().filter(|c| c.0 == call).map(|c| c.1).collect()
    }

    async fn enter(&self, method: &'static str, said: &str) -> Option<Act> {
        let call = format!("{method} {said}").trim().to_owned();
        let at = u64::try_from(self.start.elapsed().as_millis()).unwrap();
        self.calls.borrow_mut().push((call, at));
        if let Some(watch) = &*self.watch.borrow() {
            watch(method);
        }
        yield_now().await;
        self.script.borrow_mut().get_mut(method).and_then(VecDeque::pop_front)
    }

    async fn make(&self, wanted: &Wanted, trail: &mut Trail) -> Result<Lease> {
        self.wanted.replace(Some(wanted.clone()));
        let mut lease = lease(&wanted.desired.lease_id, &wanted.desired.slug, &wanted.labels);
        lease.work_root.clone_from(&self.work_root);
        self.boxes.borrow_mut().insert(lease.lease_id.clone(), lease.clone());
        yield_now().await;
        trail.record(resource(&lease))?;
        if let Some(watch) = &*self.watch.borrow() {
            watch("recorded");
        }
        yield_now().await;
        Ok(lease)
    }
}

pub(crate) fn resource(lease: &Lease) -> Resource {
    Resource {
        kind: "server".into(),
        cloud_id: lease.cloud_id.clone(),
        region: None,
        billable: true,
    }
}

pub(crate) fn lease(id: &LeaseId, slug: &str, labels: &BTreeMap<String, String>) -> Lease {
    Lease {
        lease_id: id.clone(),
        slug: slug.into(),
        name: format!("machine-{slug}"),
        cloud_id: format!("c-{id}"),
        status: "ready".into(),
        server_type: String::new(),
        labels: labels.clone(),
        work_root: None,
        ssh: Some(SshEndpoint::default()),
    }
}

pub(crate) fn error(code: ErrorCode, outcome: Option<Outcome>) -> KernelError {
    KernelError { outcome, ..KernelError::new(code, "as the test wants it") }
}

async fn cancelled(stop: &Stop, outcome: Outcome) -> KernelError {
    stop.reaches(Urgency::Gentle).await;
    error(ErrorCode::Cancelled, Some(outcome))
}

impl Provider for Toy {
    fn about(&self) -> &About {
        &self.about
    }

    fn pin(&self) -> Result<PluginPin> {
        Ok(self.plugin.clone())
    }

    async fn acquire(
        &self,
        wanted: &Wanted,
        trail: &mut Trail,
        _: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<Lease> {
        match self.enter("acquire", "").await {
            Some(Act::Refuse(code, outcome)) => Err(error(code, outcome)),
            Some(Act::Stall) => Err(cancelled(stop, Outcome::NotStarted).await),
            Some(Act::DoThenFail(code, outcome)) => {
                self.make(wanted, trail).await?;
                Err(error(code, Some(outcome)))
            }
            Some(Act::DoThenStall) => {
                self.make(wanted, trail).await?;
                Err(cancelled(stop, Outcome::Uncertain).await)
            }
            Some(Act::OtherLease) => {
                self.make(wanted, trail).await?;
                Ok(lease(&LeaseId::mint([9; 6]), "other", &wanted.labels))
            }
            _ => match &self.host {
                Some(host) => Ok(host.clone()),
                None => self.make(wanted, trail).await,
            },
        }
    }

    async fn resolve(&self, query: &Query) -> Result<Option<Lease>> {
        match self.enter("resolve", &format!("{:?}", query.purpose)).await {
            Some(Act::Refuse(code, outcome)) => Err(error(code, outcome)),
            Some(Act::Stall | Act::DoThenStall) => std::future::pending().await,
            Some(Act::OtherLease) => {
                Ok(Some(lease(&LeaseId::mint([9; 6]), "other", &BTreeMap::new())))
            }
            _ => {
                let host = self.host.iter().find(|h| h.lease_id.as_str() == query.id).cloned();
                let id = LeaseId::parse(&query.id).unwrap();
                Ok(host.or_else(|| self.boxes.borrow().get(&id).cloned()))
            }
        }
    }

    async fn list(&self) -> Result<(Vec<Lease>, bool)> {
        match self.enter("list", "").await {
            Some(Act::Refuse(code, outcome)) => Err(error(code, outcome)),
            Some(Act::Stall) => std::future::pending().await,
            _ => Ok((self.boxes.borrow().values().cloned().collect(), true)),
        }
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome> {
        let act = self.enter("release", "").await;
        match act {
            Some(Act::Refuse(code, outcome)) => return Err(error(code, outcome)),
            Some(Act::Pending) => return Ok(ReleaseOutcome::Pending),
            _ => {}
        }
        if self.host.as_ref() == Some(lease) {
            return Ok(ReleaseOutcome::Retained);
        }
        let was_there = self.boxes.borrow_mut().remove(&lease.lease_id).is_some();
        yield_now().await;
        match act {
            Some(Act::DoThenFail(code, outcome)) => Err(error(code, Some(outcome))),
            _ if was_there => Ok(ReleaseOutcome::Released),
            _ => Ok(ReleaseOutcome::AlreadyGone),
        }
    }

    async fn touch(&self, lease: &Lease, state: &str) -> Result<Lease> {
        match self.enter("touch", state).await {
            Some(Act::Refuse(code, outcome)) => Err(error(code, outcome)),
            Some(Act::Stall) => std::future::pending().await,
            _ => Ok(lease.clone()),
        }
    }

    async fn doctor(&self) -> Result<Vec<Check>> {
        Ok(Vec::new())
    }

    async fn run(
        &self,
        run: &DelegatedRun,
        _: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<RunStartResult> {
        self.enter("run", &run.command.join(" ")).await;
        let answer = self.answer.borrow().clone();
        match answer {
            Some(answer) => answer,
            None => Err(cancelled(stop, Outcome::Completed).await),
        }
    }
}

/// A user's state directory, a provider, a box and time.
pub(crate) struct Room {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) state: State,
    pub(crate) toy: Toy,
    pub(crate) shell: Shell,
    pub(crate) time: Time,
    pub(crate) binaries: Binaries,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self::of(ProviderKind::SshLease)
    }

    pub(crate) fn of(kind: ProviderKind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = State { root: dir.path().join("state"), config: dir.path().join("config") };
        state.prepare().unwrap();
        let shell = Shell::new(dir.path().join("box"));
        let time = Time { start: Instant::now(), wall_ms: Cell::new(1_778_148_251_000) };
        let mut toy = Toy::new(kind);
        toy.work_root = Some(shell.home.join("work").to_str().unwrap().to_owned());
        Self { dir, state, toy, shell, time, binaries: Binaries::none() }
    }

    /// The same, with a host that has an id of its own.
    pub(crate) fn with_host() -> Self {
        let mut room = Self::new();
        let id = LeaseId::parse("static_buildhost").unwrap();
        room.toy.host = Some(lease(&id, "buildhost", &BTreeMap::new()));
        room.toy.about.features = vec!["own-lease-ids".into()];
        room
    }

    pub(crate) fn bench(&self) -> Bench<'_, Toy, Shell, Time> {
        Bench {
            provider: &self.toy,
            dialer: &self.shell,
            clock: &self.time,
            state: &self.state,
            network: Default::default(),
            binaries: &self.binaries,
        }
    }

    /// Leases, works, gives back or keeps for the reason given.
    pub(crate) async fn lease<T>(
        &self,
        ask: &Ask,
        stop: &Stop,
        keep: Option<&str>,
        work: impl AsyncFnOnce(&Held, &mut dyn EventSink) -> Result<T>,
    ) -> (Result<(Result<T>, Fate)>, Vec<Event>) {
        let mut events = Vec::new();
        let why = |_: &Result<T>| keep.map(str::to_owned);
        let done = with_lease(&self.bench(), ask, checkout(), &mut events, stop, why, work).await;
        (done, events)
    }

    /// A box that was leased and kept by an earlier command.
    pub(crate) async fn kept(&self) -> Lease {
        let (done, _) = self
            .lease(&one_shot(), &Stop::never(), Some("warm"), async |held, _| {
                Ok(held.lease.clone())
            })
            .await;
        let (lease, fate) = done.unwrap();
        assert_eq!(fate, Fate::Kept);
        lease.unwrap()
    }

    /// Everything local that belongs to leases: `journal/…`, `claims/…`, `keys/…`.
    pub(crate) fn traces(&self) -> Vec<String> {
        let places = [
            ("journal", self.state.journal()),
            ("claims", self.state.claims()),
            ("keys", self.state.config.join("testboxes")),
        ];
        let mut found = Vec::new();
        for (word, dir) in places {
            for entry in std::fs::read_dir(dir).into_iter().flatten() {
                found.push(format!("{word}/{}", entry.unwrap().file_name().to_string_lossy()));
            }
        }
        found.sort();
        found
    }
}

/// The checkout the tests stand in.
pub(crate) fn checkout() -> PathBuf {
    Path::new("/src/app").to_owned()
}

pub(crate) fn new_lease() -> NewLease {
    let request = BoxRequest { ttl_secs: 5400, idle_timeout_secs: 60, ..BoxRequest::default() };
    let login = Login { user: "crabbox".to_owned(), ports: vec![2222, 22] };
    let profile = "default".to_owned();
    NewLease { request, profile, slug: None, reclaim: false, login, tailnet: None }
}

pub(crate) fn one_shot() -> Ask {
    Ask::New(new_lease())
}

pub(crate) fn existing(name: &str) -> Ask {
    Ask::Existing { name: name.into(), reclaim: false }
}

/// The warnings among the events.
pub(crate) fn warnings(events: &[Event]) -> Vec<String> {
    let texts = events.iter().filter_map(|event| match event {
        Event::Warning { message } => Some(message.clone()),
        _ => None,
    });
    texts.collect()
}
