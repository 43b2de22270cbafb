//! `crabbox daemon`: look at the process that keeps connections, or end it.

use std::path::Path;
use std::time::Duration;

use crabbox_daemon::{Absent, Server, serve};
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::helper::Binaries;
use crabbox_kernel::time::format_duration;
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::daemon::DaemonView;
use crabbox_schemas::deed::DaemonStopView;
use crabbox_schemas::error::ErrorCode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use crate::clock::SystemClock;
use crate::context::Context;
use crate::warm;

/// How long a daemon may take to do as it is told before it is killed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Look at the process that keeps connections warm, or end it
///
/// Commands for boxes that stay start it when they need it, and it ends by itself when it is not used any more. It
/// keeps SSH connections and nothing on disk: ending it, also by force, costs nothing but time. Everything works
/// without it: see --no-daemon, CRABBOX_DAEMON=0 and `daemon.enabled`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox daemon status
  crabbox daemon stop")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show what it keeps
    Status,
    /// End it and its connections
    Stop,
    /// Be it
    #[command(hide = true)]
    Serve,
}

/// Runs one of them.
pub(crate) async fn run(ctx: &Context, args: &Args) -> Result<i32> {
    match args.what {
        What::Status => status(ctx).await,
        What::Stop => stop(ctx).await,
        What::Serve => be(ctx).await,
    }
}

async fn be(ctx: &Context) -> Result<i32> {
    // Started from a terminal's job; its Ctrl-C is not meant for us.
    let _ = rustix::process::setsid();
    let server = Server {
        place: warm::place(ctx)?,
        build: warm::build(&ctx.exe),
        idle: ctx.values.daemon.idle_timeout,
        dialer: ctx.ssh().for_keeping(),
        binaries: ctx.exe.parent().map_or_else(Binaries::none, |dir| Binaries::in_dir(dir.into())),
        clock: SystemClock::new(),
    };
    serve(server, &ctx.stop).await.map(|()| 0)
}

async fn status(ctx: &Context) -> Result<i32> {
    let caller = warm::way(ctx)?;
    let socket = caller.place.socket.to_string_lossy().into_owned();
    let view = match caller.any().await {
        Ok(mut client) => match timeout(PATIENCE, client.status()).await {
            Ok(Ok(view)) => view?,
            _ => return Err(wedged(Some(client.hello.pid.cast_signed()))),
        },
        Err(Absent::NotRunning) => {
            DaemonView { schema_version: SCHEMA_VERSION, socket, ..DaemonView::default() }
        }
        Err(Absent::Wedged(pid)) => return Err(wedged(pid)),
        Err(absent) => return Err(in_the_way(&absent, &caller.place.socket)),
    };
    if ctx.global.json {
        ctx.terminal.out_json(&view);
    } else {
        lines(&view).iter().for_each(|line| ctx.terminal.out(line));
    }
    Ok(0)
}

fn lines(view: &DaemonView) -> Vec<String> {
    let Some(pid) = view.pid else { return vec!["not running".to_owned()] };
    let up = format_duration(Duration::from_secs(view.uptime_secs));
    let mib = view.memory_bytes >> 20;
    let head = format!("running pid={pid} up={up} memory={mib}MiB socket={}", view.socket);
    let boxes = view.connections.iter().map(|kept| {
        let (helper, idle) = (if kept.helper { "yes" } else { "no" }, kept.idle_secs);
        let idle = format_duration(Duration::from_secs(idle));
        format!(
            "box {} lease={} clients={} helper={helper} idle={idle}",
            kept.peer, kept.lease, kept.clients
        )
    });
    let folders = view.watched.iter().map(|w| format!("watched {} folders={}", w.root, w.folders));
    std::iter::once(head).chain(boxes).chain(folders).collect()
}

fn wedged(pid: Option<i32>) -> KernelError {
    let pid = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    KernelError::new(ErrorCode::State, format!("the daemon{pid} does not answer"))
        .hint("`crabbox daemon stop` ends it; commands work without it meanwhile")
}

/// Something else is where it would listen.
fn in_the_way(absent: &Absent, socket: &Path) -> KernelError {
    let what = format!("there is no daemon to talk to: {absent}");
    KernelError::new(ErrorCode::State, what).hint(format!(
        "remove {}, after ending what listens there; commands work without the daemon meanwhile",
        socket.display()
    ))
}

/// Ends it politely, or by force when it does not listen.
async fn stop(ctx: &Context) -> Result<i32> {
    let caller = warm::way(ctx)?;
    let pid = match caller.any().await {
        Ok(mut client) => match timeout(PATIENCE, client.stop()).await {
            Ok(_) => None,
            Err(_) => Some(client.hello.pid.cast_signed()),
        },
        Err(Absent::NotRunning) => {
            ended(ctx, false, "the daemon is not running");
            return Ok(0);
        }
        Err(Absent::Wedged(pid)) => pid,
        Err(absent) => return Err(in_the_way(&absent, &caller.place.socket)),
    };
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        kill_process(pid, Signal::KILL).map_err(|e| {
            KernelError::new(ErrorCode::State, "the daemon does not answer and cannot be killed")
                .because(&e)
        })?;
    }
    let gone = async {
        while !matches!(caller.any().await, Err(Absent::NotRunning)) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(PATIENCE, gone).await.is_err() {
        return Err(wedged(None));
    }
    ended(ctx, true, "the daemon has ended");
    Ok(0)
}

fn ended(ctx: &Context, stopped: bool, line: &str) {
    match ctx.global.json {
        true => ctx.terminal.out_json(&DaemonStopView { schema_version: SCHEMA_VERSION, stopped }),
        false => ctx.terminal.err(line),
    }
}
