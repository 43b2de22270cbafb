//! Where local state lives, and how it is written: 0600 files in 0700 folders, every write atomic.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::ids::{LeaseId, RunId};

use crate::error::{KernelError, Result};

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

    /// Private folder of each plugin.
    pub fn plugins(&self) -> PathBuf {
        self.root.join("plugins")
    }

    /// The lease's key pair and known hosts.
    pub fn keys(&self, id: &LeaseId) -> PathBuf {
        self.config.join("testboxes").join(id.as_str())
    }

    /// Makes the folders this version uses.
    pub fn prepare(&self) -> Result<()> {
        [self.claims(), self.journal(), self.locks(), self.runs(), self.plugins()]
            .iter()
            .try_for_each(|d| make_dir(d))
    }
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
        let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(dir)?;
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
}
