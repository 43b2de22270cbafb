//! Where the socket is: a folder nobody else can enter, a lock that makes its owner the only one, a log beside it.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::{State, failed, make_dir};
use crabbox_schemas::error::ErrorCode;
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

/// Longest path a socket can have on every system.
const LONGEST: usize = 103;

/// The files of one user's daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it listens.
    pub socket: PathBuf,
    /// Locked while it listens.
    pub lock: PathBuf,
    /// What it has to say.
    pub log: PathBuf,
}

impl Place {
    /// The first folder that is ours alone and whose path is short enough: below the session's runtime folder,
    /// in the local state, in the system's folder for scratch files.
    pub fn find(runtime: Option<&Path>, state: &State) -> Result<Self> {
        let kept = state.root.join("daemon");
        make_dir(&kept)?;
        let runtime = runtime.filter(|dir| is_ours(dir)).map(|dir| dir.join("crabbox"));
        let short =
            PathBuf::from(format!("/tmp/crabbox-{}-{:08x}", geteuid().as_raw(), brief(&kept)));
        let folders = runtime.into_iter().chain([kept.clone(), short]);
        let socket = |dir: &PathBuf| dir.join("daemon.sock");
        let fits = |dir: &PathBuf| socket(dir).as_os_str().len() <= LONGEST;
        let folder = folders.filter(fits).find(|dir| make_dir(dir).is_ok() && is_ours(dir));
        let folder = folder.ok_or_else(|| {
            KernelError::new(ErrorCode::State, "there is no private folder for the daemon's socket")
                .hint("set XDG_RUNTIME_DIR to a folder that only you can enter")
        })?;
        Ok(Self {
            socket: socket(&folder),
            lock: folder.join("daemon.lock"),
            log: kept.join("daemon.log"),
        })
    }

    /// Becomes the one that may listen here, until the file is dropped; `None` when somebody else is.
    pub(crate) fn own(&self) -> Result<Option<File>> {
        let mut open = OpenOptions::new();
        let file = open
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&self.lock)
            .map_err(|e| failed("cannot open", &self.lock, &e))?;
        Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file))
    }

    /// Whether a daemon owns it. Whatever else listens here is none.
    pub(crate) fn is_owned(&self) -> bool {
        let lock = File::open(&self.lock);
        lock.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// Whether something that is no socket stands in its way.
    pub(crate) fn is_blocked(&self) -> bool {
        fs::symlink_metadata(&self.socket).is_ok_and(|facts| !facts.file_type().is_socket())
    }
}

/// Whether a folder is the user's and nobody else can enter it.
fn is_ours(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|facts| {
        facts.is_dir() && facts.uid() == geteuid().as_raw() && facts.mode() & 0o077 == 0
    })
}

fn brief(path: &Path) -> u32 {
    let mut hasher = DefaultHasher::new();
    path.as_os_str().as_bytes().hash(&mut hasher);
    u32::try_from(hasher.finish() & u64::from(u32::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn state(root: &Path) -> State {
        State { root: root.join("state"), config: root.join("config") }
    }

    #[test]
    fn the_socket_lives_where_only_its_owner_can_enter() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().join("run");
        fs::create_dir(&runtime).unwrap();
        for (mode, inside) in [(0o700, true), (0o755, false)] {
            fs::set_permissions(&runtime, fs::Permissions::from_mode(mode)).unwrap();
            let place = Place::find(Some(&runtime), &state(dir.path())).unwrap();
            assert_eq!(place.socket.starts_with(&runtime), inside, "{mode:o}");
            let folder = fs::metadata(place.socket.parent().unwrap()).unwrap();
            assert_eq!(folder.permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_state_folder_with_a_long_path_still_has_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a".repeat(120));
        let place = Place::find(None, &state(&deep)).unwrap();
        assert!(place.socket.as_os_str().len() <= LONGEST, "{place:?}");
        assert!(is_ours(place.socket.parent().unwrap()));
        fs::remove_dir_all(place.socket.parent().unwrap()).unwrap();
    }

    #[test]
    fn one_at_a_time_owns_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::find(None, &state(dir.path())).unwrap();
        let first = place.own().unwrap();
        assert!(first.is_some() && place.own().unwrap().is_none() && place.is_owned());
        drop(first);
        assert!(!place.is_owned());
        assert!(place.own().unwrap().is_some());
    }
}
