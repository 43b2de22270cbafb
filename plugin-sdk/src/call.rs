//! One open call: its bounds, the wish to stop it, and everything the host does on its behalf.

use std::time::{Duration, Instant};

use crabbox_schemas::error::{ErrorKind, Outcome, Resource};
use crabbox_schemas::plugin::{
    AttemptEvent, CallContext, KvParams, KvResult, LogEvent, ProgressEvent, PromptParams,
    ResourceParams, SecretParams, SleepParams,
};
use crabbox_wire::payload;

use crate::Failure;
use crate::doors::{
    Ask, Door, Event, Forget, KvDelete, KvGet, KvList, KvPut, Record, Reveal, Sleep,
};
use crate::host::Host;

/// How long a single wait may be at most, so that sums of instants cannot overflow.
const LONGEST: u64 = 10 * 365 * 24 * 3600 * 1000;

/// How often something is done again because the far side wanted to be asked later, and the longest wait for that, in
/// milliseconds.
const AGAIN: usize = 2;
const PATIENCE: u64 = 60_000;

/// One open call of the kernel, and the way to ask the host for things while it is open.
///
/// Callbacks block until the host answers; they fail with kind `cancelled` when the call is cancelled
/// while they wait. After a cancel new callbacks still work until the grace period ends, so that a
/// provider can clean up.
#[derive(Debug, Clone)]
pub struct Call {
    context: CallContext,
    deadline: Instant,
    host: Host,
}

/// Why a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The time is over.
    Time,
    /// The call was cancelled.
    Cancel,
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For those who debug the provider.
    Debug,
    /// Worth knowing.
    Info,
    /// Something is odd.
    Warn,
    /// Something failed.
    Error,
}

/// One step forward, for [`Call::progress`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is going on.
    pub phase: &'a str,
    /// How much is done; never decreases within a phase.
    pub done: Option<u64>,
    /// Out of how much.
    pub total: Option<u64>,
    /// One line for people.
    pub message: Option<&'a str>,
}

/// One candidate machine that was tried, for [`Call::attempt`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// Where.
    pub region: Option<&'a str>,
    /// Which machine type.
    pub server_type: Option<&'a str>,
    /// `spot` or `on-demand`.
    pub market: Option<&'a str>,
    /// Why it failed, when it did.
    pub category: Option<ErrorKind>,
    /// One line.
    pub message: &'a str,
}

impl Call {
    pub(crate) fn new(context: CallContext, host: Host) -> Self {
        let deadline = Instant::now() + Duration::from_millis(context.deadline_ms.min(LONGEST));
        Self { context, deadline, host }
    }

    /// The number the kernel gave this call.
    pub fn id(&self) -> u64 {
        self.host.id()
    }

    /// Names one logical attempt; equal on every retry of it.
    pub fn idem(&self) -> &str {
        &self.context.idem
    }

    /// Whether to say what would happen and create nothing.
    pub fn dry_run(&self) -> bool {
        self.context.dry_run
    }

    /// When the call must be answered.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Time left until the deadline.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether the work should stop: the kernel cancelled the call, or its deadline has passed.
    pub fn cancelled(&self) -> bool {
        self.host.cancelled().is_some() || self.time_left().is_zero()
    }

    /// The call's last moment: until then clean-up may go on.
    pub fn last_moment(&self) -> Instant {
        let grace = Duration::from_millis(self.context.grace_ms.min(LONGEST));
        let natural = self.deadline + grace;
        self.host.cancelled().map_or(natural, |until| until.min(natural))
    }

    /// Fails with kind `cancelled` or `timeout` once the work should stop; call it between steps.
    /// Its outcome is `uncertain`; a provider that knows better says so.
    pub fn check(&self) -> Result<(), Failure> {
        if self.host.cancelled().is_some() {
            return Err(Failure::cancelled("cancelled", Outcome::Uncertain));
        }
        if self.time_left().is_zero() {
            return Err(Failure::timeout("the call's time ran out").outcome(Outcome::Uncertain));
        }
        Ok(())
    }

    /// Fails when there was no time left at the very start: nothing was done then.
    pub(crate) fn begin(&self) -> Result<(), Failure> {
        match self.time_left().is_zero() {
            true => Err(Failure::timeout("the call's time ran out").outcome(Outcome::NotStarted)),
            false => Ok(()),
        }
    }

    /// Waits, an hour at most; the host holds the clock. Returns early when the call is cancelled.
    pub fn sleep(&self, time: Duration) -> Result<Woken, Failure> {
        if self.cancelled() {
            return Ok(Woken::Cancel);
        }
        let params = SleepParams { call: self.id(), ms: millis(time) };
        match self.ask::<Sleep>(&params) {
            Ok(slept) if slept.woken == "time" => Ok(Woken::Time),
            Ok(_) => Ok(Woken::Cancel),
            Err(failure) if failure.kind() == ErrorKind::Cancelled => Ok(Woken::Cancel),
            Err(failure) => Err(failure),
        }
    }

    /// Looks until there is something to see, so often at most and with a pause before each further look; none when it never
    /// came. Who is in a hurry does not wait: that is cancelled.
    pub fn poll<T>(
        &self,
        pause: Duration,
        looks: usize,
        mut look: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Failure> {
        for _ in 0..looks {
            if let Some(seen) = look()? {
                return Ok(Some(seen));
            }
            if self.sleep(pause)? == Woken::Cancel {
                return Err(Failure::cancelled("cancelled", Outcome::Uncertain));
            }
        }
        Ok(None)
    }

    /// Does what may be refused because it is asked too often, and does it again twice, each time after the wait that was
    /// asked for, when that is a minute at most.
    pub fn patiently<T>(&self, ask: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        for _ in 0..AGAIN {
            match ask() {
                Err(failure) if failure.kind() == ErrorKind::RateLimited => {
                    let wait = failure.data().retry_after_ms.filter(|ms| *ms <= PATIENCE);
                    let Some(wait) = wait else { return Err(failure) };
                    self.sleep(Duration::from_millis(wait))?;
                    self.check()?;
                }
                answer => return answer,
            }
        }
        ask()
    }

    /// Writes a resource into the kernel's journal; returns when it is on disk. Until then the
    /// provider does nothing else: a crash would lose the resource.
    pub fn record(&self, resource: &Resource) -> Result<(), Failure> {
        self.resource::<Record>(resource)
    }

    /// Takes a resource that is gone out of the journal.
    pub fn forget(&self, resource: &Resource) -> Result<(), Failure> {
        self.resource::<Forget>(resource)
    }

    fn resource<D: Door<Params = ResourceParams>>(
        &self,
        resource: &Resource,
    ) -> Result<(), Failure> {
        let params = ResourceParams { call: self.id(), resource: resource.clone() };
        self.ask::<D>(&params).map(drop)
    }

    /// The value of a secret the settings name; needs the grant.
    pub fn secret(&self, name: &str) -> Result<String, Failure> {
        let params = SecretParams { call: self.id(), name: name.to_owned() };
        self.ask::<Reveal>(&params).map(|secret| secret.value)
    }

    /// Reads a small value kept for this plugin.
    pub fn kv_get(&self, key: &str) -> Result<Option<String>, Failure> {
        self.kv::<KvGet>(key, None, None).map(|found| found.value)
    }

    /// Keeps a small value for this plugin, for ever or for a while.
    pub fn kv_put(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<(), Failure> {
        self.kv::<KvPut>(key, Some(value.to_owned()), ttl).map(drop)
    }

    /// Forgets a value.
    pub fn kv_delete(&self, key: &str) -> Result<(), Failure> {
        self.kv::<KvDelete>(key, None, None).map(drop)
    }

    /// The keys that begin with a prefix.
    pub fn kv_list(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        self.kv::<KvList>(prefix, None, None).map(|found| found.keys)
    }

    fn kv<D: Door<Params = KvParams, Answer = KvResult>>(
        &self,
        key: &str,
        value: Option<String>,
        ttl: Option<Duration>,
    ) -> Result<KvResult, Failure> {
        let ttl_ms = ttl.map(millis);
        self.ask::<D>(&KvParams { call: self.id(), key: key.to_owned(), value, ttl_ms })
    }

    /// Asks the person a yes-or-no question; `unsupported` when nobody is there.
    pub fn confirm(&self, question: &str) -> Result<bool, Failure> {
        self.prompt("confirm", question).map(|answer| answer == "yes")
    }

    /// Asks the person for a line of text; `unsupported` when nobody is there.
    pub fn ask_text(&self, question: &str) -> Result<String, Failure> {
        self.prompt("text", question)
    }

    /// Asks the person for a secret; `unsupported` when nobody is there.
    pub fn ask_secret(&self, question: &str) -> Result<String, Failure> {
        self.prompt("secret", question)
    }

    /// Lets the person choose one; `unsupported` when nobody is there.
    pub fn choose(&self, question: &str, choices: &[&str]) -> Result<String, Failure> {
        let choices = choices.iter().map(|&choice| choice.to_owned()).collect();
        self.question(PromptParams { choices, ..self.asking("choice", question) })
    }

    /// Asks the person to open a page; `unsupported` when nobody is there.
    pub fn open_url(&self, message: &str, url: &str) -> Result<(), Failure> {
        let url = Some(url.to_owned());
        self.question(PromptParams { url, ..self.asking("open-url", message) }).map(drop)
    }

    /// Asks the person to type a code on a page; `unsupported` when nobody is there.
    pub fn device_code(&self, message: &str, url: &str, code: &str) -> Result<(), Failure> {
        let (url, code) = (Some(url.to_owned()), Some(code.to_owned()));
        self.question(PromptParams { url, code, ..self.asking("device-code", message) }).map(drop)
    }

    fn prompt(&self, kind: &str, message: &str) -> Result<String, Failure> {
        self.question(self.asking(kind, message))
    }

    fn question(&self, params: PromptParams) -> Result<String, Failure> {
        self.ask::<Ask>(&params).map(|result| result.answer)
    }

    fn asking(&self, kind: &str, message: &str) -> PromptParams {
        let (kind, message) = (kind.to_owned(), message.to_owned());
        let call = self.id();
        PromptParams { call, kind, message, choices: Vec::new(), url: None, code: None }
    }

    /// Says something for the log.
    pub fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        let message = message.to_owned();
        self.tell(&LogEvent { call: self.id(), level: level.to_owned(), message });
    }

    /// Says how far the work is.
    pub fn progress(&self, progress: &Progress<'_>) {
        let params = ProgressEvent {
            call: self.id(),
            phase: progress.phase.to_owned(),
            done: progress.done,
            total: progress.total,
            message: progress.message.map(str::to_owned),
        };
        self.tell(&params);
    }

    /// Says which machine was tried and how that went.
    pub fn attempt(&self, attempt: &Attempt<'_>) {
        let params = AttemptEvent {
            call: self.id(),
            region: attempt.region.map(str::to_owned),
            server_type: attempt.server_type.map(str::to_owned),
            market: attempt.market.map(str::to_owned),
            category: attempt.category.map(|kind| kind.word().to_owned()),
            message: attempt.message.to_owned(),
        };
        self.tell(&params);
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn tell(&self, event: &impl Event) {
        self.host.tell(event);
    }

    pub(crate) fn ask<D: Door>(&self, params: &D::Params) -> Result<D::Answer, Failure> {
        let answer = self.host.ask::<D>(params, self.last_moment())?;
        serde_json::from_value(answer).map_err(|error| {
            Failure::internal(format!("the host's answer to {} does not fit", D::NAME))
                .outcome(Outcome::Uncertain)
                .because(&error)
        })
    }
}

/// A time as it travels.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(LONGEST).min(LONGEST)
}

/// Bytes as they travel; none when there are none.
pub(crate) fn bytes_of(
    text: Option<String>,
    b64: Option<String>,
) -> Result<Option<Vec<u8>>, Failure> {
    match (text, b64) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(b64)) => payload::from_b64(&b64).map(Some).map_err(Failure::internal),
        (Some(_), Some(_)) => Err(Failure::internal("bytes came both as text and as b64")),
    }
}
