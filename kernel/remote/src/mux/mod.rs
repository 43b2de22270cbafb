//! A connection that the user's own OpenSSH shares: its multiplexing protocol, spoken in this process.
//!
//! The master listens on the socket that `ControlPath` names (`path`). Its messages (`wire`), and the passing of a
//! process's three files (`session`), are as `PROTOCOL.mux` and `mux.c` of OpenSSH have them
//! (<https://github.com/openssh/openssh-portable>). It is the master that opens channels and moves bytes; we hold the
//! other ends of the files.

mod path;
mod session;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::session::{Fate, Timing};
use wire::Said;

pub(crate) use path::candidates;
pub use session::MuxInput;
pub(crate) use session::Refusal;

/// How long a master may take for what it can say by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// A master that answers.
#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) path: PathBuf,
    /// The master's process.
    pub(crate) pid: u32,
    /// Sealed when the master is gone, or nothing comes through it any more.
    pub(crate) fate: Fate,
    pulse: Arc<Pulse>,
}

/// Signs of life of the box, counted; every process through the master holds one.
#[derive(Debug, Default)]
struct Pulse(AtomicU64);

/// Sockets behind which a line fell silent. Their masters are not asked again by this process: each would say that it
/// is there, and know no more than before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shunned(Arc<Mutex<Vec<PathBuf>>>);

impl Shunned {
    pub(crate) fn add(&self, path: &Path) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.iter().any(|known| known == path) {
            all.push(path.to_owned());
        }
    }

    fn has(&self, path: &Path) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|known| known == path)
    }
}

impl Master {
    /// The first of these sockets behind which a master answers; otherwise why none does.
    pub(crate) async fn find(
        paths: &[PathBuf],
        timing: &Timing,
        shunned: &Shunned,
    ) -> Result<Self, String> {
        let mut why = String::new();
        for path in paths {
            if shunned.has(path) {
                why = format!("{}: it fell silent before", path.display());
                continue;
            }
            match timeout(PATIENCE, greet(path)).await {
                Ok(Ok((stream, pid))) => {
                    return Ok(Self::watched(path.clone(), stream, pid, timing, shunned));
                }
                Ok(Err(error)) => why = format!("{}: {error}", path.display()),
                Err(_) => why = format!("{}: nobody answers", path.display()),
            }
        }
        Err(why)
    }

    fn watched(
        path: PathBuf,
        stream: UnixStream,
        pid: u32,
        timing: &Timing,
        shunned: &Shunned,
    ) -> Self {
        let (tell, fate) = watch::channel(None);
        let pulse = Arc::new(Pulse::default());
        let watch = Watch {
            path: path.clone(),
            pulse: pulse.clone(),
            timing: timing.clone(),
            shunned: shunned.clone(),
        };
        tokio::spawn(watch.until_the_end(stream, tell));
        Self { path, pid, fate: Fate::new(fate), pulse }
    }
}

/// Whether the box behind a master opens a channel in time. A refusal is an answer, too.
async fn answers(path: &Path, limit: Duration) -> bool {
    let opened = timeout(limit, session::open(path, "exec true")).await;
    opened.is_ok_and(|opened| !matches!(opened, Err(Refusal::Uncertain(_))))
}

/// Greets the master and asks whether it is there.
async fn greet(path: &Path) -> Result<(UnixStream, u32), String> {
    let mut stream = reach(path).await?;
    stream.write_all(&wire::alive_check()).await.map_err(|e| e.to_string())?;
    match wire::read(&mut stream).await {
        Ok(Said::Alive(pid)) => Ok((stream, pid)),
        Ok(other) => Err(format!("it does not say that it is alive: {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// A connection to a master of this user, after the greetings.
async fn reach(path: &Path) -> Result<UnixStream, String> {
    path::is_ours(path)?;
    let mut stream = UnixStream::connect(path).await.map_err(|e| e.to_string())?;
    let peer = stream.peer_cred().map_err(|e| e.to_string())?;
    if peer.uid() != rustix::process::geteuid().as_raw() {
        return Err("another user listens there".to_owned());
    }
    stream.write_all(&wire::hello()).await.map_err(|e| e.to_string())?;
    match wire::read(&mut stream).await {
        Ok(Said::Hello) => Ok(stream),
        Ok(other) => Err(format!("it does not greet: {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Notices the end of a master, and of the line behind it: OpenSSH by itself does not ask a silent box for a sign of
/// life.
struct Watch {
    path: PathBuf,
    pulse: Arc<Pulse>,
    timing: Timing,
    shunned: Shunned,
}

impl Watch {
    async fn until_the_end(self, mut stream: UnixStream, tell: watch::Sender<Option<String>>) {
        let mut seen = 0;
        let why = loop {
            tokio::select! {
                // Nothing was asked here, so whatever is read is the end.
                _ = stream.read_u8() => break "the ssh that shares its connection has ended".to_owned(),
                () = tell.closed() => return,
                () = sleep(self.timing.keepalive) => {}
            }
            let now = self.pulse.0.load(Ordering::Relaxed);
            // Besides us, the master's owner holds one.
            let used = Arc::strong_count(&self.pulse) > 2;
            let limit = self.timing.silence().saturating_sub(self.timing.keepalive);
            if used && now == seen && !answers(&self.path, limit).await {
                self.shunned.add(&self.path);
                break "no sign of life through the connection that ssh shares".to_owned();
            }
            seen = now;
        };
        tell.send_replace(Some(why));
    }
}
