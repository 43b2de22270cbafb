//! Every decision of a run, taken once and written down before anything is spent.

use std::path::PathBuf;
use std::time::Duration;

use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::ids::RunId;

use crate::error::{KernelError, Result};
use crate::lease::Ask;
use crate::lease::lock::Patience;
use crate::run::collect::Download;
use crate::run::command::Command;
use crate::sync::commits::Commits;
use crate::sync::{LocalTree, SyncRules};
use crate::time::format_duration;

/// What a run will do. After this value exists nothing is decided any more.
#[derive(Debug)]
pub struct Plan {
    /// The run's id.
    pub run_id: RunId,
    /// Which box.
    pub ask: Ask,
    /// Keep the box in any case, and why.
    pub keep: Option<&'static str>,
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
    /// With `sync.baseRef`, what git on the box shall know; an error where that cannot be said.
    pub commits: Result<Option<Commits>>,
    /// What standard input has for the command.
    pub input: Supply,
    /// Give the command to the box and do not wait for it.
    pub detach: bool,
    /// Run it in a private copy of the tree.
    pub isolate: bool,
    /// How long to try to reach the box again when the connection breaks; zero gives up at once.
    pub reconnect: Duration,
    /// Who says on the box that the work tree is in use: run and machine, for people.
    pub owner: String,
    /// Most bytes of each output stream that are kept on the box.
    pub spool_bytes: u64,
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

impl Sync {
    /// With `sync.baseRef` the tree is a git checkout when the command sees it.
    pub fn commits(&self) -> Result<Option<Commits>> {
        let Sync::Tree { tree, rules } = self else { return Ok(None) };
        let base = rules.base_ref.as_ref();
        let commits = base.map(|base| Commits::look(&tree.root, base)).transpose();
        commits.map_err(|e| e.outcome(Outcome::NotStarted).at("sync"))
    }
}

impl Plan {
    /// The error for a command that ran out of its time and was stopped.
    pub(crate) fn out_of_time(&self) -> KernelError {
        let limit = format_duration(self.timeout.unwrap_or_default());
        let what = format!("the command was stopped after {limit}");
        KernelError::new(ErrorCode::CommandTimeout, what)
            .hint("a longer --timeout gives it more time")
    }
}

/// What is known of standard input before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// Nothing that could get lost: a terminal, `/dev/null`, an empty file, a pipe that was closed.
    Nothing,
    /// A pipe that says nothing so far.
    Silent,
    /// A file with content, or a pipe with bytes in it.
    Bytes,
}

/// Whether and how the tree is sent.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of them in a run")]
pub enum Sync {
    /// `--no-sync`: the tree on the box is not touched.
    Off,
    /// The provider's own tool sends the checkout.
    Own {
        /// What was asked of the sync; none of it can be honoured.
        asked: Vec<&'static str>,
    },
    /// The box shall hold exactly this.
    Tree {
        /// What was found here; its guards have passed.
        tree: LocalTree,
        /// How to send it.
        rules: SyncRules,
    },
}
