//! A line that broke is opened again, with growing pauses, until the user's patience is over.

use std::pin::pin;
use std::time::Duration;

use crabbox_schemas::error::{ErrorCode, Outcome};

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::lease::acquire::random;
use crate::lease::{Bench, Held};
use crate::ports::{Clock, Dialer, EventSink, Provider, Stop, Urgency};
use crate::run::line::{Line, Way, open, way};
use crate::run::process::Console;
use crate::run::reach::{address, ended, explain, seek};
use crate::run::stream::{End, Follow};
use crate::time::format_duration;

/// Before the second attempt; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Never longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long one attempt may wait for the box to answer.
const ATTEMPT: Duration = Duration::from_secs(10);
/// For so long nobody is told that the box is sought: it may show that there is none any more.
const HUNCH: Duration = Duration::from_secs(3);
/// A line that breaks again sooner than this was none: the outage goes on.
const PROVEN: Duration = Duration::from_secs(5);

/// Opens lines again, and remembers how that went.
pub(super) struct Reconnect {
    limit: Duration,
    /// When the outage began, when the last line was opened, and the pause before the next attempt.
    began: u64,
    opened: Option<u64>,
    pause: Duration,
    /// The news of the outage, until it is told.
    untold: Option<Event>,
}

impl Reconnect {
    /// With this much patience for each outage; none at all when it is zero.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, began: 0, opened: None, pause: FIRST_PAUSE, untold: None }
    }

    /// A new line in place of the one that broke for this reason. What ran there goes on meanwhile.
    pub(super) async fn again<P: Provider, D: Dialer, C: Clock>(
        &mut self,
        bench: &Bench<'_, P, D, C>,
        held: &Held,
        cause: KernelError,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<Line<D::Remote>> {
        self.another(bench, held, cause, helped, events, stop).await
    }

    /// The first way to the box. A line that breaks while it is opened is opened again like any other.
    pub(super) async fn first<P: Provider, D: Dialer, C: Clock>(
        &mut self,
        bench: &Bench<'_, P, D, C>,
        held: &Held,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<Way<D::Remote>> {
        match open(bench, held, events, stop).await {
            Err(error) if error.code == ErrorCode::ConnectionLost => self
                .another(bench, held, error, Ok, events, stop)
                .await
                .map_err(|e| e.at("connect")),
            opened => opened,
        }
    }

    /// Tries until a way is `taken`.
    async fn another<P: Provider, D: Dialer, C: Clock, W>(
        &mut self,
        bench: &Bench<'_, P, D, C>,
        held: &Held,
        cause: KernelError,
        taken: impl Fn(Way<D::Remote>) -> Result<W>,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<W> {
        if self.limit.is_zero() {
            return Err(explain(bench, &held.lease, cause).await);
        }
        let now = bench.clock.monotonic_ms();
        let flaps = self.opened.is_some_and(|opened| now - opened < PROVEN.as_millis() as u64);
        if !flaps {
            (self.began, self.pause) = (now, FIRST_PAUSE);
            self.untold =
                Some(Event::ConnectionLost { reason: cause.to_string(), limit: self.limit });
        }
        let mut last = None;
        if flaps {
            self.wait(bench, stop, &cause).await?;
        }
        loop {
            let left = self.left(bench);
            if left.is_zero() {
                return Err(gave_up(self.limit, cause, last));
            }
            let tried = self.told_attempt(bench, held, left, stop, &cause, events).await;
            match tried.and_then(&taken) {
                Ok(way) => {
                    let now = bench.clock.monotonic_ms();
                    self.opened = Some(now);
                    events.emit(Event::Reconnected { ms: now - self.began });
                    return Ok(way);
                }
                Err(error) if error.code == ErrorCode::NotFound => {
                    return Err(ended(&held.lease, &cause));
                }
                // It has let us in before: a log-in that fails now is part of the outage.
                Err(error) if !error.code.retryable() && error.code != ErrorCode::SshAuth => {
                    return Err(KernelError { outcome: cause.outcome, ..error });
                }
                Err(error) => {
                    tracing::debug!(%error, "the box was not reached");
                    last = Some(error);
                }
            }
            self.wait(bench, stop, &cause).await?;
        }
    }

    /// Follows a run to its end, over as many lines as it takes. `channels` are those of its own flight, on the
    /// line as it is now; without them it is attached to.
    #[expect(clippy::too_many_arguments, reason = "each is a different door of one run")]
    pub(super) async fn follow<P: Provider, D: Dialer, C: Clock>(
        &mut self,
        bench: &Bench<'_, P, D, C>,
        held: &Held,
        line: &mut Line<D::Remote>,
        follow: &mut Follow,
        mut channels: Option<u32>,
        console: &mut Console,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<End> {
        let clock = bench.clock;
        loop {
            let helper = &mut line.helper;
            let on_this_line = async {
                let channels = match channels.take() {
                    Some(own) => own,
                    None => match follow.attach(helper, clock).await? {
                        Ok(channels) => channels,
                        Err(end) => return Ok(end),
                    },
                };
                follow.to_the_end(helper, channels, console, clock, events, stop).await
            };
            match on_this_line.await.map_err(|e| e.outcome(Outcome::Uncertain)) {
                Err(error) if error.code == ErrorCode::ConnectionLost && !follow.is_ending() => {
                    *line = self.again(bench, held, error, events, stop).await?;
                }
                done => return done,
            }
        }
    }

    fn left<P: Provider, D: Dialer, C: Clock>(&self, bench: &Bench<'_, P, D, C>) -> Duration {
        let passed = bench.clock.monotonic_ms().saturating_sub(self.began);
        self.limit.saturating_sub(Duration::from_millis(passed))
    }

    /// An attempt; when none led to anything for a while, or this one does, the news of the outage is told.
    async fn told_attempt<P: Provider, D: Dialer, C: Clock>(
        &mut self,
        bench: &Bench<'_, P, D, C>,
        held: &Held,
        left: Duration,
        stop: &Stop,
        cause: &KernelError,
        events: &mut dyn EventSink,
    ) -> Result<Way<D::Remote>> {
        let passed = bench.clock.monotonic_ms().saturating_sub(self.began);
        let hunch = HUNCH.saturating_sub(Duration::from_millis(passed));
        let mut untold = self.untold.take();
        let tried = {
            let mut attempt = pin!(self.attempt(bench, held, left, stop, cause));
            let soon = tokio::select! {
                tried = &mut attempt => Some(tried),
                () = bench.clock.sleep(hunch), if untold.is_some() => None,
            };
            match soon {
                Some(tried) => tried,
                None => {
                    untold.take().into_iter().for_each(|lost| events.emit(lost));
                    attempt.await
                }
            }
        };
        if tried.is_ok() {
            untold.take().into_iter().for_each(|lost| events.emit(lost));
        }
        self.untold = untold;
        tried
    }

    /// One attempt, in silence: what matters is told by its end.
    async fn attempt<P: Provider, D: Dialer, C: Clock>(
        &self,
        bench: &Bench<'_, P, D, C>,
        held: &Held,
        left: Duration,
        stop: &Stop,
        cause: &KernelError,
    ) -> Result<Way<D::Remote>> {
        let mut address = address(bench.state, bench.network, &held.lease, true)?;
        address.endpoint.ready_check = None;
        address.patience = left.min(ATTEMPT);
        let (mut quiet, never) = (Vec::new(), Stop::never());
        let trying = async {
            let reached = seek(bench, held, &address, &mut quiet, &never).await?;
            way(bench, reached, &mut Vec::new(), &never).await
        };
        tokio::select! {
            tried = trying => tried,
            () = bench.clock.sleep(left) => {
                Err(KernelError::new(ErrorCode::ConnectionLost, "the box did not answer in time"))
            }
            () = stop.reaches(Urgency::Gentle) => Err(left_alone(cause)),
        }
    }

    /// Waits before the next attempt: longer each time, and never in step with others.
    async fn wait<P: Provider, D: Dialer, C: Clock>(
        &mut self,
        bench: &Bench<'_, P, D, C>,
        stop: &Stop,
        cause: &KernelError,
    ) -> Result<()> {
        let share = random().map_or(128, |bytes| bytes[0]);
        let pause = self.pause.mul_f64(0.75 + f64::from(share) / 512.0);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        tokio::select! {
            () = bench.clock.sleep(pause.min(self.left(bench))) => Ok(()),
            () = stop.reaches(Urgency::Gentle) => Err(left_alone(cause)),
        }
    }
}

/// A helper was there before: that none runs there now, perhaps since a disk is full, is part of the outage.
fn helped<R>(way: Way<R>) -> Result<Line<R>> {
    match way {
        Way::Helper(line) => Ok(line),
        Way::Shell { why, .. } => Err(helpless(&why)),
    }
}

fn helpless(why: &str) -> KernelError {
    let what = format!("no helper runs on the box any more: {why}");
    KernelError::new(ErrorCode::ConnectionLost, what)
}

fn left_alone(cause: &KernelError) -> KernelError {
    let what = "interrupted while the box could not be reached";
    let error = KernelError::new(ErrorCode::Cancelled, what);
    KernelError { outcome: cause.outcome, causes: vec![cause.to_string()], ..error }
}

fn gave_up(limit: Duration, cause: KernelError, last: Option<KernelError>) -> KernelError {
    let limit = format_duration(limit);
    let what = format!("the connection was lost, and the box was not reached again within {limit}");
    let mut causes = vec![cause.to_string()];
    causes.extend(last.map(|error| error.to_string()));
    let error = KernelError::new(ErrorCode::ConnectionLost, what);
    KernelError { outcome: cause.outcome, causes, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_where_no_helper_runs_for_now_is_tried_again() {
        let error = helpless("no space left on device");
        assert!(error.code.retryable(), "{error}");
        assert!(error.to_string().contains("no space left"), "{error}");
    }
}
