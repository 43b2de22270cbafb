//! Looks at the tree: all of it after a command, and before a flight only at what may have changed since.

use std::os::fd::OwnedFd;

use crate::tree::check::check;
use crate::tree::fault::Result;
use crate::tree::guard::{Doubt, Guard};
use crate::tree::lock::Lock;
use crate::tree::{STATE, Seen, Tree, UNFINISHED};

/// What a sweep found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Somebody else holds the tree, or changed it meanwhile.
    pub busy: bool,
    /// How many managed paths are not as they were left.
    pub drifted: u64,
}

impl Tree {
    /// Looks at the managed paths and remembers what proves that they are unchanged, so that the next flight need
    /// not. To be called after a command, off the path of any run, and not while holding the tree's lock: that is
    /// only taken for the moment in which the proofs are written down. Nothing is written in the tree.
    pub fn sweep(&mut self) -> Result<Sweep> {
        self.reload()?;
        // Here is time for what no guard reports: writes through mapped memory, and second names.
        self.doubt = Doubt::All;
        let Some(top) = self.place.standing()? else {
            // The next flight makes it again.
            self.guard = None;
            return Ok(Sweep { busy: false, drifted: self.state.records.len() as u64 });
        };
        self.arm(&top);
        let (drift, fresh) = self.look(&top, false)?;
        let busy = (fresh || self.has_change()) && !self.write_proofs()?;
        if let Some(store) = &self.place.store {
            // A store that is too large for now harms nobody.
            let _ = store.trim();
        }
        Ok(Sweep { busy, drifted: drift.len() as u64 })
    }

    /// Writes the state down unless somebody flies, or has flown since it was read. What is kept in memory holds
    /// anyway: a proof is about a file's bytes, whoever wrote them. The lock is held for moments only, since a
    /// flight that would not wait might come.
    fn write_proofs(&mut self) -> Result<bool> {
        let aside = format!("{STATE}.{}", rustix::process::getpid().as_raw_pid());
        self.place.write_aside(&aside, &self.state.to_bytes(self.place.boot))?;
        let lock = Lock::try_take(self.place.lock_file()?)?;
        let ours = lock.is_some()
            && self.seen == Some(Seen::now(&self.place))
            && self.place.look(UNFINISHED).is_none();
        if !ours {
            self.place.forget(&aside)?;
            return Ok(false);
        }
        self.save_from(&aside)?;
        // A sweep that was killed may have left its own.
        self.place.forget_all(&format!("{STATE}."))?;
        Ok(true)
    }

    /// Has the system report changes from now on; what was changed until now is looked at once more.
    pub fn guard(&mut self) {
        if let Ok(Some(top)) = self.place.standing() {
            self.arm(&top);
        }
    }

    fn arm(&mut self, top: &OwnedFd) {
        if self.guard.is_none() {
            self.guard = Guard::arm(top, &self.state.manifest);
            self.doubt = Doubt::All;
        }
    }

    /// Looks at every managed path that may have changed, at all when there is no guard, and reads all their
    /// bytes when `bytes`. The indices of those that drifted, and whether new proofs were found for others.
    pub(super) fn look(&mut self, top: &OwnedFd, bytes: bool) -> Result<(Vec<usize>, bool)> {
        match self.guard.as_ref().map(|guard| guard.doubts(&self.state.manifest)) {
            Some(Doubt::Paths(paths)) => self.doubt.add(paths),
            // Events were lost: what is watched now may be something else.
            Some(Doubt::All) => {
                self.guard = None;
                self.doubt = Doubt::All;
                self.arm(top);
            }
            None => self.doubt = Doubt::All,
        }
        let these = match &self.doubt {
            Doubt::Paths(paths) if !bytes => {
                Some(paths.iter().filter_map(|path| self.state.find(path)).collect::<Vec<_>>())
            }
            _ => None,
        };
        let stamp = self.place.stamp()?;
        let checked = check(top, &self.state, these.as_deref(), stamp, bytes)?;
        let fresh = !checked.fresh.is_empty();
        for (at, record) in checked.fresh {
            self.state.records[at] = record;
        }
        self.settle_doubts(these, &checked.drift);
        Ok((checked.drift, fresh))
    }

    /// What stays in doubt after a look: what drifted, and what looks cannot prove.
    fn settle_doubts(&mut self, these: Option<Vec<usize>>, drift: &[usize]) {
        if self.guard.is_none() {
            return;
        }
        let (entries, records) = (self.state.manifest.entries(), &self.state.records);
        let weak = |at: &usize| !records[*at].sure || records[*at].look.links != 1;
        let mut doubt = Doubt::Paths(drift.iter().map(|at| entries[*at].path.clone()).collect());
        match these {
            Some(these) => {
                doubt.add(these.iter().filter(|at| weak(at)).map(|at| entries[*at].path.clone()));
            }
            None => {
                let all = 0..records.len();
                doubt.add(all.filter(weak).map(|at| entries[at].path.clone()));
            }
        }
        self.doubt = doubt;
    }
}
