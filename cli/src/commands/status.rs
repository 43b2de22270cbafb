//! `crabbox status` and `crabbox inspect`: one box as it is now.

use std::time::Duration;

use crabbox_host::Session;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::helper::{self, Opened};
use crabbox_kernel::lease::adopt;
use crabbox_kernel::ports::Dialer;
use crabbox_kernel::ports::{Clock, Provider, Remote, Stop};
use crabbox_kernel::run::reach::address;
use crabbox_kernel::run::ssh_lease::work_root;
use crabbox_kernel::time::{format_duration, parse_duration};
use crabbox_schemas::claim::Claim;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::helper::{BoxStat, RunsParams, method};
use crabbox_schemas::lease::Lease;
use crabbox_schemas::plugin::Purpose;
use crabbox_schemas::view::{StatusView, Telemetry};

use crate::args::ByName;
use crate::context::Context;
use crate::views;

/// A label with a sentence for people.
const NOTE: &str = "note";
/// How long the box's helper may take where what it says is asked for, and where it only completes the line.
const ASKED: Duration = Duration::from_secs(60);
const BRIEF: Duration = Duration::from_secs(2);
/// How long it may take to say how the box is doing.
const STAT: Duration = Duration::from_secs(5);

/// Show whether a box is there and ready
///
/// With --wait the box is touched and the command waits until it is ready.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox status blue-prawn
  crabbox status blue-prawn --wait --wait-timeout 2m")]
pub(crate) struct Args {
    #[command(flatten)]
    by: ByName,
    /// Wait until the box is ready
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "5m")]
    wait_timeout: String,
}

/// Show everything about a box
///
/// The same as status, with labels, claim and an OpenSSH command line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  crabbox inspect blue-prawn --json")]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    by: ByName,
}

/// Shows one box.
pub(crate) async fn run(ctx: &Context, args: Args) -> Result<i32> {
    let timeout = parse_duration(&args.wait_timeout).ok_or_else(|| {
        KernelError::new(ErrorCode::Usage, format!("not a duration: {:?}", args.wait_timeout))
    })?;
    let patience = if args.wait { timeout } else { Duration::ZERO };
    let ask = if ctx.global.json { ASKED } else { BRIEF };
    let (view, _) = look(ctx, &args.by, patience, ask).await?;
    if ctx.global.json {
        ctx.terminal.out_json(&view);
    } else {
        ctx.terminal.out(&line(&view));
        if let Some(note) = view.labels.get(NOTE) {
            ctx.terminal.err(note);
        }
    }
    if args.wait && !view.ready {
        return Err(KernelError::new(
            ErrorCode::Bootstrap,
            format!("{} was not ready in time", view.slug),
        )
        .hint("`crabbox inspect` shows how to reach it"));
    }
    Ok(0)
}

/// Shows one box in detail.
pub(crate) async fn inspect(ctx: &Context, args: InspectArgs) -> Result<i32> {
    let (mut view, lease) = look(ctx, &args.by, Duration::ZERO, ASKED).await?;
    view.ssh_command = lease.ssh.is_some().then(|| views::ssh_command(ctx, &lease, false));
    view.claim = ctx.claims().get(&lease.lease_id)?;
    if ctx.global.json {
        ctx.terminal.out_json(&view);
        return Ok(0);
    }
    ctx.terminal.out(&line(&view));
    let [transport, helper] =
        [&view.transport, &view.helper].map(|v| v.clone().unwrap_or_default());
    let facts = [
        ("workroot", &view.work_root),
        ("transport", &transport),
        ("helper", &helper),
        ("server", &view.server_id),
        ("key", &view.ssh_key),
    ];
    for (name, value) in facts.iter().filter(|f| !f.1.is_empty()) {
        ctx.terminal.out(&format!("{name}={value}"));
    }
    if let Some(telemetry) = &view.telemetry {
        let Telemetry { load1, load5, load15, uptime_seconds, .. } = telemetry;
        let uptime = format_duration(Duration::from_secs(*uptime_seconds));
        ctx.terminal.out(&format!("loads={load1},{load5},{load15}\nuptime={uptime}"));
    }
    if let Some(command) = &view.ssh_command {
        ctx.terminal.out(&format!("ssh={command}"));
    }
    for (name, value) in &view.labels {
        ctx.terminal.out(&format!("label {name}={value}"));
    }
    Ok(0)
}

async fn look(
    ctx: &Context,
    by: &ByName,
    patience: Duration,
    ask: Duration,
) -> Result<(StatusView, Lease)> {
    let name = ctx.name_or_only_claim(by.name())?;
    let provider = ctx.choose_provider(Some(&name), by.provider.as_deref())?;
    let session = ctx.open_provider(&provider).await?;
    let looked = examine(ctx, &session, &name, patience, ask).await;
    session.close().await;
    let (lease, claim, answer) = looked?;
    let mut view = views::status(ctx, &lease, &provider, claim.as_ref());
    view.ready = answer.is_some();
    let Told { transport, helper, telemetry } = answer.unwrap_or_default();
    view.transport = transport.map(str::to_owned);
    view.helper = helper.map(str::to_owned);
    view.telemetry = telemetry;
    Ok((view, lease))
}

async fn examine(
    ctx: &Context,
    session: &Session,
    name: &str,
    patience: Duration,
    ask: Duration,
) -> Result<(Lease, Option<Claim>, Option<Told>)> {
    let dialer = ctx.dialer();
    let bench = ctx.bench(session, &dialer);
    let deadline =
        ctx.clock.monotonic_ms() + u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let (lease, claim) = adopt::find(&bench, name, Purpose::Status).await?;
    if !patience.is_zero() {
        session.touch(&lease, "ready").await?;
    }
    loop {
        let answer = answers(ctx, &lease, ask).await;
        if answer.is_some() || ctx.clock.monotonic_ms() >= deadline {
            return Ok((lease, claim, answer));
        }
        ctx.clock.sleep(Duration::from_millis(500)).await;
    }
}

/// Whether the box lets us in now, and what its helper says when that may take time. A box without SSH is ready when
/// its provider says so.
async fn answers(ctx: &Context, lease: &Lease, patience: Duration) -> Option<Told> {
    if lease.ssh.is_none() {
        return (lease.status == "ready").then(Told::default);
    }
    let mut address = address(&ctx.state, ctx.network(), lease, true).ok()?;
    address.patience = Duration::from_secs(2);
    let dialled = ctx.dialer().dial(&address, &mut Vec::new(), &Stop::never()).await;
    let remote = dialled.ok()?;
    let told = tokio::select! {
        biased;
        told = ask_helper(ctx, lease, &remote), if !patience.is_zero() => told,
        () = ctx.clock.sleep(patience) => None,
    };
    let transport = Some(remote.transport());
    remote.close().await;
    Some(Told { transport, ..told.unwrap_or_default() })
}

/// What the box is reached over, what works there for us, and how it is doing.
#[derive(Default)]
struct Told {
    transport: Option<&'static str>,
    helper: Option<&'static str>,
    telemetry: Option<Telemetry>,
}

async fn ask_helper<R: Remote>(ctx: &Context, lease: &Lease, remote: &R) -> Option<Told> {
    let root = work_root(lease).ok()?;
    let opened =
        helper::open(remote, &ctx.binaries, root, &ctx.clock, &mut Vec::new()).await.ok()?;
    let Opened::Helper(mut helper) = opened else {
        return Some(Told { helper: Some("sh"), ..Told::default() });
    };
    let params = RunsParams { base_dir: format!("{root}/{}", lease.lease_id), run_id: None };
    let stat: Result<BoxStat> = helper.call(method::BOX_STAT, &params, STAT, &ctx.clock).await;
    let telemetry = stat.ok().map(|stat| views::telemetry(&stat, ctx.clock.now_ms()));
    Some(Told { helper: Some("static"), telemetry, ..Told::default() })
}

fn line(view: &StatusView) -> String {
    let pairs = [
        ("id", view.id.as_str()),
        ("slug", &view.slug),
        ("provider", &view.provider),
        ("state", &view.state),
        ("server", &view.server_id),
        ("type", &view.server_type),
        ("host", &view.host),
        ("idle_for", &view.idle_for),
        ("idle_timeout", &view.idle_timeout),
        ("expires", &view.expires_at),
    ];
    let mut words: Vec<String> = pairs
        .iter()
        .filter(|p| !p.1.is_empty())
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    words.push(format!("ready={}", view.ready));
    if let Some(address) = view.tailscale.as_ref().and_then(|inside| inside.ipv4.as_ref()) {
        words.push(format!("tailscale={address}"));
    }
    if let Some(telemetry) = &view.telemetry {
        let Telemetry { load1, memory_percent, disk_percent, .. } = telemetry;
        words.push(format!("load={load1} memory={memory_percent}% disk={disk_percent}%"));
    }
    words.join(" ")
}

/// Extends a lease without a command.
pub(crate) async fn heartbeat(ctx: &Context, by: &ByName) -> Result<i32> {
    let name = ctx.name_or_only_claim(by.name())?;
    let provider = ctx.choose_provider(Some(&name), by.provider.as_deref())?;
    let session = ctx.open_provider(&provider).await?;
    let dialer = ctx.dialer();
    let bench = ctx.bench(&session, &dialer);
    let touched = async {
        let (lease, claim) = adopt::find(&bench, &name, Purpose::Use).await?;
        Ok::<_, KernelError>((session.touch(&lease, "ready").await?, claim))
    }
    .await;
    session.close().await;
    let (lease, claim) = touched?;
    if let Some(mut claim) = claim {
        claim.last_used_at = crabbox_kernel::time::rfc3339(ctx.clock.now_ms());
        ctx.claims().put(&claim)?;
    }
    let mut view = views::status(ctx, &lease, &provider, None);
    if ctx.global.json {
        view.ready = answers(ctx, &lease, Duration::ZERO).await.is_some();
        ctx.terminal.out_json(&view);
    } else {
        let idle = format_duration(Duration::from_secs(
            lease.labels.get("idle_timeout_secs").and_then(|s| s.parse().ok()).unwrap_or_default(),
        ));
        ctx.terminal
            .out(&format!("touched {} expires={} idle_timeout={idle}", view.id, view.expires_at));
    }
    Ok(0)
}
