//! The keeper of one box: holds its lock, its server and its deadlines, and ends it completely.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crabbox_box_server::deadline::Deadline;
use crabbox_box_server::processes;
use crabbox_box_server::program::{self, Start, Streams};
use crabbox_box_server::reaper::{Child, Reaper};
use crabbox_box_server::server::Setup;
use rustix::process::{Signal, kill_process, setsid};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};

use crate::isolation::{self, Level};
use crate::record::{BoxDir, BoxRecord, Running};

/// How long the server may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(15);
/// How long the server may take to end its commands.
const STOP_PATIENCE: Duration = Duration::from_secs(6);
/// How long what is left may take to die.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);

/// Why a box ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Somebody gives it back and will clear it away.
    Asked,
    /// It is over, or broken: the keeper clears it away.
    Over,
}

/// Starts a keeper that outlives this process: a session of its own, adopted by the system.
pub(crate) fn launch(dir: PathBuf) -> io::Result<()> {
    setsid()?;
    let log = File::options().append(true).create(true).open(dir.join("keeper.log"))?;
    let args = [OsString::from("--keeper"), dir.clone().into()];
    let streams = Streams { stdin: Stdio::null(), stdout: Stdio::null(), stderr: log.into() };
    let file = program::ourselves()?;
    let start = Start { file: &file, args: &args, env: &[], dir: &dir, streams, owner: None };
    program::start(start).map(drop)
}

/// Keeps the box until it ends.
pub(crate) fn run(dir: PathBuf) -> io::Result<()> {
    let dir = BoxDir::new(dir);
    let Some(lock) = dir.lock()? else { return Ok(()) };
    processes::adopt_orphans()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(keep(&dir));
    drop(runtime);
    processes::kill_descendants(KILL_PATIENCE);
    match ended {
        Ok(End::Asked) => {}
        Ok(End::Over) => drop(dir.remove()?),
        Err(error) => dir.write("failed", error.to_string().as_bytes())?,
    }
    drop(lock);
    Ok(())
}

/// The keeper's line to the server.
struct Server {
    child: Child,
    lines: Lines<BufReader<OwnedReadHalf>>,
    /// The server ends when this does.
    _life: OwnedWriteHalf,
}

async fn keep(dir: &BoxDir) -> io::Result<End> {
    let record = dir.record()?;
    let reaper = Reaper::start()?;
    let mut asked = signal(SignalKind::terminate())?;
    let (level, note) = isolation::settle(record.isolation, record.network, dir)
        .map_err(|reason| io::Error::other(format!("isolation: {reason}")))?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let starting = start(dir, &record, level, listener.into(), &reaper);
    let server = tokio::select! {
        _ = asked.recv() => return Ok(End::Asked),
        server = tokio::time::timeout(START_PATIENCE, starting) => match server {
            Ok(server) => server?,
            Err(_) => return Err(io::Error::other("the box's server did not start in time")),
        },
    };
    dir.write_running(&Running { port, isolation: level, isolation_note: note })?;
    let Server { child, mut lines, _life } = server;
    let mut ended = child.ended;
    let mut deadline =
        Deadline::new(record.ttl_secs, record.idle_timeout_secs, dir.part("touched"));
    let mut tick = tokio::time::interval(TICK);
    let end = loop {
        tokio::select! {
            _ = asked.recv() => break End::Asked,
            _ = &mut ended => return Ok(End::Over),
            _ = tick.tick() => if deadline.passed() || !dir.path().exists() { break End::Over },
            line = lines.next_line() => match line {
                Ok(Some(line)) => deadline.heard(&line),
                _ => break End::Over,
            },
        }
    };
    let _ = kill_process(child.pid, Signal::TERM);
    drop((lines, _life));
    let _ = tokio::time::timeout(STOP_PATIENCE, ended).await;
    Ok(end)
}

async fn start(
    dir: &BoxDir,
    record: &BoxRecord,
    level: Level,
    listener: OwnedFd,
    reaper: &Reaper,
) -> io::Result<Server> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let streams = Streams {
        stdin: listener.into(),
        stdout: OwnedFd::from(theirs).into(),
        stderr: Stdio::inherit(),
    };
    let serve = OsString::from("--serve-box");
    let (file, args) = match level {
        Level::None => (program::ourselves()?, vec![serve]),
        Level::Namespace => {
            let inner = [program::our_file()?.into(), serve];
            (isolation::fence().to_owned(), isolation::fenced(dir, record.network, &inner))
        }
    };
    let start =
        Start { file: &file, args: &args, env: &[], dir: Path::new("/"), streams, owner: None };
    let child = reaper.spawn(start)?;
    let (from, mut to) = UnixStream::from_std(ours)?.into_split();
    let mut line = serde_json::to_vec(&setup(dir, record)?)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    let mut lines = BufReader::new(from).lines();
    match lines.next_line().await? {
        Some(line) if line == "ready" => Ok(Server { child, lines, _life: to }),
        _ => Err(io::Error::other("the box's server ended while it started")),
    }
}

fn setup(dir: &BoxDir, record: &BoxRecord) -> io::Result<Setup> {
    Ok(Setup {
        host_key: std::fs::read_to_string(dir.part("host_key"))?,
        authorized_key: record.authorized_key.clone(),
        env: record.env.clone(),
        home: dir.part("home").to_string_lossy().into_owned(),
        shell: record.shell.clone(),
        limits: record.limits.clone(),
        owner: None,
        token: None,
    })
}
