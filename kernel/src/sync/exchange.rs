//! One try of a flight as a conversation: both sides talk at once, and nothing waits for what it holds up itself.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::helper::{self, FlightResult, Need, Refused, Role, Started, Waiting, note};
use crabbox_schemas::run::SyncPhase;
use crabbox_tree::Have;
use serde_json::Value;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::helper::{Helper, Incoming};
use crate::ports::{Clock, EventSink};
use crate::sync::blocks::{Packers, Source, Spoiled};
use crate::sync::course::Leg;
use crate::sync::flight::stopped;
use crate::sync::seed::Seeded;
use crate::sync::width::Width;

/// Largest manifest, and largest list of pieces, that is taken from the box.
const MANIFEST: usize = 512 << 20;
const BITS: usize = 64 << 20;
/// Bytes of one packet of text.
const PART: usize = 256 << 10;
/// Between two notices of progress.
const NOTICE_MS: u64 = 200;

/// What is told about a flight while it goes on.
pub(super) struct Log<'a, C> {
    events: &'a mut dyn EventSink,
    clock: &'a C,
    /// How much longer it may take because it queues.
    queued: &'a Cell<Duration>,
    /// Who has what is waited for.
    owner: Option<String>,
    from: u64,
    told: u64,
    pub(super) phases: Vec<SyncPhase>,
    pub(super) started: Option<Started>,
}

impl<'a, C: Clock> Log<'a, C> {
    pub(super) fn new(
        events: &'a mut dyn EventSink,
        clock: &'a C,
        queued: &'a Cell<Duration>,
    ) -> Self {
        let from = clock.monotonic_ms();
        let (owner, phases, started) = (None, Vec::new(), None);
        Self { events, clock, queued, owner, from, told: from, phases, started }
    }

    /// What was done since the last step, which took so many milliseconds; a step that comes again goes on.
    pub(super) fn step(&mut self, name: &str) -> u64 {
        let now = self.clock.monotonic_ms();
        let ms = now.saturating_sub(self.from);
        self.from = now;
        match self.phases.iter_mut().find(|p| p.name == name) {
            Some(phase) => phase.ms = Some(phase.ms.unwrap_or(0) + ms),
            None => self.phases.push(SyncPhase {
                name: name.to_owned(),
                ms: Some(ms),
                skipped: false,
                reason: None,
            }),
        }
        ms
    }

    fn now_ms(&self) -> u64 {
        self.clock.monotonic_ms()
    }

    pub(super) fn debug(&mut self, message: String) {
        self.events.emit(Event::Debug { message });
    }

    pub(super) fn hear_started(&mut self, incoming: &Incoming) -> Result<()> {
        if let Some(started) = incoming.note(note::STARTED) {
            self.started = Some(started?);
        }
        Ok(())
    }

    /// The wait for the work tree begins.
    fn queue(&mut self, owner: String, patience: Duration) {
        self.step(if self.owner.is_some() { "queue" } else { "check" });
        self.queued.set(patience);
        self.owner = Some(owner.clone());
        self.events.emit(Event::Waiting { owner });
    }

    /// The wait for the work tree is over, if there was one.
    fn admit(&mut self) {
        if self.owner.take().is_some() {
            self.step("queue");
        }
    }

    /// What the user interrupted.
    pub(super) fn interrupted(&self) -> KernelError {
        match &self.owner {
            Some(owner) => {
                let what =
                    format!("interrupted while waiting for the work tree, in use by {owner}");
                KernelError::new(ErrorCode::Cancelled, what)
            }
            None => stopped(),
        }
    }

    fn progress(&mut self, done: u64, total: u64) {
        let now = self.clock.monotonic_ms();
        if now >= self.told + NOTICE_MS {
            self.told = now;
            self.events.emit(Event::Progress {
                phase: "sync".to_owned(),
                done: Some(done.min(total)),
                total: Some(total),
                unit: "bytes",
                message: None,
            });
        }
    }
}

/// One try of a flight.
pub(super) struct Exchange<'a> {
    id: u64,
    channels: u32,
    leg: Option<(Source, &'a Leg<'a>)>,
    run_id: Option<&'a str>,
    patience: Duration,
    outbox: VecDeque<(Role, Bytes, bool)>,
    /// Packing began before the box said what it lacks: to a new box goes everything.
    eager: Option<Packers>,
    packers: Option<Packers>,
    width: Width,
    seeded: Arc<Seeded>,
    spoiled: Option<Spoiled>,
    /// Bytes of the delta as it travels.
    delta: u64,
    /// Bytes of content sent, and to be sent.
    sent: (u64, u64),
    have: Vec<u8>,
    manifest: Vec<u8>,
    /// Whether the manifest has ended.
    manifest_whole: bool,
    answer: Option<Result<FlightResult>>,
}

/// What happens next.
enum Step {
    Heard(Incoming),
    /// The first thing in the outbox may go.
    Room,
    Block(Option<Result<(Bytes, u64), Spoiled>>),
}

impl<'a> Exchange<'a> {
    pub(super) fn new(
        id: u64,
        channels: u32,
        leg: Option<(Source, &'a Leg<'a>)>,
        run_id: Option<&'a str>,
        patience: Duration,
    ) -> Self {
        Self {
            id,
            channels,
            leg,
            run_id,
            patience,
            outbox: VecDeque::new(),
            eager: None,
            packers: None,
            width: Width::default(),
            seeded: Arc::default(),
            spoiled: None,
            delta: 0,
            sent: (0, 0),
            have: Vec::new(),
            manifest: Vec::new(),
            manifest_whole: false,
            answer: None,
        }
    }

    /// Puts in the outbox what goes without being asked for.
    pub(super) fn load(&mut self, blocks: Vec<Bytes>, script: Option<Bytes>) {
        if let Some((source, leg)) = &self.leg {
            let delta = leg.delta.to_packed();
            self.delta = delta.len() as u64;
            let (ask, first) = (leg.ask, leg.ask && leg.first);
            let everything = || leg.parcels(&Have::nothing(leg.pieces.len()));
            self.eager = first.then(|| Packers::start(source, everything(), &self.seeded));
            self.say(Role::Delta, delta.into());
            if !ask {
                self.say_blocks(blocks);
            }
        }
        if let Some(script) = script {
            self.say(Role::Script, script);
        }
    }

    fn say(&mut self, role: Role, mut text: Bytes) {
        loop {
            let part = text.split_to(text.len().min(PART));
            self.outbox.push_back((role, part, text.is_empty()));
            if text.is_empty() {
                return;
            }
        }
    }

    fn say_blocks(&mut self, blocks: Vec<Bytes>) {
        let last = blocks.len();
        let blocks = blocks.into_iter().enumerate();
        self.outbox.extend(blocks.map(|(n, block)| (Role::Blocks, block, n + 1 == last)));
        if last == 0 {
            self.outbox.push_back((Role::Blocks, Bytes::new(), true));
        }
    }

    /// Why the flight was called off from here.
    pub(super) fn spoiled(&mut self) -> Option<Spoiled> {
        self.spoiled.take()
    }

    /// The manifest the box sent.
    pub(super) fn manifest(self) -> Vec<u8> {
        self.manifest
    }

    /// Sends, hears and asks until the answer is there. The outer error is a broken connection; the inner one is
    /// the box's.
    pub(super) async fn until_answered<C: Clock>(
        &mut self,
        helper: &mut Helper,
        log: &mut Log<'_, C>,
    ) -> Result<Result<FlightResult>> {
        if let Some((_, leg)) = self.leg.as_ref().filter(|(_, leg)| leg.ask) {
            let bytes = leg.pieces.iter().map(|piece| u64::from(piece.len)).sum();
            self.width.ask(helper, self.channels, bytes, log.now_ms())?;
        }
        loop {
            // All of it at once, so that it leaves together.
            while self.answer.is_none() && self.has_room(helper) {
                self.send_first(helper, log);
            }
            match self.next(helper).await? {
                Step::Heard(incoming) => self.hear(incoming, helper, log)?,
                Step::Room => self.send_first(helper, log),
                Step::Block(Some(Ok((block, bytes)))) => {
                    let last = self.packers.as_ref().is_none_or(|p| p.left() == 0);
                    if last || !block.is_empty() {
                        self.outbox.push_back((Role::Blocks, block, last));
                    }
                    self.sent.0 += bytes;
                    log.progress(self.sent.0, self.sent.1);
                }
                Step::Block(Some(Err(spoiled))) => {
                    self.spoiled = Some(spoiled);
                    self.packers = None;
                    self.outbox.clear();
                    helper.cancel(self.id)?;
                }
                Step::Block(None) => self.packers = None,
            }
            if self.is_over()
                && let Some(answer) = self.answer.take()
            {
                return Ok(answer);
            }
        }
    }

    fn has_room(&self, helper: &Helper) -> bool {
        let first = self.outbox.front();
        first.is_some_and(|(role, ..)| helper.has_room(role.of(self.channels)))
    }

    /// Whether the answer is there, and the manifest that belongs to it.
    fn is_over(&self) -> bool {
        match &self.answer {
            Some(Ok(FlightResult::Refused(Refused::Base))) => self.manifest_whole,
            answer => answer.is_some(),
        }
    }

    async fn next(&mut self, helper: &mut Helper) -> Result<Step> {
        let (id, channels, run_id) = (self.id, self.channels, self.run_id);
        let width = &self.width;
        let wanted =
            |i: &Incoming| answers(i, id, run_id) || belongs(i, channels) || width.is_answered(i);
        if let Some((role, ..)) = self.outbox.front().filter(|_| self.answer.is_none()) {
            let channel = role.of(channels);
            let heard = helper.next_or_room(channel, wanted).await?;
            return Ok(heard.map_or(Step::Room, Step::Heard));
        }
        match self.packers.as_mut().filter(|_| self.answer.is_none()) {
            None => helper.next(wanted).await.map(Step::Heard),
            Some(packers) => tokio::select! {
                biased;
                heard = helper.next(wanted) => heard.map(Step::Heard),
                block = packers.next() => Ok(Step::Block(block)),
            },
        }
    }

    fn send_first<C: Clock>(&mut self, helper: &mut Helper, log: &mut Log<'_, C>) {
        let Some((role, data, last)) = self.outbox.pop_front() else { return };
        let channel = role.of(self.channels);
        helper.send(channel, data, last);
        if self.packers.is_some() {
            self.width.open(helper, self.channels);
        }
        if self.outbox.is_empty() && self.packers.as_ref().is_none_or(|p| p.left() == 0) {
            log.step("send");
        }
    }

    fn hear<C: Clock>(
        &mut self,
        incoming: Incoming,
        helper: &mut Helper,
        log: &mut Log<'_, C>,
    ) -> Result<()> {
        if self.width.is_answered(&incoming)
            && let Incoming::Answer { result, .. } = incoming
        {
            self.width.hear(result, log.now_ms());
            return Ok(());
        }
        log.hear_started(&incoming)?;
        if let Some(waiting) = incoming.note::<Waiting>(note::WAITING) {
            log.queue(waiting?.owner, self.patience);
            return Ok(());
        }
        log.admit();
        if let Some(need) = incoming.note::<Need>(note::NEED) {
            let link = log.step("check").saturating_sub(need?.ms);
            self.send_what_is_missing()?;
            if let Some(packers) = self.packers.as_ref().filter(|_| !self.width.is_near()) {
                packers.suit(self.delta, link);
            }
            return Ok(());
        }
        if let Some(seeded) = incoming.note(note::SEEDED) {
            self.skip(seeded?, log);
        }
        match incoming {
            Incoming::Answer { result, .. } => self.answer = Some(read_answer(result)?),
            Incoming::Bytes { channel, last, data, .. } => {
                helper.consumed(channel, data.len() as u64)?;
                let (text, limit) = if channel == Role::Have.of(self.channels) {
                    (&mut self.have, BITS)
                } else {
                    self.manifest_whole = last;
                    (&mut self.manifest, MANIFEST)
                };
                if text.len() + data.len() > limit {
                    return Err(nonsense("it sent more than a tree needs"));
                }
                text.extend_from_slice(&data);
            }
            Incoming::Note { .. } => {}
        }
        Ok(())
    }

    /// The box found pieces by itself.
    fn skip<C: Clock>(&self, found: helper::Seeded, log: &mut Log<'_, C>) {
        let Some((_, leg)) = self.leg else { return };
        self.seeded.add(&leg.pieces, &found.pieces);
        if let Some(said) = found.said {
            log.debug(format!("git seed: {said}"));
        }
    }

    fn send_what_is_missing(&mut self) -> Result<()> {
        let Some((source, leg)) = self.leg.as_ref().filter(|(_, leg)| leg.ask) else {
            return Err(nonsense("it asked for content that it has"));
        };
        let bits = std::mem::take(&mut self.have);
        let have = Have::from_bytes(bits, leg.pieces.len())
            .map_err(|e| nonsense("it did not say what it has").because(&e))?;
        let parcels = leg.parcels(&have);
        if parcels.is_empty() {
            self.say_blocks(Vec::new());
            return Ok(());
        }
        self.sent = (0, parcels.iter().map(|p| p.bytes()).sum());
        self.width.missing(self.sent.1);
        let eager = self.eager.take().filter(|_| have == Have::nothing(leg.pieces.len()));
        let start = || Packers::start(source, parcels, &self.seeded);
        self.packers = Some(eager.unwrap_or_else(start));
        Ok(())
    }
}

/// Whether this is the answer of a request, or says that a run was started.
pub(super) fn answers(incoming: &Incoming, request: u64, run_id: Option<&str>) -> bool {
    match incoming {
        Incoming::Answer { id, .. } => *id == request,
        Incoming::Note { method, params } => {
            method == note::STARTED
                && run_id.is_some()
                && params.get("runId").and_then(Value::as_str) == run_id
        }
        Incoming::Bytes { .. } => false,
    }
}

/// Whether this belongs to a flight, and not to the command it started.
fn belongs(incoming: &Incoming, channels: u32) -> bool {
    match incoming {
        Incoming::Bytes { channel, .. } => {
            [Role::Have, Role::Manifest].iter().any(|role| role.of(channels) == *channel)
        }
        Incoming::Note { method, .. } => {
            [note::WAITING, note::NEED, note::SEEDED].contains(&method.as_str())
                && incoming.concerns(channels)
        }
        Incoming::Answer { .. } => false,
    }
}

/// What an answer says; the outer error is an answer that makes no sense.
pub(super) fn read_answer(result: Result<Value>) -> Result<Result<FlightResult>> {
    match result {
        Err(error) => Ok(Err(error)),
        Ok(value) => serde_json::from_value(value)
            .map(Ok)
            .map_err(|e| nonsense("its answer does not fit").because(&e)),
    }
}

fn nonsense(what: &str) -> KernelError {
    KernelError::new(ErrorCode::Internal, format!("the helper on the box talks nonsense: {what}"))
        .outcome(Outcome::Uncertain)
}
