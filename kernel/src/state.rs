//! Where local state lives, and how it is written: 0600 files in 0700 folders, every write atomic.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::ids::{LeaseId, RunId};

use crate::error::{KernelError, Result};

/// How names of files begin that are being written.
pub(crate) const HALF_WRITTEN: &str = ".tmp-";

/// The folders of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// `$XDG_STATE_HOME/crabbox`, or `<user config>/crabbox/state`.
    pub root: PathBuf,
    /// `<user config>/crabbox`.
    pub config: PathBuf,
}

impl State {
    /// Claims, one file a lease.
    pub fn claims(&self) -> PathBuf {
        self.root.join("claims")
    }

    /// Trails, one file a lease.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// Lock files, one a lease.
    pub fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// Everything kept of one run.
    pub fn run(&self, id: &RunId) -> PathBuf {
        self.runs().join(id.as_str())
    }

    /// All runs.
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// What each lease's box was last seen to hold, a folder a lease.
    pub fn boxes(&self) -> PathBuf {
        self.root.join("boxes")
    }

    /// What directories held at their last scan, one file each.
    pub fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Private folder of each plugin.
    pub fn plugins(&self) -> PathBuf {
        self.root.join("plugins")
    }

    /// The lease's key pair and known hosts.
    pub fn keys(&self, id: &LeaseId) -> PathBuf {
        self.config.join("testboxes").join(id.as_str())
    }

    /// The host key a lease's box must show, where we made it.
    pub fn host_key(&self, id: &LeaseId) -> PathBuf {
        self.keys(id).join("host_key.pub")
    }

    /// Where a lease's box is in the tailnet it joined.
    pub fn tailnet(&self, id: &LeaseId) -> PathBuf {
        self.keys(id).join("tailnet")
    }

    /// Makes the folders this version uses.
    pub fn prepare(&self) -> Result<()> {
        [self.claims(), self.journal(), self.locks(), self.runs(), self.index(), self.plugins()]
            .iter()
            .try_for_each(|d| make_dir(d))
    }
}

/// How old a half-written file must be before nobody can be writing it any more.
const ABANDONED_MS: u64 = 60_000;
/// How long an index is kept that is not written any more: 30 days.
const FORGOTTEN_MS: u64 = 30 * 24 * 3_600_000;

impl State {
    /// Removes half-written files of writers that were killed, which readers never see, and indexes that
    /// nobody wrote for long, which are made again when they are missed.
    pub fn sweep(&self, now_ms: u64) {
        let folders =
            [self.claims(), self.journal(), self.locks(), self.index(), self.root.clone()];
        for folder in folders {
            let indexes = folder == self.index();
            for file in fs::read_dir(folder).into_iter().flatten().flatten() {
                let half = file.file_name().to_string_lossy().starts_with(HALF_WRITTEN);
                let kept_ms = if half { ABANDONED_MS } else { FORGOTTEN_MS };
                if (half || indexes) && is_older(&file, now_ms, kept_ms) {
                    let _ = fs::remove_file(file.path());
                }
            }
        }
    }
}

fn is_older(file: &fs::DirEntry, now_ms: u64, age_ms: u64) -> bool {
    let written = file.metadata().and_then(|facts| facts.modified()).ok();
    let since = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.is_some_and(|time| time.as_millis() + u128::from(age_ms) < u128::from(now_ms))
}

/// Makes a folder and its parents, private to the user.
pub fn make_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| failed("cannot create", dir, &e))
}

/// Replaces a file's contents in one step: readers see the old bytes or the new, also after a crash.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_dir(dir)?;
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(HALF_WRITTEN).tempfile_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|e| failed("cannot write", path, &e))
}

/// A local file that cannot be used.
pub fn failed(what: &str, path: &Path, error: &std::io::Error) -> KernelError {
    KernelError::new(ErrorCode::State, format!("{what} {}", path.display()))
        .because(error)
        .hint("check free space and permissions of crabbox's state directory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_is_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_writer_left_is_swept_once_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let state = State { root: dir.path().to_path_buf(), config: dir.path().join("config") };
        state.prepare().unwrap();
        let (half, whole) = (state.claims().join(".tmp-abc"), state.claims().join("cbx_1.json"));
        fs::write(&half, "{").unwrap();
        fs::write(&whole, "{}").unwrap();
        let written = fs::metadata(&half).unwrap().modified().unwrap();
        let then = u64::try_from(written.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        state.sweep(then + 1000);
        assert!(half.exists(), "somebody may be writing it");
        state.sweep(then + 2 * ABANDONED_MS);
        assert!(!half.exists() && whole.exists());
        let index = state.index().join("of a tree");
        fs::write(&index, "").unwrap();
        state.sweep(then + FORGOTTEN_MS / 2);
        assert!(index.exists() && whole.exists());
        state.sweep(then + 2 * FORGOTTEN_MS);
        assert!(!index.exists() && whole.exists());
    }
}
