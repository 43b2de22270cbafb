//! What a box's directory holds, and how it is read and written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crabbox_box_server::session::Limits;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::isolation::{Level, Network, Wanted};

/// `box.json`: what was asked for. Only the plugin writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BoxRecord {
    pub(crate) lease_id: String,
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// The lease's public key.
    pub(crate) authorized_key: String,
    /// Public half of the box's own key.
    pub(crate) host_key: String,
    /// Login name.
    pub(crate) user: String,
    pub(crate) created_at: u64,
    pub(crate) last_touched_at: u64,
    pub(crate) ttl_secs: u64,
    pub(crate) idle_timeout_secs: u64,
    pub(crate) shell: String,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) isolation: Wanted,
    pub(crate) network: Network,
    pub(crate) limits: Limits,
}

/// `running.json`: what came of it. Only the keeper writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Running {
    pub(crate) port: u16,
    /// The level that was proven.
    pub(crate) isolation: Level,
    /// Why the wanted level was not reached, when it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) isolation_note: Option<String>,
}

/// The directory of one box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoxDir(PathBuf);

/// How often, and how far apart, the lock is tried.
const LOCK_ATTEMPTS: usize = 50;
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// How often, and how far apart, removing is tried.
const REMOVE_ATTEMPTS: usize = 100;
const REMOVE_WAIT: Duration = Duration::from_millis(10);

/// Parts of a box that its commands may write to.
pub(crate) const WRITABLE: [&str; 3] = ["home", "work", "tmp"];

impl BoxDir {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn part(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the directory and its parts; existing ones stay.
    pub(crate) fn create(&self) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for part in WRITABLE {
            builder.create(self.part(part))?;
        }
        Ok(())
    }

    pub(crate) fn record(&self) -> io::Result<BoxRecord> {
        read_json(&self.part("box.json"))
    }

    pub(crate) fn write_record(&self, record: &BoxRecord) -> io::Result<()> {
        self.write("box.json", &serde_json::to_vec_pretty(record)?)
    }

    pub(crate) fn running(&self) -> io::Result<Running> {
        read_json(&self.part("running.json"))
    }

    pub(crate) fn write_running(&self, running: &Running) -> io::Result<()> {
        self.write("running.json", &serde_json::to_vec_pretty(running)?)
    }

    /// Replaces a file of the box at once; only the user can read it.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
        file.write_all(bytes)?;
        file.persist(self.part(name))?;
        Ok(())
    }

    /// Takes the lock its keeper holds for life, and names the keeper in it; `None` while another
    /// keeper lives. Somebody who only looks holds it for a moment, so it is tried for a while.
    pub(crate) fn lock(&self) -> io::Result<Option<File>> {
        let mut file =
            File::options().create(true).truncate(false).write(true).open(self.part("lock"))?;
        for _ in 0..LOCK_ATTEMPTS {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    file.set_len(0)?;
                    writeln!(file, "{}", std::process::id())?;
                    return Ok(Some(file));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(LOCK_WAIT),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// The keeper's process; trust it only while [`BoxDir::kept`].
    pub(crate) fn keeper(&self) -> Option<i32> {
        fs::read_to_string(self.part("lock")).ok()?.strip_suffix('\n')?.parse().ok()
    }

    /// Whether a keeper lives. Looking never creates anything.
    pub(crate) fn kept(&self) -> bool {
        let Ok(file) = File::open(self.part("lock")) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// Removes everything, also what commands made unreadable. Somebody may remove it at the same
    /// time, or still write to it, so it is tried for a while. Says whether anything was there.
    pub(crate) fn remove(&self) -> io::Result<bool> {
        let existed = self.0.exists();
        let mut result = Ok(());
        for _ in 0..REMOVE_ATTEMPTS {
            result = fs::remove_dir_all(&self.0);
            if !self.0.exists() {
                return Ok(existed);
            }
            let _ = unlock_directories(&self.0);
            thread::sleep(REMOVE_WAIT);
        }
        result.map(|()| existed)
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Gives the owner every right on every directory below, so that their entries can be removed.
fn unlock_directories(root: &Path) -> io::Result<()> {
    let mut next = vec![root.to_owned()];
    while let Some(dir) = next.pop() {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                next.push(entry.path());
            }
        }
    }
    Ok(())
}
