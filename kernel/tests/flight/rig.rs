//! A directory here, a box with the helper, and flights between them.

use std::path::{Path, PathBuf};

use crabbox_kernel::error::Result;
use crabbox_kernel::event::Event;
use crabbox_kernel::helper::{Binaries, Helper, Incoming, Opened, open};
use crabbox_kernel::ports::Stop;
use crabbox_kernel::state::State;
use crabbox_kernel::sync::flight::{Flight, Flown, Launch, Launched, Place, fly};
use crabbox_kernel::sync::push::Pushed;
use crabbox_kernel::sync::{LocalTree, ScanOptions, SyncRules, scan};
use crabbox_schemas::helper::{Action, Blob, LockAsk, Role, RunSpec};
use crabbox_schemas::ids::LeaseId;

use crate::pipe::{PipeBox, Time};
use crate::trees::look_at;

/// Where `./build-helper.sh` puts it: beside the executables of the profile this test was built with.
pub(crate) fn binaries() -> Binaries {
    let me = std::env::current_exe().unwrap();
    let dir = me.parent().and_then(Path::parent).unwrap().to_owned();
    let file = format!("crabbox-helper-linux-{}", std::env::consts::ARCH);
    assert!(
        dir.join(&file).exists(),
        "{file} is not in {}: run ./build-helper.sh debug",
        dir.display()
    );
    Binaries::in_dir(dir)
}

/// A directory here, a box, and what is remembered of it.
pub(crate) struct Rig {
    pub(crate) to: PipeBox,
    pub(crate) local: tempfile::TempDir,
    pub(crate) state: State,
    pub(crate) place: Place,
    pub(crate) rules: SyncRules,
    pub(crate) wait_ms: u64,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let to = PipeBox::new();
        let state = State { root: to.at("state"), config: to.at("config") };
        let place = Place {
            lease: LeaseId::mint([1; 6]),
            base_dir: format!("{}/cbx_010101010101", to.work_root()),
            repo: "repo".to_owned(),
        };
        let (local, rules) = (tempfile::tempdir().unwrap(), SyncRules::default());
        // Who cuts and comes back at once meets what is just going away there.
        Self { to, local, state, place, rules, wait_ms: 10_000 }
    }

    pub(crate) fn here(&self, path: &str) -> PathBuf {
        self.local.path().join(path)
    }

    pub(crate) fn there(&self, path: &str) -> PathBuf {
        Path::new(&self.place.base_dir).join("repo").join(path)
    }

    pub(crate) fn tree(&self) -> LocalTree {
        scan(self.local.path(), &self.rules, &ScanOptions::default()).unwrap().0
    }

    pub(crate) async fn helper(&self) -> Helper {
        self.try_helper().await.unwrap()
    }

    pub(crate) async fn try_helper(&self) -> Result<Helper> {
        let root = self.to.work_root();
        match open(&self.to, &binaries(), &root, &Time, &mut Vec::new()).await? {
            Opened::Helper(helper) => Ok(helper),
            Opened::Shell { why } => panic!("{why}"),
        }
    }

    pub(crate) async fn fly_with(
        &self,
        helper: &mut Helper,
        tree: Option<&LocalTree>,
        launch: Option<&Launch>,
        events: &mut Vec<Event>,
    ) -> Result<Flown> {
        let flight = Flight {
            place: &self.place,
            tree: tree.map(|tree| (tree, &self.rules)),
            lock: LockAsk { owner: "a test".to_owned(), wait_ms: self.wait_ms },
            isolate: false,
            checkout: None,
            launch,
        };
        fly(helper, &flight, &self.state, events, &Stop::never(), &Time).await
    }

    pub(crate) async fn try_sync(&self, helper: &mut Helper) -> Result<Pushed> {
        let flown = self.fly_with(helper, Some(&self.tree()), None, &mut Vec::new()).await?;
        assert_eq!(flown.launched, Launched::Nothing);
        Ok(flown.pushed.unwrap())
    }

    pub(crate) async fn sync(&self, helper: &mut Helper) -> Pushed {
        self.try_sync(helper).await.unwrap()
    }

    /// Syncs, and checks that the box holds exactly what is here, and in how many round trips.
    pub(crate) async fn mirror(&self, helper: &mut Helper, turns: usize) -> Pushed {
        let before = self.to.wire.turns.get();
        let pushed = self.exact(helper).await;
        assert_eq!(self.to.wire.turns.get() - before, turns, "round trips: {pushed:?}");
        pushed
    }

    /// Syncs, and checks that the box holds exactly what is here.
    pub(crate) async fn exact(&self, helper: &mut Helper) -> Pushed {
        let pushed = self.sync(helper).await;
        assert!(look_at(&self.there("")) == look_at(self.local.path()), "the box holds the tree");
        pushed
    }
}

pub(crate) fn numbers(pushed: &Pushed) -> (bool, u64, u64, u64) {
    (pushed.skipped, pushed.sent_files, pushed.deleted, pushed.drifted)
}

pub(crate) fn launch(run: [u8; 6], line: &str) -> Launch {
    Launch {
        spec: RunSpec {
            run_id: crabbox_schemas::ids::RunId::mint(run).to_string(),
            action: Action::Shell(Blob::Text(line.to_owned())),
            env: Default::default(),
            pty: None,
            stdin: false,
            timeout_ms: None,
            spool_bytes: 1 << 20,
        },
        script: None,
    }
}

/// What a started command printed, to its end.
pub(crate) async fn output(helper: &mut Helper, channels: u32) -> Vec<u8> {
    let mut text = Vec::new();
    loop {
        let incoming = helper.next(|i| i.concerns(channels)).await.unwrap();
        match incoming {
            Incoming::Bytes { channel, data, .. } if channel == Role::Stdout.of(channels) => {
                helper.consumed(channel, data.len() as u64).unwrap();
                text.extend_from_slice(&data);
            }
            Incoming::Note { method, .. } if method == "run.exited" => return text,
            _ => {}
        }
    }
}
