//! Collects every child that ends, adopted ones included, and tells those who wait for one.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::program::{self, Start};

type Waiting = HashMap<i32, oneshot::Sender<WaitStatus>>;

/// Starts processes and hands out their ends.
#[derive(Debug, Clone, Default)]
pub struct Reaper(Arc<Mutex<Waiting>>);

/// A process that was started.
#[derive(Debug)]
pub struct Child {
    pub pid: Pid,
    pub ended: oneshot::Receiver<WaitStatus>,
}

impl Reaper {
    /// Starts collecting.
    pub fn start() -> io::Result<Self> {
        let reaper = Self::default();
        let mut ended = signal(SignalKind::child())?;
        let collector = reaper.clone();
        tokio::spawn(async move {
            loop {
                collector.collect();
                if ended.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Starts a process; its end cannot be collected before it is waited for.
    pub fn spawn(&self, start: Start<'_>) -> io::Result<Child> {
        let mut waiting = self.waiting();
        let id = program::start(start)?;
        let pid = Pid::from_raw(id).ok_or_else(|| io::Error::other("a process without an id"))?;
        let (tell, ended) = oneshot::channel();
        waiting.insert(id, tell);
        Ok(Child { pid, ended })
    }

    /// Kills the process groups of everything that was started and still runs.
    pub fn kill_groups(&self) {
        for leader in self.waiting().keys().copied().filter_map(Pid::from_raw) {
            // One that is gone needs no signal.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }

    fn collect(&self) {
        let mut waiting = self.waiting();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(tell) = waiting.remove(&pid.as_raw_nonzero().get()) {
                let _ = tell.send(status);
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
