//! Every decision of a run, taken once and written down before anything is spent.

use std::path::PathBuf;
use std::time::Duration;

use crabbox_schemas::ids::RunId;

use crate::lease::Ask;
use crate::lease::lock::Patience;
use crate::run::collect::Download;
use crate::run::command::Command;
use crate::sync::{LocalTree, SyncRules};

/// What a run will do. After this value exists nothing is decided any more.
#[derive(Debug)]
pub struct Plan {
    /// The run's id.
    pub run_id: RunId,
    /// Which box.
    pub ask: Ask,
    /// Keep the box in any case.
    pub keep: bool,
    /// Keep the box when the run fails.
    pub keep_on_failure: bool,
    /// The checkout's root; claims bind a lease to it.
    pub repo_root: PathBuf,
    /// Last part of the work directory on the box.
    pub repo_name: String,
    /// What is sent.
    pub sync: Sync,
    /// What is run; `None` with `--sync-only`.
    pub command: Option<Command>,
    /// When the command is stopped.
    pub timeout: Option<Duration>,
    /// How long to queue behind another run on the lease.
    pub patience: Patience,
    /// JUnit files to read afterwards.
    pub junit: Vec<String>,
    /// Files to copy back afterwards.
    pub downloads: Vec<Download>,
    /// The user's label for the run.
    pub label: Option<String>,
}

/// Whether and how the tree is sent.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of them in a run")]
pub enum Sync {
    /// `--no-sync`: the tree on the box is not touched.
    Off,
    /// The box shall hold exactly this.
    Tree {
        /// What was found here; its guards have passed.
        tree: LocalTree,
        /// How to send it.
        rules: SyncRules,
    },
}
