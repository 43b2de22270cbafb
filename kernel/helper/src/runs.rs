//! The folder of a run: proof that it was started, what it printed, how it ended.
//!
//! It appears complete and at once, so that of two who would start a run one is refused. `keeper` is locked by whoever
//! keeps the run alive; `pid` is written by the command's own process before it begins; `exit.json` ends the story.
//! Of a run that is forgotten the proof stays for a day, marked `forgotten`: a flight of its that was held up on the way
//! must not start it again.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crabbox_schemas::error::{ErrorKind, Outcome};
use crabbox_schemas::helper::{Action, Blob, RunExit, RunState};
use crabbox_schemas::ids::RunId;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::process::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Fault;
use crate::link::Link;
use crate::{clock, processes};

/// Nothing is left of runs that ended, or were forgotten, longer ago than this, milliseconds.
const OLD: u64 = 24 * 60 * 60 * 1000;
/// More ended runs than this are forgotten, oldest first.
const MANY: usize = 64;
/// What a run keeps in reserve, so that its last words and its end find room on a disk that its command filled; and
/// what of it is for the end alone.
const SPARE: u32 = 128 << 10;
pub(crate) const SPARE_FOR_END: u32 = 16 << 10;
/// What marks a run that was forgotten.
const FORGOTTEN: &str = "forgotten";

/// What is known of a run before it starts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta {
    /// For people.
    pub(crate) command: Vec<String>,
    /// How much of each stream is kept.
    pub(crate) spool_bytes: u64,
    /// Which start of the box it belongs to.
    pub(crate) boot: String,
    /// When the folder was made.
    pub(crate) made_ms: u64,
}

/// The folder of one run.
#[derive(Debug, Clone)]
pub(crate) struct RunDir {
    path: PathBuf,
    run_id: String,
}

/// The folder of a run that has no name yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) dir: PathBuf,
    pub(crate) keeper: OwnedFd,
}

/// How things stand with a run.
#[derive(Debug)]
pub(crate) enum Standing {
    Unknown,
    Running,
    Exited(RunExit),
    Lost,
}

impl RunDir {
    /// The folder of a run, whether it exists or not.
    pub(crate) fn of(base_dir: &str, run_id: &str) -> Result<Self, Fault> {
        let id = RunId::parse(run_id).ok_or_else(|| Fault::request("not the id of a run"))?;
        Ok(Self { path: folder(base_dir)?.join(id.as_str()), run_id: run_id.to_owned() })
    }

    pub(crate) fn run_id(&self) -> &str {
        &self.run_id
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether this run was ever begun here.
    pub(crate) fn exists(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok()
    }

    /// Refuses a run that was begun before.
    pub(crate) fn refuse_twice(&self) -> Result<(), Fault> {
        if self.exists() { Err(Self::twice()) } else { Ok(()) }
    }

    /// The answer to who starts a run again.
    pub(crate) fn twice() -> Fault {
        Fault::new(ErrorKind::Conflict, "this run was already started")
            .hint("attach to it instead of starting it")
            .outcome(Outcome::Completed)
    }

    /// Makes the folder under another name. Whoever holds the file that comes back open keeps the run alive; the
    /// worker gives the folder its name, so that a run is either begun and kept, or was never there.
    pub(crate) fn prepare(&self, meta: &Meta, script: Option<&[u8]>) -> Result<Prepared, Fault> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".{}.{}.{count}", self.run_id, std::process::id());
        let dir = self.path.with_file_name(name);
        match fill(&dir, meta, script) {
            Ok(keeper) => Ok(Prepared { dir, keeper }),
            Err(e) => {
                let _ = std::fs::remove_dir_all(&dir);
                Err(Fault::io(format!("cannot write {}", dir.display()), e))
            }
        }
    }

    /// How things stand.
    pub(crate) fn standing(&self) -> Standing {
        if !self.exists() {
            return Standing::Unknown;
        }
        let kept = is_kept(&self.path);
        match self.exit() {
            Some(exit) => Standing::Exited(exit),
            None if kept => Standing::Running,
            None => Standing::Lost,
        }
    }

    /// How things stand once its worker said goodbye: one that was killed lets go of its files one by one.
    pub(crate) fn settled(&self) -> Standing {
        for _ in 0..100 {
            match self.standing() {
                Standing::Running => std::thread::sleep(Duration::from_millis(10)),
                settled => return settled,
            }
        }
        Standing::Running
    }

    /// How it ended, if it did.
    pub(crate) fn exit(&self) -> Option<RunExit> {
        read(&self.file("exit.json"))
    }

    pub(crate) fn meta(&self) -> Option<Meta> {
        read(&self.file("meta.json"))
    }

    /// Who started, when it was born, and at what time.
    pub(crate) fn started(&self) -> Option<(Pid, u64, u64)> {
        let text = std::fs::read_to_string(self.file("pid")).ok()?;
        let mut words = text.split_whitespace();
        let pid = Pid::from_raw(words.next()?.parse().ok()?)?;
        Some((pid, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    }

    /// Ends what a lost run left behind; true when nothing is left of it.
    pub(crate) fn end_leftovers(&self, now: bool) -> bool {
        let Some((pid, born, _)) = self.started() else { return true };
        let same_boot = self.meta().is_some_and(|meta| meta.boot == boot());
        let reused = processes::born(pid).is_some_and(|other| other != born);
        !same_boot || reused || processes::end(pid, now)
    }

    /// Calls its worker, which may be about to begin.
    pub(crate) fn call(&self) -> Option<Link> {
        for _ in 0..100 {
            if let Ok(link) = self.connect() {
                return Some(link);
            }
            if !matches!(self.standing(), Standing::Running) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// The folder is held open and named by its number: a socket's path must be short, a folder's need not.
    fn connect(&self) -> io::Result<Link> {
        use std::os::fd::AsRawFd;
        let dir = File::open(&self.path)?;
        let path = format!("/proc/self/fd/{}/sock", dir.as_raw_fd());
        Ok(Link::new(UnixStream::connect(path)?))
    }

    /// The state of the run, for the laptop.
    pub(crate) fn state(&self) -> RunState {
        let (state, exit) = match self.standing() {
            Standing::Unknown => ("unknown", None),
            Standing::Running => ("running", None),
            Standing::Exited(exit) => ("exited", Some(exit)),
            Standing::Lost => ("lost", None),
        };
        RunState {
            run_id: self.run_id.clone(),
            state: state.to_owned(),
            exit,
            started_ms: self.started().map(|s| s.2).unwrap_or_default(),
            command: self.meta().map(|m| m.command).unwrap_or_default(),
            stdin_taken: 0,
        }
    }

    /// Removes all but the proof that it was begun, unless the run still runs. One that was never begun never will be.
    pub(crate) fn forget(&self) -> Result<(), Fault> {
        if !self.exists() {
            self.forestall()?;
        }
        match self.standing() {
            Standing::Running => return Err(Fault::new(ErrorKind::Conflict, "the run still runs")),
            Standing::Unknown | Standing::Exited(_) => {}
            Standing::Lost => drop(self.end_leftovers(true)),
        }
        if let Some(base_dir) = self.path.ancestors().nth(3) {
            let _ = crate::tree::forget_isolated(base_dir, &self.run_id);
        }
        if self.is_read() {
            return Ok(());
        }
        self.strip().map_err(|e| Fault::io(format!("cannot empty {}", self.path.display()), e))
    }

    /// Takes its place, so that nobody begins it.
    fn forestall(&self) -> Result<(), Fault> {
        let made_ms = clock::now_ms();
        let meta = Meta { command: Vec::new(), spool_bytes: 0, boot: boot(), made_ms };
        let Prepared { dir, keeper } = self.prepare(&meta, None)?;
        drop(keeper);
        spend_reserve(&dir, 0);
        let named = std::fs::rename(&dir, &self.path);
        if named.is_err() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        match named {
            // Somebody begins it just now.
            Err(_) if self.exists() => Ok(()),
            named => named.map_err(|e| Fault::io(format!("cannot name {}", dir.display()), e)),
        }
    }

    /// Held by who reads the spool: as long as it is open, the spool stays.
    pub(crate) fn reading(&self) -> Option<File> {
        let file = File::open(self.file("meta.json")).ok()?;
        flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
        Some(file)
    }

    /// Whether somebody reads the spool.
    fn is_read(&self) -> bool {
        let file = File::open(self.file("meta.json"));
        file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
    }

    /// Marks the run, then removes its spool.
    fn strip(&self) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.file(FORGOTTEN))?;
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let spooled = [&b"out."[..], b"err."];
            let spooled = spooled.iter().any(|s| name.as_encoded_bytes().starts_with(s));
            if spooled || name == "script" || name == "sock" {
                std::fs::remove_file(self.path.join(name))?;
            }
        }
        Ok(())
    }

    /// When it was forgotten, if it was.
    fn forgotten(&self) -> Option<SystemTime> {
        std::fs::symlink_metadata(self.file(FORGOTTEN)).and_then(|meta| meta.modified()).ok()
    }
}

/// The words of an action, for people.
pub(crate) fn shown(action: &Action) -> Vec<String> {
    let text = |blob: &Blob| match crate::blob::os_string(blob) {
        Ok(word) => word.to_string_lossy().into_owned(),
        Err(_) => "?".to_owned(),
    };
    match action {
        Action::Exec(words) => words.iter().map(text).collect(),
        Action::Shell(line) => vec![text(line)],
        Action::Script(args) => {
            std::iter::once("script".to_owned()).chain(args.iter().map(text)).collect()
        }
    }
}

/// Which start of the box this is.
pub(crate) fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

/// Every run of a lease that is not forgotten, oldest first.
pub(crate) fn list(base_dir: &str) -> Result<Vec<RunDir>, Fault> {
    let known = all(base_dir)?.into_iter().filter(|run| run.forgotten().is_none());
    Ok(by_age(known.collect()))
}

fn all(base_dir: &str) -> Result<Vec<RunDir>, Fault> {
    let entries = std::fs::read_dir(folder(base_dir)?).into_iter().flatten().flatten();
    Ok(entries.filter_map(|e| RunDir::of(base_dir, e.file_name().to_str()?).ok()).collect())
}

/// The oldest first.
fn by_age(mut runs: Vec<RunDir>) -> Vec<RunDir> {
    runs.sort_by_cached_key(|run| {
        (run.meta().map(|meta| meta.made_ms).unwrap_or_default(), run.run_id.clone())
    });
    runs
}

/// Removes folders that never got their name, since who made them was killed.
fn remove_unnamed(base_dir: &str) {
    let Ok(folder) = folder(base_dir) else { return };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_unnamed = entry.file_name().as_encoded_bytes().starts_with(b".");
        if is_unnamed && !is_young(&path) && !is_kept(&path) {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Whether somebody may just be filling this folder: then even a look at the keeper's lock would be in the way.
fn is_young(dir: &Path) -> bool {
    let made = std::fs::metadata(dir).and_then(|meta| meta.modified());
    made.is_ok_and(|at| at.elapsed().map_or(true, |age| age < Duration::from_secs(60)))
}

/// Whether somebody keeps the run of this folder alive.
pub(crate) fn is_kept(dir: &Path) -> bool {
    let keeper = File::open(dir.join("keeper"));
    keeper.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// Forgets the oldest of the runs that ended when there are too many, and removes what ended or was forgotten long ago.
pub(crate) fn prune(base_dir: &str, now_ms: u64) {
    let (forgotten, known): (Vec<_>, Vec<_>) = all(base_dir)
        .unwrap_or_default()
        .into_iter()
        .map(|run| (run.forgotten(), run))
        .partition(|(at, _)| at.is_some());
    let long_ago = |at: SystemTime| at.elapsed().is_ok_and(|age| age.as_millis() > OLD.into());
    for (at, run) in forgotten {
        if at.is_some_and(long_ago) {
            let _ = std::fs::remove_dir_all(&run.path);
        }
    }
    let known = by_age(known.into_iter().map(|(_, run)| run).collect());
    let ended: Vec<_> =
        known.into_iter().filter(|run| !matches!(run.standing(), Standing::Running)).collect();
    remove_unnamed(base_dir);
    let too_many = ended.len().saturating_sub(MANY);
    for (index, run) in ended.iter().enumerate() {
        let at = run.exit().map(|e| e.ended_ms).or(run.meta().map(|m| m.made_ms));
        let is_old = at.unwrap_or_default().saturating_add(OLD) < now_ms;
        let is_forgotten = (is_old || index < too_many) && run.forget().is_ok();
        if is_forgotten && is_old && !run.is_read() {
            let _ = std::fs::remove_dir_all(&run.path);
        }
    }
}

/// Where a lease keeps its runs.
fn folder(base_dir: &str) -> Result<PathBuf, Fault> {
    let base = Path::new(base_dir);
    if !base.is_absolute() {
        return Err(Fault::request("the lease's folder is not absolute"));
    }
    Ok(base.join(".crabbox/run"))
}

fn fill(dir: &Path, meta: &Meta, script: Option<&[u8]>) -> io::Result<OwnedFd> {
    if let Some(parent) = dir.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    DirBuilder::new().mode(0o700).create(dir)?;
    write(&dir.join("meta.json"), 0o600, &serde_json::to_vec(meta)?)?;
    if let Some(body) = script {
        write(&dir.join("script"), 0o700, body)?;
    }
    let keeper = write(&dir.join("keeper"), 0o600, b"")?;
    flock(&keeper, FlockOperation::NonBlockingLockExclusive)?;
    // A disk without even that much room may still do.
    let _ = fallocate(&keeper, FallocateFlags::empty(), 0, SPARE.into());
    Ok(keeper.into())
}

/// Gives back what a run keeps in reserve for a full disk, except so much; true when that made room.
pub(crate) fn spend_reserve(dir: &Path, but: u32) -> bool {
    let keeper = OpenOptions::new().write(true).open(dir.join("keeper"));
    keeper.is_ok_and(|file| {
        file.metadata().is_ok_and(|meta| meta.len() > but.into())
            && file.set_len(but.into()).is_ok()
    })
}

fn write(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
