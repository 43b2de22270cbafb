//! Trees on the box: what they hold, whether that is still so, and how they become what the laptop wants.
//!
//! [`Tree`] is one work tree. Under its [`Lock`], [`Tree::begin`] compares what the laptop believes with what is
//! there, and either refuses or hands out a [`Staging`], which takes the missing content and then makes the
//! tree exactly as wanted. A flight that is cut anywhere is finished by the next one.

mod apply;
mod begin;
mod check;
mod copy;
mod dirs;
mod fault;
mod find;
mod ghost;
mod guard;
mod isolate;
mod lock;
mod notes;
mod partial;
mod place;
mod plan;
mod shelf;
mod staging;
mod stat;
mod state;
mod store;
mod sweep;
mod threads;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_schemas::helper::LockAsk;
use crabbox_tree::Manifest;

pub use begin::Begin;
pub use fault::Fault;
pub use isolate::{forget_isolated, private_base};
pub use lock::Lock;
pub use staging::Staging;
pub(crate) use staging::{Lack, Offers};
pub use store::store_bytes;
pub use sweep::Sweep;

use fault::Result;
use guard::{Doubt, Guard};
use notes::{STATE, Seen, UNFINISHED};
use place::Place;
use state::State;

/// One work tree on the box.
#[derive(Debug)]
pub struct Tree {
    place: Arc<Place>,
    workdir: PathBuf,
    state: State,
    /// How the notes' files looked when they were read or written.
    seen: Option<Seen>,
    guard: Option<Guard>,
    /// What has to be looked at before it is believed, beside what the guard reports.
    doubt: Doubt,
}

impl Tree {
    /// Opens the tree `repo` in a lease's folder: makes the folders, and checks the fence or sets it.
    pub fn open(base_dir: &Path, repo: &str, lease: &str) -> Result<Self> {
        let place = Arc::new(Place::open(base_dir, repo, lease)?);
        let workdir = base_dir.join(repo);
        let mut tree = Self {
            place,
            workdir,
            state: State::unseen(Manifest::default()),
            seen: None,
            guard: None,
            doubt: Doubt::All,
        };
        tree.reload()?;
        Ok(tree)
    }

    /// The lease's folder.
    pub(crate) fn base_dir(&self) -> &Path {
        &self.place.base_dir
    }

    /// Where the tree stands.
    pub fn workdir(&self) -> &Path {
        &self.workdir
    }

    /// Takes the tree's lock, waiting as `ask` says; `waiting` is told who holds it, `cancelled` ends the wait.
    pub fn lock(
        &self,
        ask: &LockAsk,
        waiting: &mut dyn FnMut(&str),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Lock> {
        Lock::take(self.place.lock_file()?, ask, waiting, cancelled)
    }
}
