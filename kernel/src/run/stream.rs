//! Follows a run on the box: its output to the sink, the console to its input, the user's wishes, and its end.
//!
//! All that must outlive a connection is here: how far each stream was taken, and the input that the command has not
//! taken yet. A byte counts as taken when the sink has it; only then the box may send another in its place.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::helper::{
    AttachParams, Exited, Gap, ResizeParams, Role, RunExit, RunState, RunsParams, SignalParams,
    SignalResult, Stalled, method, note,
};
use crabbox_wire::{Offsets, Placed};
use serde_json::Value;

use crate::error::{KernelError, Result};
use crate::event::{Event, Stream};
use crate::helper::{Helper, Incoming};
use crate::ports::{Clock, EventSink, Stop, Urgency};
use crate::run::input::Input;
use crate::run::process::{Console, LAST_WORDS};

/// How long the box may take to say how a run stands.
const ATTACH_LIMIT: Duration = Duration::from_secs(30);

/// What the user's wish to stop means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// The command is ended.
    EndCommand,
    /// The command goes on without us.
    Leave,
}

/// How following a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The command ended.
    Exited(RunExit),
    /// We ended it; how, when the box said it in time.
    Stopped(Option<RunExit>),
    /// The user left; it goes on.
    Left,
    /// It was started, and its keeper on the box died with it.
    Lost,
    /// It was never started, and never will be.
    NotStarted,
    /// The box knows nothing of it, or nothing any more.
    Unknown,
}

/// A run that is followed, over as many connections as that takes.
#[derive(Debug)]
pub struct Follow {
    run_id: String,
    base_dir: String,
    on_stop: OnStop,
    seen: [Offsets; 2],
    input: Input,
    ending: Option<Ending>,
    /// Leave when nothing was heard for so long.
    hush: Option<Duration>,
    /// The box's clock when the command started; 0 until the box said so.
    started_ms: u64,
    /// A run that the box does not know shall never be started there.
    forestalls: bool,
}

/// The command is being ended.
#[derive(Debug)]
struct Ending {
    urgency: Urgency,
    /// The open request.
    request: u64,
    /// When to stop waiting, on the monotonic clock.
    until: u64,
    /// Whether everything of it is gone, once the box said so.
    gone: Option<bool>,
}

/// What happens next on a line.
enum Turn {
    Said(Incoming),
    Room,
}

impl Follow {
    /// A run from these offsets of its two streams on; with `input` the console is its standard input.
    pub fn new(base_dir: &str, run_id: &str, from: [u64; 2], input: bool, on_stop: OnStop) -> Self {
        let mut seen = [Offsets::default(); 2];
        for (seen, from) in seen.iter_mut().zip(from) {
            seen.skip(from);
        }
        let (run_id, base_dir) = (run_id.to_owned(), base_dir.to_owned());
        Self {
            run_id,
            base_dir,
            on_stop,
            seen,
            input: Input::new(input),
            ending: None,
            hush: None,
            started_ms: 0,
            forestalls: false,
        }
    }

    /// Whether the box would still know of the run, had it been started: then one it does not know never shall be,
    /// also when a flight of its is still on the way.
    pub(super) fn forestall(&mut self, knows: bool) {
        self.forestalls = knows;
    }

    /// Leaves when nothing was heard for so long: everything there is was seen.
    pub(super) fn leave_after(&mut self, hush: Option<Duration>) {
        self.hush = hush;
    }

    /// The box's clock when the command started; 0 when it was not asked.
    pub(super) fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// Whether the command is being ended by us.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Takes the run up on a new line, where it was left: the base of its channels, or that there is nothing to take
    /// up.
    pub(super) async fn attach(
        &mut self,
        helper: &mut Helper,
        clock: &impl Clock,
    ) -> Result<Result<u32, End>> {
        let (mut channels, mut state) = self.look(helper, clock).await?;
        if state.state == "unknown" && self.forestalls {
            let (base_dir, run_id) = (self.base_dir.clone(), Some(self.run_id.clone()));
            let params = RunsParams { base_dir, run_id };
            let told = helper.call::<Value>(method::RUN_FORGET, &params, ATTACH_LIMIT, clock).await;
            // A conflict: it was started just now.
            told.map(drop)
                .or_else(|e| if e.code == ErrorCode::Conflict { Ok(()) } else { Err(e) })?;
            (channels, state) = self.look(helper, clock).await?;
        }
        self.started_ms = state.started_ms;
        match &*state.state {
            "unknown" => return Ok(Err(End::Unknown)),
            "lost" if state.started_ms == 0 => return Ok(Err(End::NotStarted)),
            "running" if self.input.is_wanted() => {
                self.input.rewind(state.stdin_taken)?;
                helper.begin_at(Role::Stdin.of(channels), state.stdin_taken);
            }
            _ => self.input.close(),
        }
        Ok(Ok(channels))
    }

    /// Asks how the run stands, for its output on new channels.
    async fn look(&self, helper: &mut Helper, clock: &impl Clock) -> Result<(u32, RunState)> {
        let channels = helper.channels();
        let params = AttachParams {
            channels,
            base_dir: self.base_dir.clone(),
            run_id: self.run_id.clone(),
            stdout: self.seen[0].next(),
            stderr: self.seen[1].next(),
            stdin: self.input.resume_from(),
        };
        let state = helper.call(method::RUN_ATTACH, &params, ATTACH_LIMIT, clock).await?;
        Ok((channels, state))
    }

    /// Follows the run on this line until it ends, or we end it, or the line breaks.
    pub async fn to_the_end(
        &mut self,
        helper: &mut Helper,
        channels: u32,
        console: &mut Console,
        clock: &impl Clock,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<End> {
        let stdin = Role::Stdin.of(channels);
        let mut sized = true;
        loop {
            let wish = self.ending.as_ref().map_or(Urgency::Gentle, |_| Urgency::Now);
            let may_wish = self.ending.as_ref().is_none_or(|e| e.urgency < Urgency::Now);
            let until = self.ending.as_ref().map(|ending| ending.until);
            tokio::select! {
                turn = turn(helper, channels, self.request(), self.input.is_waiting().then_some(stdin)) => {
                    match turn? {
                        Turn::Room => self.input.send(helper, stdin),
                        Turn::Said(said) => {
                            if let Some(end) = self.hear(said, helper, clock, events)? {
                                helper.forget(channels);
                                return Ok(end);
                            }
                        }
                    }
                }
                typed = console.stdin.recv(), if self.input.wants() => self.input.push(typed),
                changed = console.size.changed(), if sized => {
                    sized = changed.is_ok();
                    let (columns, rows) = *console.size.borrow_and_update();
                    helper.note(note::RESIZE, &ResizeParams { run_id: self.run_id.clone(), columns, rows })?;
                }
                () = stop.reaches(wish), if may_wish => {
                    if self.on_stop == OnStop::Leave {
                        return Ok(End::Left);
                    }
                    self.end(helper, stop.urgency(), clock)?;
                }
                () = until_then(clock, until) => return self.given_up(),
                () = at_rest(clock, self.hush) => return Ok(End::Left),
            }
        }
    }

    fn request(&self) -> Option<u64> {
        self.ending.as_ref().filter(|ending| ending.gone.is_none()).map(|ending| ending.request)
    }

    /// Asks the box to end the command's whole process group.
    pub(super) fn end(
        &mut self,
        helper: &mut Helper,
        urgency: Urgency,
        clock: &impl Clock,
    ) -> Result<()> {
        let params = SignalParams {
            base_dir: self.base_dir.clone(),
            run_id: self.run_id.clone(),
            now: urgency == Urgency::Now,
        };
        let request = helper.request(method::RUN_SIGNAL, &params)?;
        let until = clock.monotonic_ms() + LAST_WORDS.as_millis() as u64;
        self.ending = Some(Ending { urgency, request, until, gone: None });
        Ok(())
    }

    /// The time for last words is over.
    fn given_up(&self) -> Result<End> {
        if self.ending.as_ref().is_some_and(|ending| ending.gone == Some(true)) {
            return Ok(End::Stopped(None));
        }
        let what = "interrupted, but the box did not confirm that the command ended";
        Err(KernelError::new(ErrorCode::Cancelled, what)
            .hint("it may still run there while the box exists")
            .outcome(Outcome::Uncertain))
    }

    fn hear(
        &mut self,
        said: Incoming,
        helper: &mut Helper,
        clock: &impl Clock,
        events: &mut dyn EventSink,
    ) -> Result<Option<End>> {
        if let Some(exited) = said.note::<Exited>(note::EXITED) {
            return self.exited(exited?, events).map(Some);
        }
        if let Some(gap) = said.note::<Gap>(note::GAP) {
            let Gap { channel, from, to } = gap?;
            if let Some(stream) = stream_of(channel) {
                self.gap(stream, from, to, events);
            }
            return Ok(None);
        }
        if said.note::<Stalled>(note::STALLED).is_some() {
            let message =
                "the disk of the box is full: the command waits until its output can be kept there";
            events.emit(Event::Warning { message: message.to_owned() });
            return Ok(None);
        }
        match said {
            Incoming::Bytes { channel, offset, data, .. } => {
                if let Some(stream) = stream_of(channel) {
                    self.output(stream, offset, &data, events);
                }
                helper.consumed(channel, data.len() as u64)?;
            }
            Incoming::Answer { result, .. } => self.answered(result, clock.monotonic_ms()),
            Incoming::Note { .. } => {}
        }
        Ok(None)
    }

    /// The box says whether everything of the command is gone. When it is not, or nobody knows, an exit may still come.
    fn answered(&mut self, result: Result<Value>, now_ms: u64) {
        let Some(ending) = &mut self.ending else { return };
        let said = result.ok().and_then(|said| serde_json::from_value::<SignalResult>(said).ok());
        let gone = said.is_some_and(|said| said.gone);
        ending.gone = Some(gone);
        if gone {
            ending.until = now_ms + LAST_WORDS.as_millis() as u64;
        }
    }

    fn output(&mut self, stream: Stream, offset: u64, data: &Bytes, events: &mut dyn EventSink) {
        let seen = &mut self.seen[usize::from(stream == Stream::Stderr)];
        let (offset, data) = match seen.place(offset, data.len()) {
            Placed::Old => return,
            Placed::New(from) => (offset + from as u64, data.slice(from..)),
            Placed::Gap(from, to) => {
                events.emit(Event::Gap { stream, from, to });
                (offset, data.clone())
            }
        };
        if !data.is_empty() {
            events.emit(Event::Output { stream, offset, data });
        }
    }

    /// Bytes that will never come.
    fn gap(&mut self, stream: Stream, from: u64, to: u64, events: &mut dyn EventSink) {
        let had = self.seen[usize::from(stream == Stream::Stderr)].skip(to);
        if to > had {
            events.emit(Event::Gap { stream, from: from.max(had), to });
        }
    }

    fn exited(&mut self, exited: Exited, events: &mut dyn EventSink) -> Result<End> {
        let Some(exit) = exited.exit else { return Ok(End::Lost) };
        for (stream, len) in [(Stream::Stdout, exit.stdout), (Stream::Stderr, exit.stderr)] {
            self.gap(stream, 0, len, events);
        }
        let Some(ending) = &self.ending else { return Ok(End::Exited(exit)) };
        if ending.gone == Some(false) {
            let message = "the command ended, but some of its processes could not be ended; look with `crabbox connect`";
            events.emit(Event::Warning { message: message.to_owned() });
        }
        Ok(End::Stopped(Some(exit)))
    }
}

/// What comes first: something that concerns us, or room for input.
async fn turn(
    helper: &mut Helper,
    channels: u32,
    request: Option<u64>,
    stdin: Option<u32>,
) -> Result<Turn> {
    let mine = |said: &Incoming| match said {
        Incoming::Answer { id, .. } => Some(*id) == request,
        other => other.concerns(channels),
    };
    poll_fn(|cx| {
        if let Poll::Ready(said) = pin!(helper.next(mine)).poll(cx) {
            return Poll::Ready(said.map(Turn::Said));
        }
        match stdin {
            Some(stdin) => pin!(helper.room(stdin)).poll(cx).map_ok(|()| Turn::Room),
            None => Poll::Pending,
        }
    })
    .await
}

fn stream_of(channel: u32) -> Option<Stream> {
    match Role::from_channel(channel)?.1 {
        Role::Stdout => Some(Stream::Stdout),
        Role::Stderr => Some(Stream::Stderr),
        _ => None,
    }
}

async fn at_rest(clock: &impl Clock, hush: Option<Duration>) {
    match hush {
        Some(hush) => clock.sleep(hush).await,
        None => std::future::pending().await,
    }
}

async fn until_then(clock: &impl Clock, until: Option<u64>) {
    match until {
        Some(until) => {
            let left = until.saturating_sub(clock.monotonic_ms());
            clock.sleep(Duration::from_millis(left)).await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use crabbox_schemas::helper::Usage;
    use serde_json::json;

    use super::*;

    fn ending() -> Follow {
        let mut follow = Follow::new("/b", "run_000000000001", [0, 0], false, OnStop::EndCommand);
        let until = 3000;
        follow.ending = Some(Ending { urgency: Urgency::Gentle, request: 1, until, gone: None });
        follow
    }

    #[test]
    fn only_a_box_that_says_all_is_gone_has_stopped_the_command() {
        let mut follow = ending();
        follow.answered(Ok(json!({"gone": true})), 10);
        assert_eq!(follow.given_up().unwrap(), End::Stopped(None));
        let failed = KernelError::new(ErrorCode::Internal, "no");
        for answer in [Ok(json!({"gone": false})), Ok(json!({})), Err(failed)] {
            let mut follow = ending();
            follow.answered(answer, 10);
            assert_eq!(follow.ending.as_ref().unwrap().until, 3000, "an exit may still come");
            let error = follow.given_up().unwrap_err();
            assert_eq!(error.outcome, Some(Outcome::Uncertain));
            assert!(error.to_string().contains("did not confirm"), "{error}");
        }
    }

    #[test]
    fn processes_that_could_not_be_ended_are_told() {
        let mut follow = ending();
        follow.answered(Ok(json!({"gone": false})), 10);
        let exit = RunExit {
            code: 137,
            signal: None,
            timed_out: false,
            stdout: 0,
            stderr: 0,
            ended_ms: 0,
            usage: Usage::default(),
        };
        let exited =
            Exited { channels: 1, run_id: follow.run_id.clone(), exit: Some(exit.clone()) };
        let mut events = Vec::new();
        let end = follow.exited(exited, &mut events).unwrap();
        assert_eq!(end, End::Stopped(Some(exit)));
        let [Event::Warning { message }] = &events[..] else { panic!("{events:?}") };
        assert!(message.contains("could not be ended"), "{message}");
    }
}
