//! The way to this user's daemon: where it is, which program it must be, how it is started.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crabbox_daemon::{Caller, Client, Place};
use crabbox_kernel::error::Result;
use crabbox_kernel::plan::{Plan, Sync};
use crabbox_kernel::sync::Hint;

use crate::checkout::Known;
use crate::context::Context;

/// What of the environment the daemon gets: what SSH needs, and where files are. No secrets of the caller's.
const INHERITED: &[&str] = &[
    "HOME",
    "PATH",
    "USER",
    "LOGNAME",
    "LANG",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
    "CRABBOX_CONFIG",
    "CRABBOX_DAEMON_IDLE_TIMEOUT",
];

/// The way to the daemon; `None` when the user wants none, or on machines that nobody comes back to.
pub(crate) fn caller(ctx: &Context) -> Option<&Rc<Caller>> {
    ctx.daemon.get_or_init(|| find(ctx)).as_ref()
}

fn find(ctx: &Context) -> Option<Rc<Caller>> {
    let wanted = ctx.values.daemon;
    let passing =
        !wanted.chosen && ctx.env.get("CI").is_some_and(|ci| !ci.is_empty() && ci != "false");
    if !wanted.enabled || passing {
        return None;
    }
    way(ctx).ok().map(Rc::new)
}

/// The way to the daemon, wanted or not.
pub(crate) fn way(ctx: &Context) -> Result<Caller> {
    let place = place(ctx)?;
    let (log, exe, debug) = (place.log.clone(), ctx.exe.clone(), ctx.terminal.debug);
    let given =
        INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), ctx.env.get(*name)?.clone())));
    let env: Vec<_> = given.collect();
    let spawn = move || -> io::Result<()> {
        let log =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&log)?;
        let words = ["daemon", "serve", "--debug"];
        crate::tools::leave(&exe, &words[..if debug { 3 } else { 2 }], env.clone(), log)
    };
    Ok(Caller::new(place, build(&ctx.exe), spawn))
}

/// The daemon watches the tree that is scanned next.
pub(crate) struct Sight {
    client: Client,
    root: PathBuf,
}

/// What a daemon that runs already knows of a tree before it is scanned. It is never waited for: a scan that
/// knows nothing is only a little slower.
pub(crate) async fn look(ctx: &Context, root: &Path) -> (Known, Option<Sight>) {
    let seen = async {
        let root = root.canonicalize().ok()?;
        let mut client = caller(ctx)?.connect().await.ok()?;
        let seen = client.changes(&root).await.ok()?;
        let hint = seen.since.map(|(token, changed)| Hint { token, changed });
        Some((Known { token: seen.token, hint, quiet: false }, Sight { client, root }))
    };
    match seen.await {
        Some((known, sight)) => (known, Some(sight)),
        None => (Known::default(), None),
    }
}

impl Sight {
    /// Tells the daemon how the scan is remembered.
    pub(crate) async fn scanned(mut self, plan: &Plan) {
        if let Sync::Tree { tree, .. } = &plan.sync
            && let Some(token) = &tree.token
        {
            let _ = self.client.scanned(&self.root, token).await;
        }
    }
}

/// Where the daemon of this user listens.
pub(crate) fn place(ctx: &Context) -> Result<Place> {
    let runtime = ctx.env.get("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    Place::find(runtime.as_deref(), &ctx.state)
}

/// What tells this program from any other, older or newer.
pub(crate) fn build(exe: &Path) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match exe.metadata() {
        Ok(file) => {
            format!("{version}-{:x}-{:x}.{:x}", file.len(), file.mtime(), file.mtime_nsec())
        }
        Err(_) => version.to_owned(),
    }
}
