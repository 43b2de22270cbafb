//! What is kept: one connection an address, one helper a connection, opened when somebody asks and never twice at once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::helper::{Binaries, Brought, bring};
use crabbox_kernel::ports::{Address, Clock, Dialer, EventSink, Remote, Stop};
use crabbox_schemas::daemon::KeptView;
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::lease::SshEndpoint;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::switch::Switch;

/// A sleep that connections survive: less than the rounding of its measure and a keep-alive.
const NAP: Duration = Duration::from_secs(10);

/// What it takes to start a helper on a box.
pub(crate) struct Starter<C> {
    pub(crate) binaries: Binaries,
    pub(crate) clock: C,
}

/// Everything kept.
pub(crate) struct Keeper<D: Dialer> {
    dialer: D,
    kept: RefCell<Vec<Rc<Kept<D::Remote>>>>,
    ids: Cell<u64>,
}

/// One address, and the connection to it once there is one.
pub(crate) struct Kept<R: Remote> {
    pub(crate) id: u64,
    address: Address,
    /// Held while it is opened, so that others wait for the same one.
    remote: Mutex<Option<Rc<R>>>,
    peer: RefCell<String>,
    helper: Mutex<Option<Rc<Switch>>>,
    has_helper: Cell<bool>,
    clients: Cell<u32>,
    used: Cell<Instant>,
    /// How long this machine had slept when it was opened.
    slept: Cell<Duration>,
}

/// Somebody uses a kept connection for as long as they hold this.
pub(crate) struct Use<R: Remote>(pub(crate) Rc<Kept<R>>);

impl<R: Remote> Use<R> {
    fn of(kept: &Rc<Kept<R>>) -> Self {
        kept.clients.set(kept.clients.get() + 1);
        Self(Rc::clone(kept))
    }
}

impl<R: Remote> Drop for Use<R> {
    fn drop(&mut self) {
        self.0.clients.set(self.0.clients.get() - 1);
        self.0.used.set(Instant::now());
    }
}

impl<D: Dialer> Keeper<D> {
    pub(crate) fn new(dialer: D) -> Self {
        Self { dialer, kept: RefCell::default(), ids: Cell::new(0) }
    }

    /// The connection to an address: the kept one, the one somebody else is just opening, or a new one.
    pub(crate) async fn dial(
        &self,
        address: &Address,
        events: &mut dyn EventSink,
    ) -> Result<Use<D::Remote>> {
        let kept = self.entry(address);
        let using = Use::of(&kept);
        let mut remote = kept.remote.lock().await;
        if remote.is_none() {
            kept.slept.set(slept());
            let dialled = self.dialer.dial(address, events, &Stop::never()).await;
            let opened = dialled.inspect_err(|_| self.forget_unused(&kept))?;
            opened.peer().clone_into(&mut kept.peer.borrow_mut());
            *remote = Some(Rc::new(opened));
        }
        drop(remote);
        Ok(using)
    }

    fn entry(&self, address: &Address) -> Rc<Kept<D::Remote>> {
        let mut all = self.kept.borrow_mut();
        all.retain(|kept| !same(&kept.address, address) || kept.seems_alive());
        if let Some(found) = all.iter().find(|kept| same(&kept.address, address)) {
            return Rc::clone(found);
        }
        self.ids.set(self.ids.get() + 1);
        let kept = Rc::new(Kept {
            id: self.ids.get(),
            address: address.clone(),
            remote: Mutex::new(None),
            peer: RefCell::default(),
            helper: Mutex::new(None),
            has_helper: Cell::new(false),
            clients: Cell::new(0),
            used: Cell::new(Instant::now()),
            slept: Cell::new(slept()),
        });
        all.push(Rc::clone(&kept));
        kept
    }

    /// The connection a client was told of; it may be gone by now.
    pub(crate) fn find(&self, id: u64) -> Result<Use<D::Remote>> {
        let found = self.kept.borrow().iter().find(|kept| kept.id == id).map(Use::of);
        found.ok_or_else(|| {
            KernelError::new(ErrorCode::ConnectionLost, "the connection to the box broke")
                .at("connection")
                .outcome(Outcome::NotStarted)
        })
    }

    /// Nobody gets this connection any more; who uses it now sees its end by themselves.
    pub(crate) fn forget(&self, id: u64) {
        self.kept.borrow_mut().retain(|kept| kept.id != id);
    }

    fn forget_unused(&self, kept: &Rc<Kept<D::Remote>>) {
        if kept.clients.get() <= 1 {
            self.forget(kept.id);
        }
    }

    /// Lets go of connections that nobody used for this long, or whose lease's keys are gone.
    pub(crate) fn tidy(&self, idle: Duration) {
        self.kept.borrow_mut().retain(|kept| {
            let folder = kept.address.known_hosts.parent();
            let idle = kept.used.get().elapsed() >= idle || folder.is_some_and(|dir| !dir.exists());
            kept.clients.get() > 0 || !idle
        });
    }

    /// Whether a connection is kept.
    pub(crate) fn holds_any(&self) -> bool {
        !self.kept.borrow().is_empty()
    }

    /// What is kept, for people.
    pub(crate) fn view(&self) -> Vec<KeptView> {
        self.kept.borrow().iter().map(|kept| kept.view()).collect()
    }
}

/// Patience, and what is asked of a new box, are matters of the one who dials, not of the place.
fn same(one: &Address, other: &Address) -> bool {
    let plain = |endpoint: &SshEndpoint| SshEndpoint { ready_check: None, ..endpoint.clone() };
    (&one.key, &one.known_hosts) == (&other.key, &other.known_hosts)
        && plain(&one.endpoint) == plain(&other.endpoint)
}

/// How long this machine has slept since it started: by then the other side may have given us up.
fn slept() -> Duration {
    #[cfg(target_os = "linux")]
    {
        use rustix::time::{ClockId, clock_gettime};
        let awake = clock_gettime(ClockId::Monotonic);
        let all = clock_gettime(ClockId::Boottime);
        let secs = all.tv_sec.saturating_sub(awake.tv_sec);
        Duration::from_secs(u64::try_from(secs).unwrap_or_default())
    }
    #[cfg(not(target_os = "linux"))]
    Duration::ZERO
}

impl<R: Remote> Kept<R> {
    /// The open connection.
    pub(crate) async fn remote(&self) -> Result<Rc<R>> {
        let remote = self.remote.lock().await;
        remote.clone().ok_or_else(|| {
            KernelError::new(ErrorCode::Internal, "a connection was used before it was open")
        })
    }

    /// The host and port that answered.
    pub(crate) fn peer(&self) -> String {
        self.peer.borrow().clone()
    }

    /// Whether nothing speaks against its being used again. One that is just being opened is.
    fn seems_alive(&self) -> bool {
        let Ok(remote) = self.remote.try_lock() else { return true };
        let Ok(helper) = self.helper.try_lock() else { return true };
        let open = remote.as_ref().is_none_or(|remote| !remote.is_closed());
        let answers = helper.as_ref().is_none_or(|switch| !switch.is_over());
        open && answers && slept() < self.slept.get() + NAP
    }

    fn view(&self) -> KeptView {
        let folder = self.address.known_hosts.parent().and_then(|dir| dir.file_name());
        KeptView {
            peer: self.peer(),
            lease: folder.unwrap_or_default().to_string_lossy().into_owned(),
            clients: self.clients.get(),
            helper: self.has_helper.get(),
            idle_secs: self.used.get().elapsed().as_secs(),
        }
    }
}

impl<R: Remote + 'static> Kept<R> {
    /// The helper at its other end, started if there is none; `None` where none can run.
    pub(crate) async fn helper(
        &self,
        starter: &Starter<impl Clock>,
        work_root: &str,
    ) -> Result<Option<Rc<Switch>>> {
        let mut helper = self.helper.lock().await;
        if let Some(switch) = helper.as_ref().filter(|switch| !switch.is_over()) {
            return Ok(Some(Rc::clone(switch)));
        }
        let remote = self.remote().await?;
        let Starter { binaries, clock } = starter;
        *helper = match bring(&*remote, binaries, work_root, clock, &mut Vec::new()).await? {
            Brought::Running(running) => Some(Switch::over(running).await?),
            Brought::Nothing { why } => {
                tracing::debug!(why, "no helper");
                None
            }
        };
        self.has_helper.set(helper.is_some());
        Ok(helper.clone())
    }
}
