//! `crabbox ssh` prints how to reach a box; `crabbox connect` goes there.

use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::lease::in_use;
use crabbox_kernel::lease::{access, adopt};
use crabbox_kernel::ports::Remote;
use crabbox_kernel::run::process::{End, Killer, pump};
use crabbox_kernel::run::reach::reach;
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::ConnectView;
use crabbox_schemas::error::ErrorCode;

use crate::args::ByName;
use crate::context::Context;
use crate::screen::Screen;
use crate::{checkout, console, views};

/// Print an OpenSSH command line for a box
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  eval \"$(crabbox ssh blue-prawn)\"")]
pub(crate) struct SshArgs {
    #[command(flatten)]
    by: ByName,
    /// Use a lease that belongs to another checkout
    #[arg(long)]
    reclaim: bool,
    /// Print a user name that is a secret token
    #[arg(long)]
    show_secret: bool,
}

/// Open a shell on a box
///
/// Needs no ssh program. The lease is kept alive while the shell is open.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  crabbox connect blue-prawn")]
pub(crate) struct Args {
    #[command(flatten)]
    by: ByName,
    /// Use a lease that belongs to another checkout
    #[arg(long)]
    reclaim: bool,
}

/// Prints the command line.
pub(crate) async fn ssh(ctx: &Context, args: SshArgs) -> Result<i32> {
    let name = ctx.name_or_only_claim(args.by.name())?;
    let provider = ctx.choose_provider(Some(&name), args.by.provider.as_deref())?;
    let session = ctx.open_provider(&provider).await?;
    let dialer = ctx.warm_dialer();
    let bench = ctx.bench(&session, &dialer);
    let root = checkout::find(ctx)?.root;
    let found = async {
        let held = adopt::adopt(&bench, &name, &root, args.reclaim, &mut Vec::new()).await?;
        if args.show_secret {
            return access::lend(&bench, &held).await;
        }
        let shown = held.lease.ssh.is_some() || !access::is_lent(&bench);
        shown.then_some(held).ok_or_else(|| {
            KernelError::new(ErrorCode::Unsupported, "its user name is a secret that lasts a while")
                .hint("pass --show-secret to see it, or use `crabbox connect`, which does not show it")
        })
    };
    let held = found.await;
    session.close().await;
    let lease = held?.lease;
    if lease.ssh.is_none() {
        return Err(KernelError::new(
            ErrorCode::Unsupported,
            format!("{} has no SSH endpoint: its provider runs commands itself", lease.slug),
        )
        .hint(format!("`crabbox run --id {} -- COMMAND` runs one", lease.slug)));
    }
    ctx.network().host(&ctx.state, &lease)?;
    let command = views::ssh_command(ctx, &lease, args.show_secret);
    if ctx.global.json {
        ctx.terminal.out_json(&ConnectView { schema_version: SCHEMA_VERSION, command });
    } else {
        ctx.terminal.out(&command);
    }
    Ok(0)
}

/// Opens a shell; its status is ours.
pub(crate) async fn run(ctx: &Context, args: Args) -> Result<i32> {
    let name = ctx.name_or_only_claim(args.by.name())?;
    let provider = ctx.choose_provider(Some(&name), args.by.provider.as_deref())?;
    let provider = ctx.provider(&provider)?;
    let dialer = ctx.warm_dialer();
    let bench = ctx.bench(&provider, &dialer);
    let root = checkout::find(ctx)?.root;
    let mut screen = Screen::plain(ctx);
    let worked = async {
        let held = adopt::take(&bench, &name, &root, args.reclaim, &mut Vec::new()).await?;
        let lent = access::lend(&bench, &held).await?;
        let end = async {
            let remote = reach(&bench, &lent, &mut screen, &ctx.stop).await?.remote;
            let end = in_use(&bench, &held, &ctx.stop, shell(ctx, &remote, &mut screen)).await;
            remote.close().await;
            end
        }
        .await;
        access::give_back(&bench, &lent).await;
        end
    }
    .await;
    provider.close().await;
    match worked? {
        End::Exited(exit) => Ok(exit.code),
        End::Stopped | End::TimedOut => Err(KernelError::new(ErrorCode::Cancelled, "interrupted")),
    }
}

async fn shell<R: Remote>(ctx: &Context, remote: &R, screen: &mut Screen<'_>) -> Result<End> {
    let pty =
        console::stdin_is_terminal().then(|| console::pty(ctx.env.get("TERM").map(String::as_str)));
    let raw = pty.as_ref().and_then(|_| console::RawMode::enter());
    let mut console = console::open();
    let killer = Killer { gently: "exit 0".to_owned(), at_once: "exit 0".to_owned() };
    let none: Option<Duration> = None;
    let end =
        pump(remote, "", pty.as_ref(), &mut console, &killer, none, &ctx.clock, screen, &ctx.stop)
            .await;
    drop(raw);
    end
}
