//! The folders that are watched for scans: begun when somebody asks, told about from the next time on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crabbox_schemas::daemon::{Changes, WatchedView};
use tokio::task::{AbortHandle, spawn_blocking, spawn_local};
use tokio::time::Instant;

use crate::line::blob;
use crate::watch::Watcher;

/// Most folders that are watched at once; the one that was not asked for the longest makes way.
const MOST: usize = 16;
/// Folders full of things that are hardly ever sent; if they are, they are looked at every time.
const BLIND: &[&str] = &["node_modules", "target", ".venv", ".tox", ".gradle", ".next", ".cache"];

/// All of them.
#[derive(Default)]
pub(crate) struct Watches(RefCell<HashMap<PathBuf, Watched>>);

struct Watched {
    /// Nothing until it has begun, or when the folder cannot be watched.
    watcher: Rc<RefCell<Option<Watcher>>>,
    /// What the last scan is remembered as.
    scanned: Option<String>,
    used: Cell<Instant>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watches {
    /// What changed below a folder.
    pub(crate) fn changes(&self, root: PathBuf) -> Changes {
        let mut all = self.0.borrow_mut();
        let Some(watched) = all.get(&root) else {
            make_way(&mut all);
            all.insert(root.clone(), Watched::begin(root));
            return Changes::default();
        };
        watched.used.set(Instant::now());
        match watched.changes() {
            Some(changes) => changes,
            None => {
                all.remove(&root);
                Changes::default()
            }
        }
    }

    /// Remembers what a scan is remembered as.
    pub(crate) fn scanned(&self, root: &Path, token: String) {
        if let Some(watched) = self.0.borrow_mut().get_mut(root) {
            watched.scanned = Some(token);
        }
    }

    /// Lets go of folders nobody asked about for this long.
    pub(crate) fn tidy(&self, idle: Duration) {
        self.0.borrow_mut().retain(|_, watched| watched.used.get().elapsed() < idle);
    }

    /// Whether a folder is watched.
    pub(crate) fn holds_any(&self) -> bool {
        !self.0.borrow().is_empty()
    }

    /// What is watched, for people.
    pub(crate) fn view(&self) -> Vec<WatchedView> {
        let all = self.0.borrow();
        let view = |(root, watched): (&PathBuf, &Watched)| {
            let watcher = watched.watcher.borrow();
            let folders = watcher.as_ref().map_or(0, Watcher::folders) as u64;
            WatchedView { root: root.to_string_lossy().into_owned(), folders }
        };
        all.iter().map(view).collect()
    }
}

fn make_way(all: &mut HashMap<PathBuf, Watched>) {
    let oldest =
        all.iter().min_by_key(|(_, watched)| watched.used.get()).map(|(root, _)| root.clone());
    if let Some(oldest) = oldest.filter(|_| all.len() >= MOST) {
        all.remove(&oldest);
    }
}

impl Watched {
    fn begin(root: PathBuf) -> Self {
        let watcher = Rc::<RefCell<Option<Watcher>>>::default();
        let task = spawn_local(follow(root, Rc::clone(&watcher))).abort_handle();
        Self { watcher, scanned: None, used: Cell::new(Instant::now()), task }
    }

    /// `None` when the watcher lost track.
    fn changes(&self) -> Option<Changes> {
        let mut watcher = self.watcher.borrow_mut();
        let Some(watcher) = watcher.as_mut() else { return Some(Changes::default()) };
        let token = watcher.token()?;
        let known = self.scanned.as_ref().and_then(|since| Some((since, watcher.since(since)?)));
        let (since, changed) = known.unzip();
        let changed = changed.unwrap_or_default().iter().map(|path| blob(path)).collect();
        Some(Changes { token: Some(token), since: since.cloned(), changed })
    }
}

/// Begins to watch, and takes what the system tells before it tells too much.
async fn follow(root: PathBuf, place: Rc<RefCell<Option<Watcher>>>) {
    let begun = spawn_blocking(move || Watcher::begin(&root, BLIND)).await;
    match begun {
        Ok(Ok(watcher)) => *place.borrow_mut() = Some(watcher),
        Ok(Err(error)) => return tracing::debug!(%error, "a folder cannot be watched"),
        Err(_) => return,
    }
    loop {
        let news = place.borrow().as_ref().map(Watcher::news);
        let Some(news) = news else { return };
        if let Err(error) = news.await {
            tracing::debug!(%error, "a folder cannot be watched any more");
            *place.borrow_mut() = None;
            return;
        }
        if let Some(watcher) = place.borrow_mut().as_mut() {
            watcher.catch_up();
            if watcher.is_lost() {
                return;
            }
        }
    }
}
