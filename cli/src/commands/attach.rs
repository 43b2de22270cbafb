//! `attach`, `wait`, and the end of a run from outside: whatever is recorded here, and the rest from the box.

use std::path::Path;
use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::{Event, Stream};
use crabbox_kernel::lease::{adopt, in_use};
use crabbox_kernel::ports::{Clock, Urgency};
use crabbox_kernel::run::attach::{End, Seen, Wanted, attach as take_up};
use crabbox_kernel::run::record::{Filter, Follow, Followed, Recorder, RunEnd};
use crabbox_kernel::time::{parse_instant, rfc3339};
use crabbox_schemas::claim::Claim;
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::helper::RunExit;
use crabbox_schemas::ids::{LeaseId, RunId};
use crabbox_schemas::run::{RunRecord, Timing};

use crate::commands::runs::{find, id_of};
use crate::context::Context;
use crate::screen::Screen;

/// Silence of the box after which everything it has was seen.
const HUSH: Duration = Duration::from_millis(500);

/// How long a box may take to tell of one run before it is given back, and of how many it is asked.
const LAST_LOOK: Duration = Duration::from_secs(5);
const MOST_LOOKS: usize = 16;

/// How long a box remembers runs at least.
const KEPT_MS: u64 = 23 * 3600 * 1000;

/// Which run, and where to ask for it.
#[derive(Debug, clap::Args)]
pub(crate) struct RunOnBox {
    /// The run; the newest one when left out
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// The box it is on, for a run that another machine started; without RUN, the run
    #[arg(long, value_name = "BOX")]
    id: Option<String>,
}

impl RunOnBox {
    pub(crate) fn new(run: &str, on: Option<&String>) -> Self {
        Self { run: Some(run.to_owned()), id: on.cloned() }
    }
}

/// Follow a run and exit with its status
///
/// Prints what was printed so far, then follows until the run ends: one that is running here, one that was detached,
/// and one whose crabbox died. Ctrl-C leaves it alone; `crabbox stop RUN` ends it. From another machine that holds the
/// lease, name the box with --id.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox attach run_0123456789ab
  crabbox attach run_0123456789ab --id blue-prawn")]
pub(crate) struct Args {
    #[command(flatten)]
    which: RunOnBox,
}

/// Wait until a run ends and exit with its status
///
/// Prints nothing of what the run prints.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox wait run_0123456789ab && crabbox logs run_0123456789ab
  crabbox wait run_0123456789ab --json")]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    which: RunOnBox,
}

/// What is shown of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Its output.
    Output,
    /// Nothing.
    Silent,
}

/// How long a run is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Until everything was seen that is there.
    Now,
    /// Until it ends.
    End,
    /// Until it ends, which is brought about.
    Stopped,
}

/// Follows a run.
pub(crate) async fn run(ctx: &Context, args: &Args) -> Result<i32> {
    let sight = if ctx.global.json { Sight::Silent } else { Sight::Output };
    let run = see(ctx, &args.which, sight, Until::End).await?;
    told(ctx, &run)
}

/// Waits for a run.
pub(crate) async fn wait(ctx: &Context, args: &WaitArgs) -> Result<i32> {
    let run = see(ctx, &args.which, Sight::Silent, Until::End).await?;
    told(ctx, &run)
}

/// The end of a run as a document and a status.
fn told(ctx: &Context, run: &RunRecord) -> Result<i32> {
    if run.state == "lost" {
        let what = match run.started.as_deref().unwrap_or("maybe") {
            "no" => format!("run {} was lost; its command was never started", run.id),
            started => format!("run {} was lost; its command was started: {started}", run.id),
        };
        return Err(KernelError::new(ErrorCode::ConnectionLost, what)
            .hint("`crabbox cleanup` finishes what it left"));
    }
    if run.state == "running" {
        let what = format!("the crabbox that followed {} died; the run goes on", run.id);
        return Err(KernelError::new(ErrorCode::ConnectionLost, what)
            .hint(format!("`crabbox attach {}` takes it up", run.id)));
    }
    match ctx.global.json {
        true => ctx.terminal.out_json(run),
        false if run.by.as_deref() == Some("crabbox") => say_why(ctx, run),
        false => {}
    }
    Ok(run.exit_code.unwrap_or(1))
}

/// Why a run ended that its command did not end: whoever follows it saw nothing of that.
fn say_why(ctx: &Context, run: &RunRecord) {
    let id = RunId::parse(&run.id);
    let events = id.and_then(|id| ctx.runs().events(&id, 0, usize::MAX).ok()).unwrap_or_default();
    let why = events.into_iter().rev().find(|event| event.kind == "run.failed");
    let why = why.and_then(|event| event.message).or_else(|| run.error_kind.clone());
    ctx.terminal.warn(&format!(
        "crabbox ended {}, not its command: {}",
        run.id,
        why.unwrap_or_else(|| "no reason is recorded".to_owned())
    ));
}

/// Ends a run's command: its record, and whether that was news.
pub(crate) async fn end(ctx: &Context, which: &RunOnBox) -> Result<(RunRecord, &'static str)> {
    let Named { run, on, foreign } = name(ctx, which)?;
    let over = matches!(&*run.state, "succeeded" | "failed");
    if over {
        return Ok((run, "already_ended"));
    }
    let id = id_of(&run)?;
    let seen = look_at(ctx, run, on, Sight::Silent, Until::Stopped, foreign).await;
    let run = if foreign { known_there(ctx, &id, seen) } else { seen }?;
    Ok((run, "stopped"))
}

/// Runs of a lease that go on by themselves, before their box is given back: what it has of them is recorded. Which
/// still run comes back, and whether the box said so.
pub(crate) async fn last_look(ctx: &Context, lease: &LeaseId) -> Vec<(RunRecord, bool)> {
    let mut going = Vec::new();
    for run in alone(ctx, lease) {
        let which = RunOnBox::new(&run.id, None);
        let seen = tokio::select! {
            seen = see(ctx, &which, Sight::Silent, Until::Now) => seen.ok(),
            () = ctx.clock.sleep(LAST_LOOK) => None,
        };
        let told = seen.is_some();
        going.push((seen.unwrap_or(run), told));
    }
    going.retain(|(run, _)| run.state == "running");
    going
}

/// What was still running when its box was given back has ended with it.
pub(crate) fn end_with_box(ctx: &Context, going: Vec<(RunRecord, bool)>) {
    for (run, told) in going {
        let now = ctx.clock.now_ms();
        let resumed = Recorder::resume(&ctx.state, run, ctx.record_limits(), now);
        let Ok(Some((mut recorder, _))) = resumed else { continue };
        let what = "its box was given back while it ran";
        let doubt = if told { Outcome::Completed } else { Outcome::Uncertain };
        let error = KernelError::new(ErrorCode::LeaseExpired, what).outcome(doubt);
        let _ = recorder.take(&Event::Failed { error: error.clone() }, now);
        let _ = recorder.finish(&RunEnd::failed(Some(error)), now);
    }
}

/// The newest runs of a lease that nobody follows.
fn alone(ctx: &Context, lease: &LeaseId) -> Vec<RunRecord> {
    let (lease, state) = (Some(lease.to_string()), Some("running".to_owned()));
    let mut runs = ctx.runs().list(&Filter { lease, state, limit: Some(MOST_LOOKS) });
    runs.retain(|run| id_of(run).is_ok_and(|id| !ctx.runs().is_live(&id)));
    runs
}

/// Looks at a run: what is recorded here first, then what the box has of it. Returns its record as it is then.
pub(crate) async fn see(
    ctx: &Context,
    which: &RunOnBox,
    sight: Sight,
    until: Until,
) -> Result<RunRecord> {
    let Named { run, on, foreign } = name(ctx, which)?;
    let id = id_of(&run)?;
    let seen = look_at(ctx, run, on, sight, until, foreign).await;
    if foreign { known_there(ctx, &id, seen) } else { seen }
}

/// The run that is meant, and the box to ask.
struct Named<'a> {
    run: RunRecord,
    on: Option<&'a str>,
    /// Nothing was recorded of it here.
    foreign: bool,
}

/// Forgets a run of another machine when its box told nothing of it.
fn known_there(ctx: &Context, id: &RunId, seen: Result<RunRecord>) -> Result<RunRecord> {
    let store = ctx.runs();
    let told = |run: RunRecord| run.started.as_deref() == Some("yes") || run.log_bytes > 0;
    if seen.is_err() && !store.find(id.as_str()).is_ok_and(told) {
        store.forget(id);
    }
    seen
}

fn unknown_there(id: &RunId, on: &str) -> KernelError {
    KernelError::new(ErrorCode::NotFound, format!("{on} knows no run {id}"))
        .hint("check the id; `crabbox list` names the boxes, `crabbox history` this machine's runs")
}

/// The record of the run that is meant, and the box to ask.
fn name<'a>(ctx: &Context, which: &'a RunOnBox) -> Result<Named<'a>> {
    let (name, on) = match (&which.run, &which.id) {
        (None, Some(run)) => (Some(run), None),
        (run, on) => (run.as_ref(), on.as_deref()),
    };
    match (find(ctx, name.map(String::as_str)), on) {
        (Err(error), Some(at)) if error.code == ErrorCode::NotFound => {
            let run =
                foreign(ctx, name.map(String::as_str).unwrap_or_default(), at).ok_or(error)?;
            Ok(Named { run, on, foreign: true })
        }
        (found, _) => Ok(Named { run: found?, on, foreign: false }),
    }
}

/// Looks at a run whose record is known.
async fn look_at(
    ctx: &Context,
    run: RunRecord,
    on: Option<&str>,
    sight: Sight,
    until: Until,
    foreign: bool,
) -> Result<RunRecord> {
    let id = id_of(&run)?;
    let store = ctx.runs();
    let live = store.is_live(&id);
    let open =
        run.state == "running" || run.state == "lost" && run.started.as_deref() != Some("no");
    let on_box = match (open && (!live || until == Until::Stopped), on) {
        (false, _) => None,
        (true, Some(on)) => Some(on.to_owned()),
        (true, None) => claim_of(ctx, &run).map(|claim| claim.lease_id.to_string()),
    };
    let Some(on_box) = on_box else {
        if run.state == "running" && !live && until != Until::Now {
            let what = format!("run {id} may go on, but its box is not claimed here");
            return Err(KernelError::new(ErrorCode::NotFound, what)
                .hint("name the box with --id; when it was given back, the run ended with it"));
        }
        return follow_here(ctx, &run, sight, until != Until::Now && live).await;
    };
    let recorder =
        Recorder::resume(&ctx.state, run.clone(), ctx.record_limits(), ctx.clock.now_ms())?;
    let (recorder, from) = match recorder {
        Some((recorder, from)) => (Some(recorder), from),
        None if until == Until::Stopped => (None, [0, 0]),
        None => return follow_here(ctx, &run, sight, until != Until::Now).await,
    };
    if sight == Sight::Output {
        replay(ctx, &run)?;
    }
    let mut screen = Screen::for_earlier(ctx, recorder, sight == Sight::Silent);
    let wanted = Wanted {
        run_id: &id,
        from,
        reconnect: ctx.values.reconnect,
        end: until == Until::Stopped,
        hush: (until == Until::Now).then_some(HUSH),
        forestall: surely_known(&run, ctx.clock.now_ms()),
    };
    let seen = ask_box(ctx, &on_box, &wanted, &mut screen).await;
    if foreign && matches!(seen, Ok(Seen { end: End::Unknown, .. })) {
        return Err(unknown_there(&id, &on_box));
    }
    close(ctx, run, seen, screen.take_recorder(), until)
}

/// The claim of the lease a run is on.
fn claim_of(ctx: &Context, run: &RunRecord) -> Option<Claim> {
    ctx.claims().find(&run.lease_id).ok().flatten()
}

/// A record for a run that another machine started.
fn foreign(ctx: &Context, run: &str, on: &str) -> Option<RunRecord> {
    let id = RunId::parse(run)?;
    let claim = ctx.claims().find(on).ok().flatten();
    let now = ctx.clock.now_ms();
    let record = RunRecord {
        id: id.to_string(),
        lease_id: claim.as_ref().map(|c| c.lease_id.to_string()).unwrap_or_default(),
        slug: claim.as_ref().map(|c| c.slug.clone()).unwrap_or_default(),
        provider: claim.map(|c| c.provider).unwrap_or_default(),
        repo_root: ctx.repo_root(),
        detached: true,
        started_at: rfc3339(now),
        ..RunRecord::default()
    };
    ctx.state.prepare().ok()?;
    let mut recorder = Recorder::begin(&ctx.state, record, ctx.record_limits(), now).ok()?;
    let _ = recorder.take(&Event::CommandSent, now);
    Some(recorder.leave(&Timing::default(), now))
}

async fn ask_box(
    ctx: &Context,
    on_box: &str,
    wanted: &Wanted<'_>,
    screen: &mut Screen<'_>,
) -> Result<Seen> {
    let provider = ctx.provider(&ctx.choose_provider(Some(on_box), None)?)?;
    let dialer = ctx.warm_dialer();
    let bench = ctx.bench(&provider, &dialer);
    // A run belongs to whoever holds the lease, from whichever folder they ask.
    let root = ctx.claims().find(on_box)?.map_or_else(|| ctx.repo_root(), |c| c.repo_root);
    let seen = async {
        let held = adopt::take(&bench, on_box, Path::new(&root), false, &mut Vec::new()).await?;
        let following = take_up(&bench, &held, wanted, screen, &ctx.stop);
        in_use(&bench, &held, &ctx.stop, following).await
    }
    .await;
    provider.close().await;
    seen
}

/// Writes down what became of the run, as far as that is known now.
fn close(
    ctx: &Context,
    run: RunRecord,
    seen: Result<Seen>,
    recorder: Option<Recorder>,
    until: Until,
) -> Result<RunRecord> {
    let now = ctx.clock.now_ms();
    let end = match &seen {
        Ok(Seen { end: End::Exited(exit) | End::Stopped(Some(exit)), started_ms }) => {
            ended(exit, *started_ms)
        }
        Ok(Seen { end: End::Unknown, .. }) if let Some(end) = seen_here(ctx, &run) => end,
        Ok(Seen { end, .. }) if end.loss().is_some() => RunEnd::failed(end.loss()),
        Err(error) if matches!(error.code, ErrorCode::LeaseExpired | ErrorCode::NotFound) => {
            RunEnd::failed(Some(error.clone().outcome(Outcome::Uncertain)))
        }
        Err(error) if !run.detached => {
            // Nothing new was learnt of a run whose crabbox died; and nothing was ended.
            let deaf = error.code == ErrorCode::Unsupported && until != Until::Stopped;
            return if deaf { Ok(run) } else { Err(error.clone()) };
        }
        Ok(_) | Err(_) => {
            let left = recorder.map(|recorder| recorder.leave(&Timing::default(), now));
            return match seen {
                Err(error) => Err(error),
                Ok(_) if until == Until::Now || until == Until::Stopped => Ok(left.unwrap_or(run)),
                Ok(_) => Err(left_alone(&run.id)),
            };
        }
    };
    let record = match recorder {
        Some(recorder) => recorder.finish(&end, now),
        None => RunRecord { exit_code: Some(end.exit_code), ..run },
    };
    match (seen, end.error) {
        (Err(error), _) => Err(error),
        // Of a run that waits for the work tree nothing has to be ended.
        (Ok(Seen { end: End::NotStarted, .. }), _) if until == Until::Stopped => Ok(record),
        (Ok(Seen { end: End::Lost | End::NotStarted | End::Unknown, .. }), Some(error)) => {
            Err(error.at("command"))
        }
        _ => Ok(record),
    }
}

fn ended(exit: &RunExit, started_ms: u64) -> RunEnd {
    let late = "the command was stopped when its time was over";
    let error = exit.timed_out.then(|| KernelError::new(ErrorCode::CommandTimeout, late));
    let command_ms = exit.ended_ms.saturating_sub(started_ms);
    RunEnd {
        exit_code: error.as_ref().map_or(exit.code, |error| error.code.exit_status()),
        signal: exit.signal.clone(),
        error,
        timing: Timing { command_ms, ..Timing::default() },
    }
}

/// The end of a run as recorded here: its crabbox saw it, told the box to forget the run, and then died.
fn seen_here(ctx: &Context, run: &RunRecord) -> Option<RunEnd> {
    let events = ctx.runs().events(&id_of(run).ok()?, 0, usize::MAX).ok()?;
    let end = events.into_iter().rev().find(|event| event.kind == "command.finished")?;
    Some(RunEnd { exit_code: end.exit_code?, signal: None, error: None, timing: Timing::default() })
}

/// Whether a box would still know of this run, had it started there. When a run of another machine began, and whether
/// it is about to, only that one knows: its command is not recorded here.
fn surely_known(run: &RunRecord, now_ms: u64) -> bool {
    let is_foreign = run.command.is_empty();
    let begun = parse_instant(&run.started_at).unwrap_or(0);
    let is_recent = now_ms.saturating_sub(begun) < KEPT_MS;
    !is_foreign && is_recent && run.started.as_deref() != Some("yes")
}

fn left_alone(run: &str) -> KernelError {
    KernelError::new(ErrorCode::Cancelled, format!("left {run}, which goes on"))
        .hint(format!("`crabbox attach {run}` follows it again, `crabbox stop {run}` ends it"))
}

/// Prints what is recorded here of a run's output.
fn replay(ctx: &Context, run: &RunRecord) -> Result<()> {
    let mut tail = Follow::open(&ctx.runs(), &id_of(run)?)?;
    loop {
        let news = tail.poll()?;
        if news.is_empty() {
            return Ok(());
        }
        for one in news {
            if let Followed::Output { stream, bytes, .. } = one {
                ctx.terminal.bytes(stream == Stream::Stderr, &bytes);
            }
        }
    }
}

/// Says of a record that was shown that it is not all.
fn admit_gaps(ctx: &Context, run: &RunRecord, sight: Sight) {
    if sight == Sight::Output && run.log_truncated {
        let id = &run.id;
        ctx.terminal.warn(&format!(
            "not all that {id} printed was kept here: `crabbox events {id}` says what is missing; history.maxBytes sets how much is kept"
        ));
    }
}

/// Follows what is recorded here; a live run to its end when that is wanted.
async fn follow_here(
    ctx: &Context,
    run: &RunRecord,
    sight: Sight,
    until_end: bool,
) -> Result<RunRecord> {
    let mut tail = Follow::open(&ctx.runs(), &id_of(run)?)?;
    loop {
        let news = tail.poll()?;
        if news.is_empty() {
            if !until_end {
                admit_gaps(ctx, run, sight);
                return Ok(run.clone());
            }
            ctx.clock.sleep(Duration::from_millis(50)).await;
        }
        if ctx.stop.urgency() > Urgency::None {
            return Err(left_alone(&run.id));
        }
        for one in news {
            match one {
                Followed::Output { stream, bytes, .. } if sight == Sight::Output => {
                    if !ctx.terminal.bytes(stream == Stream::Stderr, &bytes) {
                        return Ok(run.clone());
                    }
                }
                Followed::Output { .. } => {}
                Followed::End(record) => {
                    admit_gaps(ctx, &record, sight);
                    return Ok(*record);
                }
            }
        }
    }
}
