//! Sets the scene: the scripted plugin, its folders, and what a kernel would bring.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crabbox_host::{OpenOptions, Session, Timeouts, open};
use crabbox_kernel::error::KernelError;
use crabbox_kernel::lease::trail::Trail;
use crabbox_kernel::ports::Wanted;
use crabbox_plugins::{Catalog, Places, Written, discover};
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::journal::TrailLine;
use crabbox_schemas::lease::{BoxRequest, Desired, Lease};
use crabbox_schemas::plugin::{Limits, UserFacts};
use serde_json::{Map, Value, json};

/// Secrets that a plugin may use and never see.
pub(crate) const SEALED: &str = "sealed-c4n4ry";
pub(crate) const LENT: &str = "lent-c4n4ry";

pub(crate) struct Stage {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) provider: &'static str,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) prompt: bool,
}

pub(crate) fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/scripted")
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(
            env!("CARGO_BIN_EXE_misbehaving-plugin"),
            dir.path().join("bin/provider-scripted"),
        )
        .unwrap();
        let timeouts = Timeouts {
            exit: (Duration::from_millis(300), Duration::from_millis(300)),
            ..Timeouts::default()
        };
        Self { dir, provider: "scripted", timeouts, limits: Limits::default(), prompt: false }
    }

    pub(crate) fn delegated() -> Self {
        Self { provider: "scripted-delegated", ..Self::new() }
    }

    /// The executable the plugins are found beside; it need not exist.
    pub(crate) fn exe(&self) -> PathBuf {
        self.dir.path().join("bin/crabbox")
    }

    pub(crate) fn catalog(&self) -> Catalog {
        discover(&Places { developer: vec![fixture()], ..Places::beside(&self.exe()) })
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.dir.path().join("calls.jsonl")
    }

    /// What the plugin recorded: method and params.
    pub(crate) fn calls(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.state_file()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) async fn open(&self, config: Value) -> Result<Session, KernelError> {
        let catalog = self.catalog();
        let mut config: Map<String, Value> = serde_json::from_value(config).unwrap();
        config.insert("state-file".into(), json!(self.state_file()));
        let env = [
            ("SCRIPTED_GRANTED", "granted"),
            ("SCRIPTED_TOKEN", "s3cret"),
            ("SCRIPTED_SEALED", SEALED),
            ("SCRIPTED_LENT", LENT),
            ("LANG", "C.UTF-8"),
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
            ("TMPDIR", "/tmp"),
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/leaked"),
            ("SECRET_OF_OTHERS", "leaked"),
        ];
        open(OpenOptions {
            entry: Cow::Borrowed(catalog.find(self.provider).unwrap()),
            config,
            written: Written::default(),
            plugins_dir: self.dir.path().join("plugins"),
            keys_dir: self.dir.path().join("keys"),
            journal: self.dir.path().join("journal"),
            checkout: self.dir.path().join("checkout"),
            user: UserFacts {
                home: "/nowhere".into(),
                path: "/usr/bin:/bin".into(),
                login: "me".into(),
            },
            env: Arc::new(env.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            prompt: self.prompt.then(|| -> crabbox_host::Prompt {
                Arc::new(|question| Some(format!("answer to {}", question.message)))
            }),
            now_ms: Arc::new(|| 1_000),
            limits: self.limits,
            timeouts: self.timeouts,
            transcript: None,
        })
        .await
    }

    /// Opens a provider that must refuse to open.
    pub(crate) async fn refused(&self, config: Value) -> KernelError {
        self.open(config).await.expect_err("a session that must not open")
    }

    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            desired: desired(),
            request: BoxRequest { target: "linux".into(), ..BoxRequest::default() },
            ssh_public_key: "ssh-ed25519 AAAA test".into(),
            labels: [("crabbox".to_owned(), "true".to_owned())].into(),
            bootstrap: None,
            idem: "idem-1".into(),
        }
    }

    pub(crate) fn trail(&self) -> Trail {
        let dir = self.dir.path().join("journal");
        std::fs::create_dir_all(&dir).unwrap();
        let plugin = PluginPin {
            id: "example.dev/scripted".into(),
            version: "1.0.0".into(),
            digest: String::new(),
        };
        let intent = TrailLine::Intent {
            desired: desired(),
            provider: self.provider.into(),
            plugin,
            idem: "idem-1".into(),
            repo_root: "/src".into(),
            keep: false,
            at: "2026-01-01T00:00:00Z".into(),
            pid: 1,
        };
        Trail::begin(&dir, intent).unwrap()
    }

    /// Asserts that no process of the plugin is left; its private folder gives it away.
    pub(crate) async fn nobody_is_left(&self) {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let left = [self.processes(), zombies()].concat();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "still running: {left:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Processes that work in the plugin's folder; everywhere but on Linux, none can be told.
    pub(crate) fn processes(&self) -> Vec<String> {
        let folder = self.dir.path().canonicalize().unwrap();
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter(|e| {
                std::fs::read_link(e.path().join("cwd")).is_ok_and(|d| d.starts_with(&folder))
            })
            .filter_map(|e| std::fs::read_to_string(e.path().join("stat")).ok())
            .collect()
    }
}

/// Children of this test that ended and were not collected; children of its other tests may be about to be.
fn zombies() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let stats =
        entries.flatten().filter_map(|e| std::fs::read_to_string(e.path().join("stat")).ok());
    let parent = std::process::id().to_string();
    let dead = |stat: &String| {
        // After the name, which may hold anything: state, parent.
        let mut facts = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        facts.next() == Some("Z") && facts.next() == Some(&parent)
    };
    stats.filter(dead).collect()
}

fn desired() -> Desired {
    Desired {
        lease_id: LeaseId::mint([7; 6]),
        slug: "blue-prawn".into(),
        name: "crabbox-blue-prawn".into(),
    }
}

pub(crate) fn lease() -> Lease {
    serde_json::from_value(
        json!({"leaseId": desired().lease_id, "slug": "blue-prawn", "cloudId": "box-1"}),
    )
    .unwrap()
}

/// The whole error as a person sees it.
pub(crate) fn told(error: &KernelError) -> String {
    format!("{error}; {}", error.hint.as_deref().unwrap_or("no hint"))
}
