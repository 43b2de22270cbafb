//! Blobs: large contents kept in files for one session, so that they need not cross a plugin's pipe.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::BlobFacts;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Bytes all blobs of a session may have together.
const QUOTA: u64 = 8 << 30;
/// Blobs at once.
const MOST: usize = 256;
/// Begins the names of the folders blobs are in.
const FOLDER: &str = "blobs-";
/// Held locked inside such a folder for as long as its session lives.
const LOCK: &str = "lock";

/// The blobs of one session; removed with it.
#[derive(Debug)]
pub struct Blobs {
    parent: PathBuf,
    quota: u64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    home: Option<Home>,
    blobs: HashMap<String, Blob>,
    issued: u64,
    used: u64,
}

#[derive(Debug)]
struct Home {
    dir: TempDir,
    _lock: File,
}

#[derive(Debug)]
struct Blob {
    path: PathBuf,
    size: u64,
    /// While it is written.
    open: Option<(File, Sha256)>,
    /// Once it is known.
    sha256: Option<String>,
    /// A file of somebody else's is neither counted nor removed.
    ours: bool,
}

/// A blob that will not change any more.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) sha256: Option<String>,
}

impl Blobs {
    /// Keeps blobs below this folder; what an earlier session left behind there goes.
    pub fn new(parent: &Path) -> Self {
        Self { parent: parent.to_owned(), quota: QUOTA, table: Mutex::default() }
    }

    /// Begins an empty blob; gives back its name.
    pub fn create(&self) -> Result<String, RpcError> {
        let mut table = self.table();
        if table.blobs.len() >= MOST {
            return Err(full(format!("a session holds at most {MOST} blobs; drop one")));
        }
        if table.home.is_none() {
            sweep(&self.parent);
            table.home = Some(Home::new(&self.parent).map_err(|e| failed("begin", &e))?);
        }
        let name = table.name();
        let dir = table.home.as_ref().map(|home| home.dir.path().to_owned()).unwrap_or_default();
        let path = dir.join(&name);
        let file = File::create_new(&path).map_err(|e| failed("begin", &e))?;
        let open = Some((file, Sha256::new()));
        table.blobs.insert(name.clone(), Blob { path, size: 0, open, sha256: None, ours: true });
        Ok(name)
    }

    /// Takes a file of the kernel's as a sealed blob.
    pub fn adopt(&self, path: &Path) -> io::Result<String> {
        let size = path.metadata()?.len();
        let mut table = self.table();
        let name = table.name();
        let path = path.to_owned();
        table
            .blobs
            .insert(name.clone(), Blob { path, size, open: None, sha256: None, ours: false });
        Ok(name)
    }

    /// Appends to a blob that is not sealed.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RpcError> {
        let mut table = self.table();
        let used = table.used + bytes.len() as u64;
        if used > self.quota {
            return Err(full(format!("all blobs together may have {} bytes", self.quota)));
        }
        let blob = table.blobs.get_mut(name).ok_or_else(|| unknown(name))?;
        let (file, hash) =
            blob.open.as_mut().ok_or_else(|| invalid(format!("the blob {name} is sealed")))?;
        file.write_all(bytes).map_err(|e| failed("write", &e))?;
        hash.update(bytes);
        blob.size += bytes.len() as u64;
        table.used = used;
        Ok(())
    }

    /// Ends a blob: from now on it can be read and sent, and not written. Can be asked again.
    pub async fn seal(&self, name: &str) -> Result<BlobFacts, RpcError> {
        let sealed = {
            let mut table = self.table();
            let blob = table.blobs.get_mut(name).ok_or_else(|| unknown(name))?;
            if let Some((_, hash)) = blob.open.take() {
                blob.sha256 = Some(hex(&hash.finalize()));
            }
            blob.sealed()
        };
        let sha256 = match sealed.sha256 {
            Some(known) => known,
            None => self.look(name, sealed.path).await?,
        };
        Ok(BlobFacts { blob: name.to_owned(), size: sealed.size, sha256: Some(sha256) })
    }

    /// Bytes of a sealed blob.
    pub fn read(&self, name: &str, off: u64, max: usize) -> Result<Vec<u8>, RpcError> {
        let sealed = self.sealed(name)?;
        let left = usize::try_from(sealed.size.saturating_sub(off)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; max.min(left)];
        let file = open_plain(&sealed.path).map_err(|e| failed("read", &e))?;
        file.read_exact_at(&mut bytes, off).map_err(|e| failed("read", &e))?;
        Ok(bytes)
    }

    /// Removes a blob; one that is not there is gone already.
    pub fn remove(&self, name: &str) {
        let mut table = self.table();
        let Some(blob) = table.blobs.remove(name) else { return };
        if blob.ours {
            table.used = table.used.saturating_sub(blob.size);
            // A file that cannot be removed now goes with the folder.
            let _ = std::fs::remove_file(blob.path);
        }
    }

    /// Removes everything: the session is over.
    pub fn clear(&self) {
        let table = std::mem::take(&mut *self.table());
        drop(table);
    }

    /// A blob to send.
    pub(crate) fn sealed(&self, name: &str) -> Result<Sealed, RpcError> {
        let table = self.table();
        let blob = table.blobs.get(name).ok_or_else(|| unknown(name))?;
        match blob.open {
            None => Ok(blob.sealed()),
            Some(_) => Err(invalid(format!("the blob {name} is not sealed yet"))),
        }
    }

    /// Hashes a file that was not written through us.
    async fn look(&self, name: &str, path: PathBuf) -> Result<String, RpcError> {
        let hashed = tokio::task::spawn_blocking(move || digest(&path)).await;
        let hashed = hashed.unwrap_or_else(|e| Err(io::Error::other(e)));
        let sha256 = hashed.map_err(|e| failed("read", &e))?;
        if let Some(blob) = self.table().blobs.get_mut(name) {
            blob.sha256 = Some(sha256.clone());
        }
        Ok(sha256)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn name(&mut self) -> String {
        self.issued += 1;
        format!("b{}", self.issued)
    }
}

impl Blob {
    fn sealed(&self) -> Sealed {
        Sealed { path: self.path.clone(), size: self.size, sha256: self.sha256.clone() }
    }
}

impl Home {
    fn new(parent: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(FOLDER).tempdir_in(parent)?;
        let lock = File::create_new(dir.path().join(LOCK))?;
        lock.lock()?;
        Ok(Self { dir, _lock: lock })
    }
}

/// Removes the folders of sessions that died: nobody holds their lock.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let dir = entry.path();
        let theirs = entry.file_name().to_string_lossy().starts_with(FOLDER);
        let dead = || open_plain(&dir.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if theirs && dead() {
            // The next session tries again.
            let _ = std::fs::remove_dir_all(&dir);
        }
    }
}

/// Opens a file for reading that a plugin may have replaced: by a pipe, say, which would be waited for.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(nonblock).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no plain file")),
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let (mut file, mut hash) = (open_plain(path)?, Sha256::new());
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unknown(name: &str) -> RpcError {
    RpcError::of(ErrorKind::NotFound, format!("no blob is called {name}"))
}

fn invalid(message: String) -> RpcError {
    RpcError::of(ErrorKind::InvalidRequest, message)
}

fn full(message: String) -> RpcError {
    RpcError::of(ErrorKind::Quota, message)
}

fn failed(what: &str, error: &io::Error) -> RpcError {
    RpcError::of(ErrorKind::Internal, format!("cannot {what} a blob: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<T: std::fmt::Debug>(answer: Result<T, RpcError>) -> ErrorKind {
        answer.unwrap_err().data.unwrap().kind
    }

    #[tokio::test]
    async fn a_blob_is_written_sealed_read_and_gone_with_its_session() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path());
        let name = blobs.create().unwrap();
        blobs.write(&name, b"ab").unwrap();
        assert_eq!(kind(blobs.read(&name, 0, 10)), ErrorKind::InvalidRequest);
        blobs.write(&name, b"c").unwrap();
        let facts = blobs.seal(&name).await.unwrap();
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((facts.size, facts.sha256.as_deref()), (3, Some(sha)));
        assert_eq!(blobs.seal(&name).await.unwrap(), facts);
        assert_eq!(kind(blobs.write(&name, b"d")), ErrorKind::InvalidRequest);
        assert_eq!(blobs.read(&name, 1, 10).unwrap(), b"bc");
        assert_eq!(blobs.read(&name, 9, 10).unwrap(), b"");
        blobs.remove(&name);
        assert_eq!(kind(blobs.read(&name, 0, 1)), ErrorKind::NotFound);
        drop(blobs);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_file_of_the_kernels_is_hashed_when_asked_and_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tree.tar");
        std::fs::write(&path, "abc").unwrap();
        let blobs = Blobs::new(dir.path());
        let name = blobs.adopt(&path).unwrap();
        assert_eq!(blobs.read(&name, 0, 2).unwrap(), b"ab");
        assert!(blobs.seal(&name).await.unwrap().sha256.unwrap().starts_with("ba7816bf"));
        blobs.remove(&name);
        assert!(path.exists());
    }

    #[test]
    fn the_quota_holds_and_dropping_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs { quota: 10, ..Blobs::new(dir.path()) };
        let first = blobs.create().unwrap();
        blobs.write(&first, &[0; 8]).unwrap();
        let second = blobs.create().unwrap();
        assert_eq!(kind(blobs.write(&second, &[0; 3])), ErrorKind::Quota);
        blobs.remove(&first);
        blobs.write(&second, &[0; 3]).unwrap();
    }

    #[test]
    fn what_a_dead_session_left_is_swept_and_a_living_ones_stays() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("blobs-dead");
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join(LOCK), "").unwrap();
        let living = Blobs::new(dir.path());
        living.create().unwrap();
        assert!(!left.exists());
        let other = Blobs::new(dir.path());
        other.create().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
