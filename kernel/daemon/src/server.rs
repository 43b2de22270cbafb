//! The daemon itself: one on a place, for its own user only, gone when nobody needs it.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;
use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Event;
use crabbox_kernel::helper::Binaries;
use crabbox_kernel::ports::{Address, Clock, Dialer, EventSink, Pty, Remote, Stop, Urgency};
use crabbox_kernel::state::failed;
use crabbox_schemas::daemon::{
    ChangesParams, DaemonView, DialParams, Dialled, Dialling, Hello, HelperKept, HelperParams,
    Scanned, StartParams, method, note,
};
use crabbox_schemas::error::ErrorCode;
use crabbox_wire::{Frame, Id};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::carry::carry;
use crate::keeper::{Keeper, Starter, Use};
use crate::line::{Reader, Writer, path, split, typed};
use crate::place::Place;
use crate::watches::Watches;

/// A daemon that keeps nothing ends after this time.
const EMPTY: Duration = Duration::from_secs(300);

/// What a daemon is made of.
#[derive(Debug)]
pub struct Server<D, C> {
    /// Where it listens.
    pub place: Place,
    /// The program it was started from.
    pub build: String,
    /// How long a connection, and the daemon itself, may be unused.
    pub idle: Duration,
    /// Opens the connections it keeps.
    pub dialer: D,
    /// The helpers it starts on them.
    pub binaries: Binaries,
    /// Time.
    pub clock: C,
}

/// Serves until told to stop or not needed any more; at once when there is a daemon here already.
pub async fn serve<D, C>(server: Server<D, C>, stop: &Stop) -> Result<()>
where
    D: Dialer + 'static,
    D::Remote: 'static,
    C: Clock + 'static,
{
    let Server { place, build, idle, dialer, binaries, clock } = server;
    let Some(lock) = place.own()? else { return Ok(()) };
    let listener = listen(&place).map_err(|e| failed("cannot listen on", &place.socket, &e))?;
    let house = Rc::new(House {
        keeper: Keeper::new(dialer),
        starter: Starter { binaries, clock },
        watches: Watches::default(),
        build,
        idle,
        socket: place.socket.to_string_lossy().into_owned(),
        started: Instant::now(),
        used: Cell::new(Instant::now()),
        clients: Cell::new(0),
        end: Cell::new(End::No),
        changed: Notify::new(),
    });
    LocalSet::new()
        .run_until(async {
            let retired = house.receive(listener, stop).await;
            let _ = fs::remove_file(&place.socket);
            drop(lock);
            if retired {
                house.finish(stop).await;
            }
        })
        .await;
    Ok(())
}

fn listen(place: &Place) -> io::Result<UnixListener> {
    match fs::remove_file(&place.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&place.socket)?;
    fs::set_permissions(&place.socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Whether somebody asked for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    No,
    /// When the clients of now have left.
    Later,
    Now,
}

struct House<D: Dialer, C> {
    keeper: Keeper<D>,
    starter: Starter<C>,
    watches: Watches,
    build: String,
    idle: Duration,
    socket: String,
    started: Instant,
    used: Cell<Instant>,
    clients: Cell<u32>,
    end: Cell<End>,
    /// Something of the above did.
    changed: Notify,
}

/// What becomes of a client's connection after a request.
enum Next {
    Request,
    Close,
}

impl<D, C> House<D, C>
where
    D: Dialer + 'static,
    D::Remote: 'static,
    C: Clock + 'static,
{
    /// Lets clients in until it is time to end; true when those inside may finish.
    async fn receive(self: &Rc<Self>, listener: UnixListener, stop: &Stop) -> bool {
        while self.end.get() == End::No && !self.is_idle() {
            tokio::select! {
                came = listener.accept() => match came {
                    Ok((stream, _)) => self.welcome(stream),
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                () = self.changed.notified() => {}
                () = stop.reaches(Urgency::Gentle) => return false,
                () = sleep(self.round()) => {
                    self.keeper.tidy(self.idle);
                    self.watches.tidy(self.idle);
                }
            }
        }
        self.end.get() == End::Later
    }

    /// Waits for the clients that are still there.
    async fn finish(&self, stop: &Stop) {
        while self.clients.get() > 0 && self.end.get() != End::Now {
            tokio::select! {
                () = self.changed.notified() => {}
                () = stop.reaches(Urgency::Gentle) => return,
            }
        }
    }

    /// How often to look for what is not used any more.
    fn round(&self) -> Duration {
        (self.idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(60))
    }

    fn is_idle(&self) -> bool {
        let holds = self.keeper.holds_any() || self.watches.holds_any();
        let limit = if holds { self.idle } else { self.idle.min(EMPTY) };
        self.clients.get() == 0 && self.used.get().elapsed() >= limit
    }

    /// Serves a client if it is the same user.
    fn welcome(self: &Rc<Self>, stream: UnixStream) {
        let ours =
            stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw());
        if !ours {
            tracing::debug!("a stranger was turned away");
            return;
        }
        let house = Rc::clone(self);
        house.clients.set(house.clients.get() + 1);
        spawn_local(async move {
            let (from, to) = split(stream);
            if let Err(error) = house.serve(from, to).await {
                tracing::debug!(%error, "a client left");
            }
            house.clients.set(house.clients.get() - 1);
            house.used.set(Instant::now());
            house.changed.notify_one();
        });
    }

    async fn serve(&self, mut from: Reader, mut to: Writer) -> io::Result<()> {
        let hello = Hello { build: self.build.clone(), pid: std::process::id() };
        to.note(note::HELLO, &hello).await?;
        let mut held = Vec::new();
        loop {
            let (id, method, params) = match from.frame().await? {
                Frame::Request { id, method, params } => (id, method, params),
                Frame::Notification { method, params } if method == note::SCANNED => {
                    let Scanned { root, token } = typed(params)?;
                    self.watches.scanned(&path(root)?, token);
                    continue;
                }
                _ => return Ok(()),
            };
            match method.as_str() {
                method::START => return self.start(id, typed(params)?, from, to).await,
                method::HELPER => return self.helper(id, typed(params)?, from, to).await,
                method::DIAL => match self.dial(typed(params)?, &mut from, &mut to).await? {
                    Ok((using, dialled)) => {
                        held.push(using);
                        to.answer(id, Ok(dialled)).await?;
                    }
                    Err(error) => to.answer::<Value>(id, Err(error)).await?,
                },
                other => match self.simple(id, other, params, &mut to).await? {
                    Next::Request => {}
                    Next::Close => return Ok(()),
                },
            }
        }
    }

    /// Requests that need nothing but an answer.
    async fn simple(
        &self,
        id: Id,
        asked: &str,
        params: Value,
        to: &mut Writer,
    ) -> io::Result<Next> {
        match asked {
            method::STATUS => {
                self.keeper.tidy(self.idle);
                to.answer(id, Ok(self.view())).await?;
            }
            method::PING => to.answer(id, Ok(json!({}))).await?,
            method::CHANGES => {
                let ChangesParams { root } = typed(params)?;
                to.answer(id, Ok(self.watches.changes(path(root)?))).await?;
            }
            method::RETIRE | method::STOP => {
                // Whoever asked may be gone already.
                let _ = to.answer(id, Ok(json!({}))).await;
                self.end.set(if asked == method::STOP { End::Now } else { End::Later });
                self.changed.notify_one();
                return Ok(Next::Close);
            }
            other => {
                let what = format!("the daemon knows no {other}");
                let unknown = KernelError::new(ErrorCode::Unsupported, what);
                to.answer::<Value>(id, Err(unknown)).await?;
            }
        }
        Ok(Next::Request)
    }

    /// Dials, and gives up when the client does.
    async fn dial(
        &self,
        params: DialParams,
        from: &mut Reader,
        to: &mut Writer,
    ) -> io::Result<Result<(Use<D::Remote>, Dialled)>> {
        let address = Address {
            endpoint: params.endpoint,
            key: path(params.key)?,
            known_hosts: path(params.known_hosts)?,
            patience: Duration::from_millis(params.patience_ms),
        };
        let (events, mut heard) = mpsc::unbounded_channel();
        let mut events = Told(events);
        let dialling = self.keeper.dial(&address, &mut events);
        tokio::pin!(dialling);
        loop {
            tokio::select! {
                biased;
                Some(event) = heard.recv() => to.note(note::DIALLING, &event).await?,
                dialled = &mut dialling => {
                    return Ok(dialled.map(|using| {
                        let dialled = Dialled { connection: using.0.id, peer: using.0.peer() };
                        (using, dialled)
                    }));
                }
                gone = from.next() => {
                    gone?;
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }

    async fn start(
        &self,
        id: Id,
        params: StartParams,
        from: Reader,
        mut to: Writer,
    ) -> io::Result<()> {
        let pty =
            params.pty.map(|pty| Pty { term: pty.term, columns: pty.columns, rows: pty.rows });
        let started = async {
            let using = self.keeper.find(params.connection)?;
            let remote = using.0.remote().await?;
            let halves = remote.start(&params.command, pty.as_ref()).await;
            halves.map(|halves| (using, halves))
        };
        match started.await {
            Ok((_using, (input, output))) => {
                to.answer(id, Ok(json!({}))).await?;
                carry(input, output, from, to).await;
                Ok(())
            }
            Err(error) => {
                self.doubt(params.connection, &error);
                to.answer::<Value>(id, Err(error)).await
            }
        }
    }

    async fn helper(
        &self,
        id: Id,
        params: HelperParams,
        from: Reader,
        mut to: Writer,
    ) -> io::Result<()> {
        let opened = async {
            let using = self.keeper.find(params.connection)?;
            let switch = using.0.helper(&self.starter, &params.work_root).await?;
            Ok((using, switch))
        };
        match opened.await {
            Ok((_using, Some(switch))) => {
                to.answer(id, Ok(HelperKept { kept: true })).await?;
                switch.serve(from, to).await;
                if switch.is_over() {
                    self.keeper.forget(params.connection);
                }
                Ok(())
            }
            Ok((_, None)) => to.answer(id, Ok(HelperKept { kept: false })).await,
            Err(error) => {
                self.doubt(params.connection, &error);
                to.answer::<Value>(id, Err(error)).await
            }
        }
    }

    /// A connection that broke is not given to anybody again.
    fn doubt(&self, connection: u64, error: &KernelError) {
        if error.code == ErrorCode::ConnectionLost {
            self.keeper.forget(connection);
        }
    }

    fn view(&self) -> DaemonView {
        DaemonView {
            schema_version: crabbox_schemas::SCHEMA_VERSION,
            running: true,
            socket: self.socket.clone(),
            pid: Some(std::process::id()),
            build: Some(self.build.clone()),
            uptime_secs: self.started.elapsed().as_secs(),
            memory_bytes: memory(),
            connections: self.keeper.view(),
            watched: self.watches.view(),
        }
    }
}

/// Bytes of memory this process holds, where the system says so.
fn memory() -> u64 {
    let facts = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = facts.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Passes on what happens while dialling.
struct Told(mpsc::UnboundedSender<Dialling>);

impl EventSink for Told {
    fn emit(&mut self, event: Event) {
        let told = match event {
            Event::BootstrapWaiting { stage, message } => Dialling { stage: Some(stage), message },
            Event::Debug { message } | Event::Warning { message } => {
                Dialling { stage: None, message }
            }
            _ => return,
        };
        let _ = self.0.send(told);
    }
}
