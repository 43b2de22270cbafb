//! Starts child processes, each as the leader of its own group, and leaves nothing of the group behind.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crabbox_plugins::{Confined, confine_thread};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{oneshot, watch};

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    /// The whole environment; nothing else is passed on.
    pub(crate) env: BTreeMap<String, OsString>,
    pub(crate) cwd: PathBuf,
    /// What it is kept from; its working directory is where it may write.
    pub(crate) confined: Option<Confined>,
}

/// A running child. Dropping it kills its group.
pub(crate) struct Running {
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
    pub(crate) group: Arc<Group>,
}

/// The process group of a child, and how its leader ended.
#[derive(Debug)]
pub(crate) struct Group {
    leader: Pid,
    /// Set before the leader is reaped: from then on its number may belong to somebody else.
    reaped: Mutex<bool>,
    exit: watch::Receiver<Option<Exit>>,
}

/// How a child ended: its status, 128 + number for a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

impl Group {
    /// Sends a signal to every process of the group, unless all are gone.
    pub(crate) fn signal(&self, signal: Signal) {
        let reaped = lock(&self.reaped);
        if !*reaped {
            // An error means that nobody is left to be told.
            let _ = rustix::process::kill_process_group(self.leader, signal);
        }
    }

    /// Waits until the leader has ended and the rest of the group was killed.
    pub(crate) async fn ended(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::UNKNOWN),
            Err(_) => Exit::UNKNOWN,
        }
    }
}

impl Exit {
    const UNKNOWN: Self = Self { code: -1, signal: None };
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        let signal = status.signal();
        let code = status.code().or(signal.map(|n| 128 + n)).unwrap_or(-1);
        Self { code, signal }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.signal {
            Some(signal) => write!(f, "signal {signal}"),
            None => write!(f, "exit code {}", self.code),
        }
    }
}

/// Starts a program from a thread of its own that lives as long as the child: the parent-death signal
/// is tied to the thread that spawned, not to the process.
pub(crate) async fn start(program: Program) -> io::Result<Running> {
    let (spawned_tx, spawned_rx) = oneshot::channel();
    let (exit_tx, exit_rx) = watch::channel(None);
    std::thread::Builder::new().name("plugin-keeper".to_owned()).spawn(move || {
        // The walls are this thread's own, and the child inherits them.
        let walls = program.confined.map_or(Ok(()), |walls| confine_thread(walls, &program.cwd));
        let mut child = match walls.and_then(|()| command(&program).spawn()) {
            Ok(child) => child,
            Err(error) => return drop(spawned_tx.send(Err(error))),
        };
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let group = Arc::new(Group {
            leader: Pid::from_child(&child),
            reaped: Mutex::new(false),
            exit: exit_rx,
        });
        if spawned_tx.send(Ok((pipes, Arc::clone(&group)))).is_err() {
            group.signal(Signal::KILL);
        }
        exit_tx.send_replace(Some(keep(&mut child, &group)));
    })?;
    let (pipes, group) = spawned_rx
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the thread that starts processes died")))?;
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        group.signal(Signal::KILL);
        return Err(io::Error::other("a child has no pipes"));
    };
    Ok(Running {
        stdin: ChildStdin::from_std(stdin)?,
        stdout: ChildStdout::from_std(stdout)?,
        stderr: ChildStderr::from_std(stderr)?,
        group,
    })
}

/// Waits for the leader, kills what is left of its group while the number is still ours, then reaps.
fn keep(child: &mut Child, group: &Group) -> Exit {
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        match rustix::process::waitid(WaitId::Pid(group.leader), options) {
            Err(rustix::io::Errno::INTR) => {}
            _ => break,
        }
    }
    let mut reaped = lock(&group.reaped);
    let _ = rustix::process::kill_process_group(group.leader, Signal::KILL);
    *reaped = true;
    child.wait().map_or(Exit::UNKNOWN, Exit::from)
}

#[expect(clippy::disallowed_methods, reason = "the one place where the host starts processes")]
fn command(program: &Program) -> Command {
    let mut command = Command::new(&program.path);
    command
        .args(&program.args)
        .env_clear()
        .envs(&program.env)
        .current_dir(&program.cwd)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    die_with_parent(&mut command);
    command
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "std offers no safe way to make a system call between fork and exec"
)]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let ask = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        match rustix::process::getppid() == Some(parent) {
            true => Ok(()),
            false => Err(io::ErrorKind::NotConnected.into()),
        }
    };
    // SAFETY: the closure makes two system calls; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(ask) };
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}

/// A lock that a panicking holder does not take away.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
