//! A container as a box: its first process serves SSH, and ends the container when the lease is over.
//!
//! The labels of a container cannot change, so the last use is noted in a file inside: it lives exactly as long as
//! the container does, and whoever keeps the deadline reads it without asking anybody outside.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::deadline::Deadline;
use crate::passwd::{self, User};
use crate::program;
use crate::server::{HostKey, Server, Setup};
use crate::session::Limits;

/// Where the box keeps what it says of itself.
const STATE: &str = "/.crabbox";
/// How long a box may take until it knows its own facts.
const START_PATIENCE: Duration = Duration::from_secs(15);
/// How long a box that could not start stays, so that somebody can ask why.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often a box that starts is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What the provider asks of a box. None of it is secret: it is an argument of the container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    /// The only key that opens the box, OpenSSH one-line form.
    authorized_key: String,
    /// Address and port to listen at.
    listen: String,
    /// Who commands run as, as in `passwd::find`.
    user: String,
    work_root: String,
    ttl_secs: u64,
    idle_timeout_secs: u64,
}

/// What a box says of itself, once it listens or cannot.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Facts {
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    host_key: String,
    port: u16,
    user: String,
}

/// Is the box until its lease is over or somebody stops it; with this process everything in the container ends.
pub(crate) fn run(wanted: &str) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(STATE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(keep(wanted));
    if let Err(error) = &ended {
        write_facts(&Facts { error: error.to_string(), ..Facts::default() })?;
        thread::sleep(LAST_WORDS);
    }
    ended
}

async fn keep(wanted: &str) -> io::Result<()> {
    let wanted: Wanted = serde_json::from_str(wanted)?;
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = passwd::find(&passwd, &wanted.user)?;
    own_folder(&wanted.work_root, &user)?;
    temporary_folder("/tmp")?;
    let listener = TcpListener::bind(&wanted.listen).await?;
    let key = HostKey::new()?;
    let facts = Facts {
        host_key: key.public,
        port: listener.local_addr()?.port(),
        user: user.name.clone(),
        ..Facts::default()
    };
    let (server, mut changes) = Server::new(setup(user, key.private, wanted.authorized_key))?;
    let mut stop = signal(SignalKind::terminate())?;
    let touched = part("touched");
    let mut deadline = Deadline::new(wanted.ttl_secs, wanted.idle_timeout_secs, touched);
    let mut tick = tokio::time::interval(TICK);
    write_facts(&facts)?;
    let mut open = 0usize;
    let accepting = server.accept(&listener);
    tokio::pin!(accepting);
    loop {
        tokio::select! {
            () = &mut accepting => break,
            _ = stop.recv() => break,
            change = changes.recv() => {
                open = if change == Some(true) { open + 1 } else { open.saturating_sub(1) };
                deadline.used_by(open);
            }
            _ = tick.tick() => if deadline.passed() { break },
        }
    }
    server.kill_groups();
    Ok(())
}

fn setup(user: User, host_key: String, authorized_key: String) -> Setup {
    let home = if own_folder(&user.home, &user).is_ok() { user.home } else { "/".to_owned() };
    let shell = if Path::new(&user.shell).exists() { user.shell } else { "/bin/sh".to_owned() };
    let mut env = program::environment();
    let known = |env: &[(String, String)], name: &str| env.iter().any(|(known, _)| known == name);
    if !known(&env, "PATH") {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        env.push(("PATH".to_owned(), path.to_owned()));
    }
    env.retain(|(name, _)| name != "HOME");
    let own = [("HOME", &home), ("USER", &user.name), ("LOGNAME", &user.name), ("SHELL", &shell)];
    env.extend(own.map(|(name, value)| (name.to_owned(), value.clone())));
    let owner =
        (!rustix::process::geteuid().is_root() || user.uid != 0).then_some((user.uid, user.gid));
    let limits = Limits::default();
    Setup { host_key, authorized_key, env, home, shell, limits, owner, token: None }
}

/// Makes a folder that is the user's own; one that exists keeps its owner.
fn own_folder(path: &str, user: &User) -> io::Result<()> {
    let path = Path::new(path);
    let missing: Vec<_> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(path)?;
    missing.into_iter().try_for_each(|folder| chown(folder, Some(user.uid), Some(user.gid)))
}

/// Makes the folder that every program believes in, where an image has none.
fn temporary_folder(path: &str) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o1777)),
        Err(_) => Ok(()),
    }
}

fn part(name: &str) -> PathBuf {
    Path::new(STATE).join(name)
}

fn write_facts(facts: &Facts) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(STATE)?;
    file.write_all(&serde_json::to_vec(facts)?)?;
    file.persist(part("facts.json"))?;
    Ok(())
}

/// Prints what the box says of itself, as soon as it does.
pub(crate) fn facts() -> io::Result<()> {
    let until = Instant::now() + START_PATIENCE;
    loop {
        if let Ok(text) = fs::read(part("facts.json")) {
            let facts: Facts = serde_json::from_slice(&text)?;
            if !facts.error.is_empty() {
                return Err(io::Error::other(facts.error));
            }
            return io::stdout().write_all(&text);
        }
        if Instant::now() >= until {
            return Err(io::Error::other("the box did not start in time"));
        }
        thread::sleep(LOOK);
    }
}

/// Notes that the box is in use.
pub(crate) fn touch() -> io::Result<()> {
    let now = clock_gettime(ClockId::Monotonic);
    fs::write(part("touched"), format!("{}.{}", now.tv_sec, now.tv_nsec))
}
