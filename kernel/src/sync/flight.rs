//! A flight: the delta, its content and the command in one exchange with the helper, corrected until it lands.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::helper::{
    Applied, FlightParams, FlightResult, LockAsk, Refused, RunSpec, Started, TreeChange, method,
};
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::run::SyncPhase;
use crabbox_tree::Have;

use crate::error::{KernelError, Result};
use crate::helper::{Helper, Incoming};
use crate::ports::{Clock, EventSink, Stop, Urgency};
use crate::state::State;
use crate::sync::blocks::Spoiled;
use crate::sync::course::{Course, Leg};
use crate::sync::exchange::{self, Exchange, Log};
use crate::sync::known::{self, Known};
use crate::sync::push::Pushed;
use crate::sync::{LocalTree, SyncRules};

/// Which tree on which box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The lease: the fence the helper checks.
    pub lease: LeaseId,
    /// The lease's folder on the box, absolute: `<workRoot>/<leaseID>`.
    pub base_dir: String,
    /// The tree's folder below it: the repository's name.
    pub repo: String,
}

/// A command to start when the tree stands.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What to start.
    pub spec: RunSpec,
    /// The body of an uploaded script.
    pub script: Option<Bytes>,
}

/// Everything one flight is about.
#[derive(Debug, Clone)]
pub struct Flight<'a> {
    /// Which tree.
    pub place: &'a Place,
    /// What it shall be; `None` leaves it alone.
    pub tree: Option<(&'a LocalTree, &'a SyncRules)>,
    /// How the work tree is locked.
    pub lock: LockAsk,
    /// Run in a private copy of the tree.
    pub isolate: bool,
    /// A script that makes the tree a git checkout before the command sees it.
    pub checkout: Option<&'a str>,
    /// The command.
    pub launch: Option<&'a Launch>,
}

/// What became of a flight's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launched {
    /// There was none.
    Nothing,
    /// It was started by this flight; its output comes on the flight's channels.
    Now(Started),
    /// A run of this id was started before: an earlier flight whose answer was lost. Attach to it.
    Earlier,
}

/// A flight that landed.
#[derive(Debug, Clone)]
pub struct Flown {
    /// What was done to the tree; `None` when it was left alone, or the run was started earlier.
    pub pushed: Option<Pushed>,
    /// What became of the command.
    pub launched: Launched,
    /// Base number of the flight's channels: the command's output comes there.
    pub channels: u32,
}

/// How often a refusal is answered with a corrected flight.
const TRIES: u32 = 5;
/// How often files that change meanwhile may upset a flight.
const UPSETS: u32 = 50;
/// How long a flight without a tree may take, besides the queue.
const BARE: Duration = Duration::from_secs(60);
/// How long an earlier try of ours, whose connection was cut, may take to give the work tree back.
const GHOST_MS: u64 = 30_000;
/// How long the answer of a flight that was called off may take.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Makes the tree on the box equal the one here and starts the command in it: both, or neither.
///
/// After [`ErrorCode::ConnectionLost`] the caller connects again and calls this again with the same launch:
/// what arrived is not sent twice, and the command is not started twice. An error's outcome says whether
/// the command may run. When the user stops it while it lands, it may still land: look at `stop` afterwards.
pub async fn fly(
    helper: &mut Helper,
    flight: &Flight<'_>,
    state: &State,
    events: &mut dyn EventSink,
    stop: &Stop,
    clock: &impl Clock,
) -> Result<Flown> {
    let note = known::file(state, &flight.place.lease, &flight.place.repo);
    let queued = Cell::new(Duration::ZERO);
    let mut pilot = Pilot {
        flight,
        course: flight.tree.map(|(tree, rules)| Course::new(tree, rules, Known::load(&note))),
        noted: String::new(),
        lock: flight.lock.clone(),
        note,
        log: Log::new(events, clock, &queued),
        air: None,
    };
    pilot.noted = pilot.course.as_ref().map_or_else(String::new, |c| c.base().to_owned());
    let limit = flight.tree.map_or(BARE, |(_, rules)| rules.timeout);
    let time_is_over = async {
        clock.sleep(limit).await;
        clock.sleep(queued.get()).await;
    };
    let error = tokio::select! {
        biased;
        () = stop.reaches(Urgency::Gentle) => None,
        () = time_is_over => Some(late(limit)),
        done = pilot.run(helper) => return done.map_err(|error| pilot.judge(error)),
    };
    let error = error.unwrap_or_else(|| pilot.log.interrupted());
    tokio::select! {
        biased;
        landed = pilot.call_off(helper, &error) => landed.map_err(|error| pilot.judge(error)),
        () = clock.sleep(LAST_WORDS) => Err(pilot.judge(error)),
    }
}

pub(crate) fn stopped() -> KernelError {
    let what = "interrupted during the sync; the next one finishes it";
    KernelError::new(ErrorCode::Cancelled, what)
}

pub(crate) fn late(limit: Duration) -> KernelError {
    let limit = crate::time::format_duration(limit);
    KernelError::new(ErrorCode::SyncWrite, format!("the sync was not finished after {limit}"))
        .hint("raise sync.timeout, or see with `crabbox sync-plan` what is large; the next sync goes on from here")
}

fn busy(lease: &LeaseId, owner: &str) -> KernelError {
    let owner = if owner.is_empty() { "another run" } else { owner };
    let what = format!("the work tree of lease {lease} is in use by {owner}");
    KernelError::new(ErrorCode::Busy, what)
        .hint("wait for it, stop it, use another lease, or run with --isolate")
}

struct Pilot<'a, C> {
    flight: &'a Flight<'a>,
    course: Option<Course<'a>>,
    /// The file that remembers what the box holds, and the digest it has.
    note: PathBuf,
    noted: String,
    lock: LockAsk,
    log: Log<'a, C>,
    /// The try whose answer is awaited.
    air: Option<Air<'a>>,
}

/// A try on its way: its request, its channels, what it changes.
#[derive(Clone)]
struct Air<'a> {
    id: u64,
    channels: u32,
    leg: Option<Rc<Leg<'a>>>,
}

impl<'a, C: Clock> Pilot<'a, C> {
    async fn run(&mut self, helper: &mut Helper) -> Result<Flown> {
        let (mut tries, mut upsets) = (0, 0);
        while tries <= TRIES && upsets <= UPSETS {
            let leg = match &mut self.course {
                Some(course) => Some(Rc::new(course.leg().await?)),
                None => None,
            };
            let landing = match leg.as_ref().map_or(Ok(Vec::new()), |leg| self.unasked(leg)) {
                Ok(blocks) => self.attempt(helper, leg.clone(), blocks).await?,
                Err(Spoiled::Changed(path)) => Landing::Changed(path),
                Err(Spoiled::Failed(error)) => return Err(error),
            };
            match landing {
                Landing::Flown(flown) => return Ok(flown),
                Landing::Changed(path) => {
                    upsets += 1;
                    self.course.as_mut().map_or(Ok(()), |course| course.amend(&path))?;
                }
                Landing::Refused(refused, manifest) => {
                    tries += 1;
                    self.correct(leg.as_deref(), refused, &manifest)?;
                }
            }
        }
        Err(KernelError::new(ErrorCode::SyncVerify, "the tree on the box does not hold still")
            .hint("something on the box may be writing to it; what was left running there can be seen with `crabbox ssh`"))
    }

    /// The blocks of a flight that does not ask.
    fn unasked(&self, leg: &Leg<'_>) -> Result<Vec<Bytes>, Spoiled> {
        let Some(course) = self.course.as_ref().filter(|_| !leg.ask) else { return Ok(Vec::new()) };
        let parcels = leg.parcels(&Have::nothing(leg.pieces.len()));
        parcels.iter().map(|parcel| course.source().pack(parcel)).collect()
    }

    /// One try, from the request to its answer.
    async fn attempt(
        &mut self,
        helper: &mut Helper,
        leg: Option<Rc<Leg<'a>>>,
        blocks: Vec<Bytes>,
    ) -> Result<Landing> {
        self.log.step("preflight");
        let channels = helper.channels();
        let id = helper.request(method::FLIGHT, &self.params(channels, leg.as_deref()))?;
        self.air = Some(Air { id, channels, leg: leg.clone() });
        let mut exchange = Exchange::new(
            id,
            channels,
            self.course.as_ref().zip(leg.as_deref()).map(|(course, leg)| (course.source(), leg)),
            self.flight.launch.map(|launch| launch.spec.run_id.as_str()),
            Duration::from_millis(self.lock.wait_ms),
        );
        exchange.load(blocks, self.flight.launch.and_then(|launch| launch.script.clone()));
        // What follows until the box says what it lacks is the link's and the box's time.
        self.log.step("preflight");
        let answer = exchange.until_answered(helper, &mut self.log).await?;
        self.log.step("apply");
        let air = self.air.take();
        let spoiled = exchange.spoiled();
        let applied = match (answer, spoiled) {
            (Ok(FlightResult::Applied(applied)), _) => applied,
            (_, Some(Spoiled::Failed(error))) => return Err(error),
            (_, Some(Spoiled::Changed(path))) => return Ok(Landing::Changed(path)),
            (Ok(FlightResult::Refused(refused)), None) => {
                helper.forget(channels);
                return Ok(Landing::Refused(refused, exchange.manifest()));
            }
            (Err(error), None) if self.was_started_before(&error) => {
                helper.forget(channels);
                let launched = Launched::Earlier;
                return Ok(Landing::Flown(Flown { pushed: None, launched, channels }));
            }
            (Err(error), None) => return Err(error),
        };
        match air {
            Some(air) => self.landed(&air, &applied).map(Landing::Flown),
            None => Err(KernelError::new(ErrorCode::Internal, "a flight landed twice")),
        }
    }

    fn was_started_before(&self, error: &KernelError) -> bool {
        error.code == ErrorCode::Conflict && self.flight.launch.is_some()
    }

    fn params(&self, channels: u32, leg: Option<&Leg<'_>>) -> FlightParams {
        let place = self.flight.place;
        FlightParams {
            channels,
            lease: place.lease.to_string(),
            base_dir: place.base_dir.clone(),
            repo: place.repo.clone(),
            lock: self.lock.clone(),
            tree: leg.zip(self.course.as_ref()).map(|(leg, course)| TreeChange {
                base: leg.base.clone(),
                target: leg.digest.clone(),
                ask: leg.ask,
                checksum: course.rules().checksum || course.rules().full_resync,
                seed: leg.seed.clone(),
            }),
            isolate: self.flight.isolate,
            checkout: self.flight.checkout.map(str::to_owned),
            run: self.flight.launch.map(|launch| launch.spec.clone()),
        }
    }

    /// The tree is as wanted and the command was started: what that means for both sides' books.
    fn landed(&mut self, air: &Air<'_>, applied: &Applied) -> Result<Flown> {
        let launched = match (self.flight.launch, self.log.started.take()) {
            (None, _) => Launched::Nothing,
            (Some(_), Some(started)) => Launched::Now(started),
            (Some(_), None) => {
                let what = "the box did not say whether the command was started";
                let error = KernelError::new(ErrorCode::Internal, what);
                return Err(error.outcome(Outcome::Uncertain));
            }
        };
        let pushed = match (&air.leg, &self.course) {
            (Some(leg), Some(course)) => Some(Pushed {
                skipped: applied.written == 0 && applied.removed == 0,
                sent_files: applied.written,
                sent_bytes: applied.received_bytes,
                deleted: applied.removed,
                drifted: course.drifted(),
                phases: self.remember(leg),
            }),
            _ => None,
        };
        Ok(Flown { pushed, launched, channels: air.channels })
    }

    /// Notes what the box holds now; the steps of the whole flight.
    fn remember(&mut self, leg: &Leg<'_>) -> Vec<SyncPhase> {
        let files = self.flight.tree.map_or(0, |(tree, _)| tree.files());
        if self.noted != leg.digest
            && !known::follow(&self.note, &leg.base, &leg.delta, &leg.digest, files)
            && let Err(error) = self.note_all(leg)
        {
            // The next flight asks the box instead.
            self.log.debug(error.to_string());
        }
        self.log.step("finalize");
        std::mem::take(&mut self.log.phases)
    }

    fn note_all(&self, leg: &Leg<'_>) -> Result<()> {
        known::store(&self.note, leg.target.manifest()?, &leg.digest)
    }

    /// Learns from a refusal.
    fn correct(&mut self, leg: Option<&Leg<'_>>, refused: Refused, manifest: &[u8]) -> Result<()> {
        self.log.debug(format!("the box refuses the flight: {refused:.200?}"));
        let lease = &self.flight.place.lease;
        match (refused, &mut self.course, leg) {
            (Refused::Busy { owner }, ..)
                if owner == self.lock.owner && self.lock.wait_ms < GHOST_MS =>
            {
                self.lock.wait_ms = GHOST_MS;
                Ok(())
            }
            (Refused::Busy { owner }, ..) => Err(busy(lease, &owner)),
            (Refused::Fence { lease: other }, ..) => Err(KernelError::new(
                ErrorCode::Precondition,
                format!("the work root on the box belongs to lease {other}, not to {lease}"),
            )
            .hint("nothing was touched; choose another workRoot, or stop that lease")),
            (Refused::Base, Some(course), _) => course.rebase(manifest),
            (Refused::Drift { paths }, Some(course), _) => course.drift(paths),
            (Refused::Content, Some(course), Some(leg)) => course.distrust(leg),
            _ => Err(KernelError::new(ErrorCode::Internal, "the box refuses what was not asked")),
        }
    }

    /// Calls off the flight whose answer is awaited. It may land all the same.
    async fn call_off(&mut self, helper: &mut Helper, error: &KernelError) -> Result<Flown> {
        let Some(air) = self.air.clone() else { return Err(error.clone()) };
        helper.cancel(air.id)?;
        let run_id = self.flight.launch.map(|launch| launch.spec.run_id.as_str());
        let answer = loop {
            let incoming = helper.next(|i| exchange::answers(i, air.id, run_id)).await?;
            match incoming {
                Incoming::Answer { result, .. } => break exchange::read_answer(result)?,
                note => self.log.hear_started(&note)?,
            }
        };
        self.air = None;
        match answer {
            Ok(FlightResult::Applied(applied)) => self.landed(&air, &applied),
            _ => Err(error.clone()),
        }
    }

    /// Says whether the command may run, where nobody deeper did.
    fn judge(&self, error: KernelError) -> KernelError {
        if self.flight.launch.is_none() || error.outcome.is_some() {
            return error;
        }
        let doubt = self.air.is_some() || self.log.started.is_some();
        error.outcome(if doubt { Outcome::Uncertain } else { Outcome::NotStarted })
    }
}

/// How one try ended.
enum Landing {
    Flown(Flown),
    /// Refused; with the manifest the box holds, where that is why.
    Refused(Refused, Vec<u8>),
    /// A file here changed while it was sent.
    Changed(PathBuf),
}
