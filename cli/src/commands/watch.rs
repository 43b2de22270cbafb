//! `crabbox watch`: run a command again whenever the tree changes.

use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::time::Duration;

use crabbox_daemon::Watcher;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::plan::{Plan, Sync};
use crabbox_kernel::ports::{Stop, Urgency};
use crabbox_kernel::run::Outcome;
use crabbox_kernel::sync::Hint;
use crabbox_schemas::error::ErrorCode;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::args::LeaseFlags;
use crate::checkout::{self, Known, Place};
use crate::commands::{self, stop};
use crate::context::Context;

/// How often to look at a tree that cannot be watched.
const ROUND: Duration = Duration::from_secs(1);
/// Without `--debounce` the tree must be quiet for as long as the edits before took, within these bounds: a file that
/// is saved is run at once, a checkout when it is over.
const QUIET: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_millis(250);
/// Edits that never pause are waited for this many times the longest pause, then it begins.
const PAUSES: u32 = 10;

/// Run a command on a box again whenever a file changes
///
/// Runs the command once, then again each time the checkout has changed and then been quiet for a moment. Files that
/// are not sent do not count. All runs use one box, which is given back at the end: after Ctrl-C, or when nothing
/// changed for --idle-exit. With --id an existing box is used and kept. A change during a run is followed by one
/// more run; with --restart it ends the run that is under way. Flags of `run` mean the same here; the exit status is
/// the last run's.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(after_help = "Examples:
  crabbox watch -- pnpm test
  crabbox watch --id blue-prawn --restart -- cargo test -p api
  crabbox watch --idle-exit 20m --clear --shell -- 'make && make test'")]
pub(crate) struct Args {
    /// How long the tree must be quiet before the command is run again; without this, as long as the edits took,
    /// 10ms to 250ms
    #[arg(long, value_name = "TIME", help_heading = "Watch")]
    debounce: Option<String>,
    /// End when nothing has changed for this long
    #[arg(long, value_name = "TIME", help_heading = "Watch")]
    idle_exit: Option<String>,
    /// Stop a run when something changes, instead of letting it finish
    #[arg(long, help_heading = "Watch")]
    restart: bool,
    /// Clear the screen before each run
    #[arg(long, help_heading = "Watch")]
    clear: bool,
    #[command(flatten)]
    run: commands::run::Args,
}

impl Args {
    /// Configuration keys these flags set.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        self.run.settings()
    }

    fn check(&self) -> Result<()> {
        let refused = [
            ("--no-sync", self.run.sync.no_sync),
            ("--detach", self.run.detach),
            ("--script-stdin", self.run.command.script_stdin),
        ];
        match refused.iter().find(|flag| flag.1) {
            Some((flag, _)) => Err(KernelError::new(
                ErrorCode::Usage,
                format!("{flag} makes no sense while files are watched"),
            )),
            None => Ok(()),
        }
    }
}

/// Runs until it is ended; the last run's exit status.
pub(crate) async fn run(ctx: &Context, mut args: Args) -> Result<i32> {
    args.check()?;
    let pause = commands::run::duration("--debounce", args.debounce.as_deref())?;
    let pause = pause.map_or(QUIET, |pause| pause..=pause);
    let idle = commands::run::duration("--idle-exit", args.idle_exit.as_deref())?;
    let own = args.run.id.is_none();
    let give_back = own && !args.run.keep;
    args.run.watched = give_back;
    args.run.keep = true;
    let (id, flag) = (args.run.id.as_deref(), args.run.lease.provider.as_deref());
    let provider = ctx.choose_provider(id, flag)?;
    let mut eyes = Eyes::open(checkout::find(ctx)?, pause);
    let mut watch = Watch { ctx, args, provider, own, idle, seen: None, status: 0, wanted: None };
    let ended = watch.go(&mut eyes).await;
    if let Some(lease) = watch.args.run.id.as_deref().filter(|_| give_back) {
        match stop::give_back(ctx, lease).await {
            Ok(line) => ctx.terminal.err(&line),
            Err(error) => ctx.terminal.fail(&error),
        }
    }
    ended.map(|()| watch.status)
}

/// Names the content of a tree.
type Digest = [u8; 32];

/// One watch, from the first run to the last.
struct Watch<'a> {
    ctx: &'a Context,
    args: Args,
    provider: String,
    /// The box was leased here.
    own: bool,
    idle: Option<Duration>,
    /// Digest of the tree that was run last.
    seen: Option<Digest>,
    status: i32,
    /// What was said about new boxes, for when this one ends.
    wanted: Option<LeaseFlags>,
}

impl Watch<'_> {
    async fn go(&mut self, eyes: &mut Eyes) -> Result<()> {
        let (mut plan, mut digest) = self.plan(eyes)?;
        loop {
            self.seen = Some(digest);
            let outcome = self.run_once(&plan, eyes).await?;
            self.status = outcome.exit_code;
            if !self.remember(&outcome) || self.is_stopped() {
                return Ok(());
            }
            let until = self.idle.map(|idle| Instant::now() + idle);
            (plan, digest) = match self.next(eyes, until).await {
                Some(next) => next,
                None => return Ok(()),
            };
            if self.args.clear {
                self.ctx.terminal.bytes(false, b"\x1b[2J\x1b[3J\x1b[H");
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.ctx.stop.urgency() > Urgency::None
    }

    /// What a run would do now, and the digest of the tree it would run.
    fn plan(&self, eyes: &mut Eyes) -> Result<(Plan, Digest)> {
        let Args { run, .. } = &self.args;
        let known = Known { quiet: self.seen.is_some(), ..eyes.look() };
        let plan = commands::run::plan(self.ctx, &self.provider, run, &known)?;
        let looked = match &plan.sync {
            Sync::Tree { .. } => None,
            // Others send it, and we see whether it changed.
            Sync::Own { .. } | Sync::Off => {
                Some(checkout::scan(self.ctx, &eyes.place, false, &known)?)
            }
        };
        let Sync::Tree { tree, .. } = looked.as_ref().unwrap_or(&plan.sync) else {
            return Err(KernelError::new(ErrorCode::Usage, "there is no tree to watch"));
        };
        eyes.known.clone_from(&tree.token);
        let digest = tree.digest;
        Ok((plan, digest))
    }

    /// Runs once. With `--restart` a change ends it early.
    async fn run_once(&self, plan: &Plan, eyes: &mut Eyes) -> Result<Outcome> {
        let Args { run, restart, .. } = &self.args;
        let (wish, stop) = Stop::new();
        let running = commands::run::carry_out(self.ctx, &self.provider, run, plan, false, &stop);
        let stopping = async {
            for urgency in [Urgency::Gentle, Urgency::Now] {
                self.ctx.stop.reaches(urgency).await;
                wish.send_replace(urgency);
            }
            std::future::pending::<Infallible>().await
        };
        let changing = async {
            loop {
                eyes.stir().await;
                if *restart {
                    eyes.settle().await;
                    let plan = self.plan(eyes);
                    if plan.is_ok_and(|(_, digest)| Some(digest) != self.seen) {
                        let first = wish.send_if_modified(|now| {
                            let first = *now == Urgency::None;
                            *now = (*now).max(Urgency::Gentle);
                            first
                        });
                        if first {
                            self.ctx.terminal.err("the tree changed: stopping this run");
                        }
                    }
                }
            }
        };
        tokio::select! {
            outcome = running => outcome,
            never = stopping => match never {},
            never = changing => match never {},
        }
    }

    /// Uses the box of this run for the next; false when there is nothing to go on with.
    fn remember(&mut self, outcome: &Outcome) -> bool {
        let run = &mut self.args.run;
        let ended = outcome.error.as_ref().is_some_and(|error| {
            use ErrorCode::{ClaimConflict, LeaseExpired, NotFound};
            matches!(error.code, LeaseExpired | NotFound | ClaimConflict)
        });
        match (&run.id, ended) {
            (None, _) => {
                run.id = outcome.timing.lease_id.clone().filter(|_| outcome.kept());
                self.wanted = Some(std::mem::take(&mut run.lease));
                run.id.is_some()
            }
            (Some(_), true) => {
                run.id = None;
                run.lease = self.wanted.take().unwrap_or_default();
                self.seen = None;
                self.own
            }
            (Some(_), false) => true,
        }
    }

    /// The next run, when the tree is not what it was; `None` when it is time to end.
    async fn next(&self, eyes: &mut Eyes, until: Option<Instant>) -> Option<(Plan, Digest)> {
        let mut told = false;
        loop {
            if std::mem::take(&mut eyes.stirred) {
                tokio::select! {
                    () = eyes.settle() => {}
                    () = self.ctx.stop.reaches(Urgency::Gentle) => return None,
                }
            }
            match self.plan(eyes) {
                Ok(next) if Some(next.1) != self.seen => return Some(next),
                Ok(_) => {}
                Err(error) => self.ctx.terminal.fail(&error),
            }
            if !std::mem::replace(&mut told, true) {
                self.ctx.terminal.err("waiting for changes; Ctrl-C ends this");
            }
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = eyes.stir() => {}
                () = self.ctx.stop.reaches(Urgency::Gentle) => return None,
                () = over => return None,
            }
        }
    }
}

/// Sees that something happens in a tree. Where that cannot be seen, something is said to happen every second.
struct Eyes {
    place: Place,
    watcher: Option<Watcher>,
    /// What the last scan's index calls its moment.
    known: Option<String>,
    /// The shortest and the longest quiet that ends edits.
    pause: RangeInclusive<Duration>,
    /// Something happened that nobody looked at yet.
    stirred: bool,
}

impl Eyes {
    fn open(place: Place, pause: RangeInclusive<Duration>) -> Self {
        let watcher = Watcher::begin(&place.root, &[]).ok();
        Self { place, watcher, known: None, pause, stirred: false }
    }

    /// What is known before a scan.
    fn look(&mut self) -> Known {
        let token = self.watcher.as_mut().and_then(Watcher::token);
        if token.is_none() && self.watcher.is_some() {
            // It lost track: the next one begins with a full look.
            self.watcher = Watcher::begin(&self.place.root, &[]).ok();
            return Known {
                token: self.watcher.as_mut().and_then(Watcher::token),
                ..Known::default()
            };
        }
        let hint = self.known.as_ref().and_then(|known| {
            let changed = self.watcher.as_ref()?.since(known)?;
            Some(Hint { token: known.clone(), changed })
        });
        Known { token, hint, quiet: false }
    }

    /// Ends when something happens.
    async fn stir(&mut self) {
        match &mut self.watcher {
            Some(watcher) => loop {
                if watcher.news().await.is_err() {
                    sleep(ROUND).await;
                }
                if watcher.catch_up() {
                    break;
                }
            },
            None => sleep(ROUND).await,
        }
        self.stirred = true;
    }

    /// Ends when nothing has happened for a moment, or everything goes on for too long.
    async fn settle(&mut self) {
        let begun = Instant::now();
        let end = begun + *self.pause.end() * PAUSES;
        while Instant::now() < end && self.watcher.is_some() {
            let quiet = begun.elapsed().clamp(*self.pause.start(), *self.pause.end());
            if timeout(quiet, self.stir()).await.is_err() {
                break;
            }
        }
        self.stirred = false;
    }
}
