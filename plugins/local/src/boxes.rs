//! All boxes of this machine: finding them, describing them, ending them.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crabbox_box_server::processes;
use crabbox_plugin_sdk::{Lease, LeaseId, SshAuth, SshEndpoint};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

use crate::environment::MARK;
use crate::record::{BoxDir, BoxRecord, Running};

/// How long a box may take to answer.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long a keeper may take to end its box by itself.
const POLITE: Duration = Duration::from_secs(12);
/// How long anything may take to die from a signal it cannot refuse.
const FIRM: Duration = Duration::from_secs(3);
/// How long a server outlives its keeper at most.
const ORPHANED: Duration = Duration::from_secs(6);
/// How often to look.
const LOOK: Duration = Duration::from_millis(10);

/// Where the boxes are.
#[derive(Debug, Clone)]
pub(crate) struct Boxes(PathBuf);

impl Boxes {
    pub(crate) fn new(state_dir: &std::path::Path) -> Self {
        Self(state_dir.join("boxes"))
    }

    pub(crate) fn root(&self) -> &std::path::Path {
        &self.0
    }

    pub(crate) fn dir(&self, id: &LeaseId) -> BoxDir {
        BoxDir::new(self.0.join(id.as_str()))
    }

    /// Every box with its directory; what cannot be read is counted.
    pub(crate) fn all(&self) -> io::Result<(Vec<(BoxDir, BoxRecord)>, usize)> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
            Err(error) => return Err(error),
        };
        let (mut found, mut unread) = (Vec::new(), 0);
        for entry in entries {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(LeaseId::parse) else { continue };
            let dir = self.dir(&id);
            match dir.record() {
                Ok(record) => found.push((dir, record)),
                Err(_) if dir.path().exists() => unread += 1,
                Err(_) => {}
            }
        }
        Ok((found, unread))
    }

    /// The box a person means: by lease id, cloud id, slug or name.
    pub(crate) fn find(&self, wanted: &str) -> io::Result<Option<(BoxDir, BoxRecord)>> {
        let (all, _) = self.all()?;
        let names = |record: &BoxRecord| {
            let exact = record.lease_id == wanted || cloud_id(&record.lease_id) == wanted;
            exact || record.slug == wanted || record.name == wanted
        };
        Ok(all.into_iter().find(|(_, record)| names(record)))
    }
}

/// The provider's own id of a box.
pub(crate) fn cloud_id(lease_id: &str) -> String {
    format!("local-{lease_id}")
}

/// How a box is reached, when its keeper lives.
pub(crate) fn running(dir: &BoxDir) -> Option<Running> {
    dir.running().ok().filter(|_| dir.kept())
}

/// Whether another process may be making the box right now.
fn starting(dir: &BoxDir, record: &BoxRecord) -> bool {
    let young = now().abs_diff(record.created_at) < START_PATIENCE.as_secs();
    young && !dir.part("running.json").exists() && !dir.part("failed").exists()
}

/// A box as the kernel sees it.
pub(crate) fn lease(dir: &BoxDir, record: &BoxRecord) -> Option<Lease> {
    let running = running(dir);
    let mut labels = record.labels.clone();
    labels.insert("provider".to_owned(), "local".to_owned());
    let status = match &running {
        Some(running) => {
            labels.insert("isolation".to_owned(), running.isolation.name().to_owned());
            "ready"
        }
        None if starting(dir, record) => "leased",
        None => {
            labels.insert("state".to_owned(), "failed".to_owned());
            "failed"
        }
    };
    Some(Lease {
        lease_id: LeaseId::parse(&record.lease_id)?,
        slug: record.slug.clone(),
        name: record.name.clone(),
        cloud_id: cloud_id(&record.lease_id),
        status: status.to_owned(),
        server_type: "process".to_owned(),
        labels,
        work_root: Some(dir.part("work").to_string_lossy().into_owned()),
        ssh: running.map(|running| SshEndpoint {
            user: record.user.clone(),
            host: "127.0.0.1".to_owned(),
            port: running.port,
            host_keys: vec![record.host_key.clone()],
            auth: SshAuth::KernelKey,
            ..SshEndpoint::default()
        }),
    })
}

/// Notes a use: the record and its labels change, the limits stay.
pub(crate) fn touch(dir: &BoxDir, mut record: BoxRecord, state: &str) -> io::Result<BoxRecord> {
    let now = now();
    record.last_touched_at = now;
    let end = record.created_at.saturating_add(limit(record.ttl_secs));
    let idle = now.saturating_add(limit(record.idle_timeout_secs));
    let labels = [
        ("state", state.to_owned()),
        ("last_touched_at", now.to_string()),
        ("expires_at", end.min(idle).to_string()),
    ];
    record.labels.extend(labels.map(|(name, value)| (name.to_owned(), value)));
    dir.write_record(&record)?;
    let exact = clock_gettime(ClockId::Monotonic);
    dir.write("touched", format!("{}.{}", exact.tv_sec, exact.tv_nsec).as_bytes())?;
    Ok(record)
}

/// Zero means no limit; a century is long enough.
fn limit(secs: u64) -> u64 {
    if secs == 0 { 100 * 365 * 24 * 3600 } else { secs }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or_default()
}

/// Ends everything of a box and removes it. Says whether there was anything.
pub(crate) fn end(dir: &BoxDir) -> io::Result<bool> {
    if !dir.path().exists() {
        return Ok(false);
    }
    stop_keeper(dir)?;
    processes::kill_marked(&format!("{MARK}={}", dir.path().display()), ORPHANED);
    dir.remove()
}

fn stop_keeper(dir: &BoxDir) -> io::Result<()> {
    for (signal, patience) in [(Signal::TERM, POLITE), (Signal::KILL, FIRM)] {
        let until = Instant::now() + patience;
        let mut told = None;
        while dir.kept() {
            if Instant::now() >= until {
                break;
            }
            let keeper = dir.keeper().and_then(Pid::from_raw);
            if let Some(keeper) = keeper.filter(|&keeper| told != Some(keeper)) {
                let _ = kill_process(keeper, signal);
                told = Some(keeper);
            }
            thread::sleep(LOOK);
        }
        if !dir.kept() {
            return Ok(());
        }
    }
    Err(io::Error::other("the box's keeper does not end"))
}
