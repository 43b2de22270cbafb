//! The first half of a flight: the tree, locked and made as wanted.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::helper::{
    Applied, FlightParams, FlightResult, LockAsk, Need, Refused, Role, TreeChange, Waiting, note,
};
use crabbox_tree::Delta;

use crate::Fault;
use crate::line::Line;
use crate::seed;
use crate::serve::Serve;
use crate::tree::{self, Begin, Lock, Staging, Tree};

/// Between two looks whether a lock is free: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(40));
/// Largest text of a delta.
const LARGEST_DELTA: usize = 512 << 20;
/// Most trees kept open.
const MOST: usize = 32;

/// A tree that is kept open between flights, so that its state need not be read again.
type Kept = Arc<Mutex<Tree>>;

/// Which tree: its lease's folder, its name, its lease; and the identity of the folder its notes are in.
type Key = (PathBuf, String, String, Option<(u64, u64)>);

/// The trees that are open.
#[derive(Debug, Default)]
pub(crate) struct Trees {
    open: Mutex<HashMap<Key, Kept>>,
}

/// A tree that is ours until the lock is gone.
pub(crate) struct Ground {
    pub(crate) tree: Kept,
    pub(crate) lock: Lock,
    /// It is a run's own already; the common tree is busy.
    pub(crate) is_private: bool,
}

/// Why a flight ends early: with an answer that lets the laptop correct itself, or with a failure.
pub(crate) enum Stop {
    Refused(Refused),
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<tree::Fault> for Stop {
    fn from(fault: tree::Fault) -> Self {
        fault.refused().map_or_else(|| Self::Fault(fault.into()), Self::Refused)
    }
}

impl From<tree::Fault> for Fault {
    fn from(fault: tree::Fault) -> Self {
        // A conflict is always a run that was started before: the laptop attaches to it.
        let kind = match &fault {
            tree::Fault::Unequal(_) => ErrorKind::Transient,
            fault => fault.kind(),
        };
        let told = Fault::new(kind, fault.to_string());
        match fault.hint() {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }
}

impl Trees {
    /// The tree of a flight; its fence is checked when it is opened and whenever it is used.
    fn get(&self, params: &FlightParams) -> Result<Kept, Stop> {
        let base = Path::new(&params.base_dir);
        let identity = || {
            let meta = std::fs::metadata(base.join(".crabbox")).ok()?;
            Some((meta.dev(), meta.ino()))
        };
        let key = |id| (base.to_owned(), params.repo.clone(), params.lease.clone(), id);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = identity();
        if known.is_some()
            && let Some(tree) = open.get(&key(known))
        {
            return Ok(tree.clone());
        }
        let tree = Arc::new(Mutex::new(Tree::open(base, &params.repo, &params.lease)?));
        if open.len() >= MOST {
            open.clear();
        }
        open.insert(key(identity()), tree.clone());
        Ok(tree)
    }
}

/// Locks the tree of a flight, queueing as it asks, unless what it wants is `begun` already.
pub(crate) fn lock(
    serve: &Serve,
    line: &Line,
    params: &FlightParams,
    begun: &dyn Fn() -> Result<(), Fault>,
) -> Result<Ground, Stop> {
    let tree = serve.trees.get(params)?;
    let until = Instant::now().checked_add(Duration::from_millis(params.lock.wait_ms));
    let at_once = LockAsk { wait_ms: 0, ..params.lock.clone() };
    let (mut told, mut pause) = (None, PAUSE.0);
    loop {
        // The tree itself is free while we wait: its holder's flight, in this process too, needs it.
        let tried = own(&tree).lock(&at_once, &mut |_| {}, &|| line.is_cancelled());
        let owner = match tried {
            Ok(lock) => {
                // Another flight of the same run may have held it until now.
                begun()?;
                return Ok(Ground { tree, lock, is_private: false });
            }
            Err(tree::Fault::Busy { owner }) => owner,
            Err(fault) => return Err(fault.into()),
        };
        if line.is_cancelled() {
            return Err(Fault::cancelled().into());
        }
        begun()?;
        if let Some(run) = params.run.as_ref().filter(|_| params.isolate) {
            return private(params, &run.run_id, &at_once);
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(Stop::Refused(Refused::Busy { owner }));
        }
        if told.as_ref() != Some(&owner) {
            let waiting = Waiting { channels: line.base, owner: owner.clone() };
            serve.tell(line, note::WAITING, &waiting)?;
            told = Some(owner);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// A tree of a run's own beside the common one, made from what is on the box and what is sent.
fn private(params: &FlightParams, run_id: &str, ask: &LockAsk) -> Result<Ground, Stop> {
    let base = tree::private_base(Path::new(&params.base_dir), run_id)?;
    let tree = Tree::open(&base, &params.repo, &params.lease)?;
    let lock = tree.lock(ask, &mut |_| {}, &|| false)?;
    Ok(Ground { tree: Arc::new(Mutex::new(tree)), lock, is_private: true })
}

/// Makes the tree as wanted, with the content that comes for it.
pub(crate) fn change(
    serve: &Arc<Serve>,
    line: &Arc<Line>,
    ground: &Ground,
    change: &TreeChange,
) -> Result<Applied, Stop> {
    let text = serve.receive(line, Role::Delta, LARGEST_DELTA)?;
    let came = Instant::now();
    let delta = Delta::from_packed(&text, LARGEST_DELTA).map_err(tree::Fault::from)?;
    let begun = own(&ground.tree).begin(change, delta)?;
    let mut staging = match begun {
        Begin::Ready(staging) => staging,
        Begin::Refused(refused, manifest) => {
            if let Some(text) = manifest {
                serve.send(line, Role::Manifest, text.as_bytes())?;
            }
            return Err(Stop::Refused(refused));
        }
    };
    if change.ask {
        serve.send(line, Role::Have, staging.have().as_bytes())?;
        let ms = u64::try_from(came.elapsed().as_millis()).unwrap_or(u64::MAX);
        let need = Need { channels: line.base, pieces: staging.missing(), ms };
        serve.tell(line, note::NEED, &need)?;
    }
    if staging.missing() > 0 {
        let seed = change.seed.as_ref().filter(|_| change.ask).map(|origin| {
            seed::begin(serve, line, own(&ground.tree).base_dir(), origin, staging.offers())
        });
        receive(serve, line, &mut staging)?;
        drop(seed);
    }
    if line.is_cancelled() {
        return Err(Fault::cancelled().into());
    }
    let applied = serve.whole(|| staging.apply(&mut own(&ground.tree)))?;
    Ok(applied)
}

/// Takes blocks until all are here. They may overtake each other on their way, and are packed against those before
/// them: one that comes early waits. How many can is bounded by their credit.
fn receive(serve: &Serve, line: &Line, staging: &mut Staging) -> Result<(), Stop> {
    let (mut early, mut next) = (BTreeMap::new(), 0);
    loop {
        let piece = line.next(Role::Blocks)?;
        if !piece.bytes.is_empty() || piece.last {
            early.insert(piece.offset, piece);
        }
        while let Some(piece) = early.remove(&next) {
            let len = piece.bytes.len() as u64;
            next += len;
            if len > 0 {
                staging.put(piece.bytes)?;
            }
            if piece.last {
                return Ok(());
            }
            serve.grant(line, Role::Blocks, len)?;
        }
    }
}

/// Copies the tree for one run; the lock is given back once the copy stands.
pub(crate) fn isolate(ground: Ground, run_id: &str) -> Result<PathBuf, Stop> {
    if ground.is_private {
        return Ok(own(&ground.tree).workdir().to_owned());
    }
    Ok(own(&ground.tree).isolate(run_id)?)
}

/// After a command: looks what it did, and watches from then on. Whoever flies meanwhile goes first.
pub(crate) fn look_after(tree: &Kept) {
    let mut tree = own(tree);
    if tree.sweep().is_ok_and(|sweep| !sweep.busy) {
        tree.guard();
    }
}

/// The answer to a flight that ended early.
pub(crate) fn answer(stop: Stop) -> Result<FlightResult, Fault> {
    match stop {
        Stop::Refused(refused) => Ok(FlightResult::Refused(refused)),
        Stop::Fault(fault) => Err(fault),
    }
}

fn own(tree: &Kept) -> MutexGuard<'_, Tree> {
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}
