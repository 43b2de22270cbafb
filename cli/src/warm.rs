//! The way to this user's daemon: where it is, which program it must be, how it is started.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crabbox_daemon::{Caller, Place};
use crabbox_kernel::error::Result;

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
pub(crate) fn caller(ctx: &Context) -> Option<Rc<Caller>> {
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
    let spawn = Box::new(move || -> io::Result<()> {
        let log =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&log)?;
        let words = ["daemon", "serve", "--debug"];
        crate::tools::leave(&exe, &words[..if debug { 3 } else { 2 }], env.clone(), log)
    });
    Ok(Caller { place, build: build(&ctx.exe), spawn })
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
