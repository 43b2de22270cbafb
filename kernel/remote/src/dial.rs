//! Dialling: hop by hop and stage by stage, again and again until the box is ready or patience runs out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crabbox_kernel::bootstrap::NEVER_READY;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Event;
use crabbox_kernel::ports::{
    Address, Dialer, EventSink, HostKey, Piece, ProcessOutput, Remote, Stop, Urgency,
};
use crabbox_schemas::error::ErrorCode;
use tokio::time::{Instant, sleep, timeout};

use crate::hop::{Hop, UserSsh, route};
use crate::identity::Wallet;
use crate::keypair;
use crate::mux::{Master, Shunned, candidates};
use crate::process::{SshInput, SshOutput};
use crate::proxy;
use crate::race::{Fault, connect};
use crate::remote::SshRemote;
use crate::session::{Line, LinkError, Own, Timing, shake_hands};
use crate::wire::{Below, Leash};

/// Between the first and the second attempt; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Never longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Nor than this where asking costs the box next to nothing and every moment counts.
const LONGEST_KNOCK: Duration = Duration::from_millis(250);
/// What every stage gets even when patience has run out.
const LEAST: Duration = Duration::from_secs(1);
/// How much of a ready check's output is kept for the message.
const SAID: usize = 4096;

/// Opens connections to boxes.
pub struct SshDialer {
    caller: Arc<Caller>,
    sharing: Sharing,
}

/// When a connection that the user's OpenSSH shares is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Where there is one.
    First,
    /// Where we cannot connect by ourselves.
    Last,
}

impl SshDialer {
    /// A dialer with the user's own SSH facts and the default timing.
    pub fn new(user: UserSsh) -> Self {
        Self::with_timing(user, Timing::default())
    }

    /// A dialer with other limits.
    pub fn with_timing(user: UserSsh, timing: Timing) -> Self {
        let wallet = Wallet::new(user.ask.clone());
        let caller = Caller { wallet, user, timing, shunned: Shunned::default() };
        Self { caller: Arc::new(caller), sharing: Sharing::First }
    }

    /// The same for connections that are kept: our own are better then, and OpenSSH's are for where a log-in or
    /// the way needs more than we have.
    pub fn for_keeping(self) -> Self {
        Self { sharing: Sharing::Last, ..self }
    }

    /// A connection that OpenSSH shares, if there is one to this box.
    async fn shared(&self, address: &Address, events: &mut dyn EventSink) -> Option<SshRemote> {
        let Caller { user, timing, shunned, .. } = &*self.caller;
        let named = candidates(address, user)?;
        let mut debug = |message| events.emit(Event::Debug { message });
        let master = match Master::find(&named.sockets, timing, shunned).await {
            Ok(master) => master,
            Err(why) => {
                debug(format!("OpenSSH shares no connection to {}: {why}", named.peer));
                return None;
            }
        };
        let (pid, path) = (master.pid, master.path.display());
        debug(format!("transport: the connection that OpenSSH shares (process {pid}, {path})"));
        let again = Again { caller: self.caller.clone(), address: address.clone() };
        let remote = SshRemote::shared(master, named.peer, again);
        match ready_check(address) {
            Some(check) => ready(remote.start(check, None), timing.reply)
                .await
                .inspect_err(|fault| debug(fault.error.to_string()))
                .is_ok()
                .then_some(remote),
            None => Some(remote),
        }
    }
}

/// Connects by itself, hop by hop.
pub(crate) struct Caller {
    user: UserSsh,
    wallet: Wallet,
    pub(crate) timing: Timing,
    pub(crate) shunned: Shunned,
}

/// A box to be called again.
pub(crate) struct Again {
    pub(crate) caller: Arc<Caller>,
    pub(crate) address: Address,
}

fn ready_check(address: &Address) -> Option<&str> {
    address.endpoint.ready_check.as_deref().filter(|check| !check.trim().is_empty())
}

impl Caller {
    /// Connects hop by hop.
    async fn reach(&self, route: &[Hop], deadline: Instant) -> Result<Own, Fault> {
        let mut lines: Vec<Line> = Vec::new();
        let (mut peer, mut dir) = (String::new(), PathBuf::new());
        for hop in route {
            let timing = self.timing_before(deadline);
            let (mut line, leash, port) = match (lines.last(), &hop.program) {
                (Some(last), _) => through(last, hop, &timing).await?,
                (None, Some(program)) => self.by_program(program, hop, &timing).await?,
                (None, None) => first(hop, &timing).await?,
            };
            peer = format!("{}:{port}", hop.host);
            self.wallet.log_in(&mut line, &hop.login, &peer, timing.auth).await?;
            leash.loose();
            lines.push(line);
            dir = hop.trust.pins.parent().map(Path::to_owned).unwrap_or_default();
        }
        let line = lines.pop().ok_or_else(|| {
            Fault::new(
                "dns",
                KernelError::new(ErrorCode::Internal, "no way to the box was planned"),
            )
            .final_()
        })?;
        Ok(Own::new(line, lines, peer, self.timing.clone(), dir))
    }

    /// The first hop, where a program of the user's leads to it.
    async fn by_program(
        &self,
        program: &str,
        hop: &Hop,
        timing: &Timing,
    ) -> Result<(Line, Leash, u16), Fault> {
        let fault = |mut error: KernelError, more: Option<String>| {
            error.causes.extend(more);
            let hint = "run it by hand: it must carry a connection on its standard streams";
            Fault::new("proxy", KernelError { stage: None, ..error }.hint(hint))
        };
        let what = || {
            let what = format!("ProxyCommand {program:?} of the SSH configuration leads nowhere");
            KernelError::new(ErrorCode::SshTcp, what)
        };
        let (piped, said) = proxy::start(program, &self.user.env)
            .map_err(|e| fault(what().because(&e), None).final_())?;
        match greet(piped, 0, hop, hop.ports[0], timing).await {
            Ok((line, leash)) => Ok((line, leash, hop.ports[0])),
            Err(wrong) if wrong.stage == "banner" => {
                let causes = wrong.error.causes;
                Err(fault(KernelError { causes, ..what() }, said.last().await))
            }
            Err(wrong) => Err(wrong),
        }
    }

    /// Stages get shorter as patience runs out.
    fn timing_before(&self, deadline: Instant) -> Timing {
        let left = deadline.saturating_duration_since(Instant::now()).max(LEAST);
        Timing { connect: self.timing.connect.min(left), ..self.timing.clone() }
    }

    async fn attempt(
        &self,
        route: &[Hop],
        check: Option<&str>,
        deadline: Instant,
        open: &mut Option<Own>,
    ) -> Result<(), Fault> {
        if open.as_ref().is_none_or(Own::is_closed) {
            *open = None;
            *open = Some(self.reach(route, deadline).await?);
        }
        match (open, check) {
            (Some(own), Some(check)) => ready(own.start(check, None), self.timing.reply).await,
            _ => Ok(()),
        }
    }

    /// Connects, and tries again until the box is ready or patience is over.
    pub(crate) async fn call(
        &self,
        address: &Address,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<Own> {
        let route = route(address, &self.user)?;
        let check = ready_check(address);
        let deadline = Instant::now() + address.patience;
        let mut pause = FIRST_PAUSE;
        let mut shown = None;
        let mut open = None;
        loop {
            let tried = tokio::select! {
                tried = self.attempt(&route, check, deadline, &mut open) => tried,
                () = stop.reaches(Urgency::Gentle) => return Err(cancelled()),
            };
            let fault = match (tried, open.take()) {
                (Ok(()), Some(remote)) => return Ok(remote),
                (Ok(()), None) => continue,
                (Err(fault), kept) => {
                    open = kept;
                    fault
                }
            };
            if !fault.again || Instant::now() + pause > deadline {
                return Err(fault.error);
            }
            if shown != Some(fault.stage) {
                shown = Some(fault.stage);
                let message = fault.error.to_string();
                events.emit(Event::BootstrapWaiting { stage: fault.stage.to_owned(), message });
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.reaches(Urgency::Gentle) => return Err(cancelled()),
            }
            // Servers punish who fails to log in again and again, and programs on the way cost more than a knock.
            let costs = matches!(fault.stage, "auth" | "proxy");
            let longest = if costs { LONGEST_PAUSE } else { LONGEST_KNOCK };
            pause = (pause * 2).min(longest);
        }
    }
}

impl Dialer for SshDialer {
    type Remote = SshRemote;

    fn key_pair(&self, dir: &Path, comment: &str) -> Result<String> {
        keypair::make(dir, comment)
    }

    fn host_key(&self, comment: &str) -> Result<HostKey> {
        keypair::host_key(comment)
    }

    async fn dial(
        &self,
        address: &Address,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<SshRemote> {
        if self.sharing == Sharing::First
            && let Some(remote) = Box::pin(self.shared(address, events)).await
        {
            return Ok(remote);
        }
        match self.caller.call(address, events, stop).await {
            Ok(own) => Ok(SshRemote::own(own)),
            Err(error) if self.sharing == Sharing::Last && error.code != ErrorCode::Cancelled => {
                Box::pin(self.shared(address, events)).await.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }
}

fn cancelled() -> KernelError {
    KernelError::new(ErrorCode::Cancelled, "interrupted while connecting").at("connect")
}

async fn first(hop: &Hop, timing: &Timing) -> Result<(Line, Leash, u16), Fault> {
    let won = connect(&hop.host, &hop.ports, timing.connect).await?;
    let (line, leash) = greet(won.tcp, won.greeted, hop, won.port, timing).await?;
    Ok((line, leash, won.port))
}

/// The next hop as seen from the last one: its ports are tried one after the other.
async fn through(last: &Line, hop: &Hop, timing: &Timing) -> Result<(Line, Leash, u16), Fault> {
    let mut fault = None;
    for port in &hop.ports {
        match last.open_tcp(&hop.host, *port, timing.connect).await {
            Ok(channel) => match greet(channel.into_stream(), 0, hop, *port, timing).await {
                Ok((line, leash)) => return Ok((line, leash, *port)),
                Err(error) if !error.again => return Err(error),
                Err(error) => fault = Some(error),
            },
            Err(error) => {
                let error =
                    KernelError { code: ErrorCode::SshTcp, stage: None, outcome: None, ..error };
                fault.get_or_insert(Fault::new("tcp", error));
            }
        }
    }
    Err(fault.unwrap_or_else(|| {
        Fault::new("tcp", KernelError::new(ErrorCode::SshTcp, "no port to try"))
    }))
}

async fn greet<S: Below>(
    stream: S,
    greeted: usize,
    hop: &Hop,
    port: u16,
    timing: &Timing,
) -> Result<(Line, Leash), Fault> {
    let mut trust = hop.trust.clone();
    trust.port = port;
    let mut error = KernelError::new(
        ErrorCode::SshBanner,
        format!("no SSH handshake with {} port {port}", hop.host),
    );
    match timeout(timing.connect, shake_hands(stream, greeted, trust, timing)).await {
        Ok(Ok(line)) => Ok(line),
        Ok(Err(LinkError::HostKey(error))) => Err(Fault::new("host-key", error).final_()),
        Ok(Err(LinkError::Ssh(cause @ russh::Error::NoCommonAlgo { .. }))) => {
            let error = error
                .because(&cause)
                .hint("the server only offers algorithms that are no longer safe");
            Err(Fault::new("banner", error).final_())
        }
        Ok(Err(LinkError::Ssh(cause))) => Err(Fault::new("banner", error.because(&cause))),
        Err(_) => {
            error
                .causes
                .push(format!("no answer within {} s", timing.connect.as_secs_f32().round()));
            Err(Fault::new(
                "banner",
                error.hint("the server accepted the connection and then said nothing"),
            ))
        }
    }
}

/// Waits for the ready check that is being started.
async fn ready(
    starting: impl Future<Output = Result<(SshInput, SshOutput)>>,
    limit: Duration,
) -> Result<(), Fault> {
    let run = async {
        let (_input, mut output) = starting.await?;
        let mut said = Vec::new();
        loop {
            match output.next().await? {
                Piece::Data(_, data) if said.len() < SAID => said.extend_from_slice(&data),
                Piece::Data(..) => {}
                Piece::Exited(exit) => return Ok::<_, KernelError>((exit.code, said)),
            }
        }
    };
    let fault = |mut error: KernelError, cause: Option<String>| {
        error.causes.extend(cause);
        Fault::new(
            "ready",
            error.hint("log in with `crabbox connect` and look at the box's own start-up log"),
        )
    };
    let not_ready = |what: String| KernelError::new(ErrorCode::SshReady, what);
    match timeout(limit, run).await {
        Ok(Ok((0, _))) => Ok(()),
        Ok(Ok((code, said))) => {
            let said = String::from_utf8_lossy(&said);
            let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
            let fault = fault(
                not_ready(format!("the box is not ready: its check ended with {code}")),
                last.map(str::to_owned),
            );
            Err(if code == NEVER_READY { fault.final_() } else { fault })
        }
        Ok(Err(error)) => Err(fault(
            not_ready("the ready check could not be run".to_owned()),
            Some(error.to_string()),
        )),
        Err(_) => Err(fault(
            not_ready(format!("the ready check took longer than {} s", limit.as_secs())),
            None,
        )),
    }
}
