//! Contents that the box fetches from the origin while they are sent, with a real helper and a real git server: the tree is
//! exact, whatever the origin does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod pipe;
#[expect(dead_code, reason = "each test program uses its part of the trees")]
mod trees;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crabbox_kernel::event::Event;
use crabbox_kernel::helper::{Binaries, Helper, Opened, open};
use crabbox_kernel::ports::Stop;
use crabbox_kernel::state::State;
use crabbox_kernel::sync::flight::{Flight, Place, fly};
use crabbox_kernel::sync::{ScanOptions, SyncRules, scan};
use crabbox_schemas::helper::LockAsk;
use crabbox_schemas::ids::LeaseId;

use pipe::{PipeBox, Time};
use trees::{look_at, noise, put};

const LONG: Duration = Duration::from_secs(60);
/// Files of a repository that is still under way when the box has fetched it, of one that is sent at once, and how large
/// they are.
const MANY: u32 = 80;
const FEW: u32 = 8;
const FILE: usize = 300_000;
const LARGE: usize = 4 << 20;

#[expect(clippy::disallowed_methods, reason = "the origin of these tests is a real git")]
fn git(dir: &Path, words: &[&str]) -> String {
    let who = ["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "core.autocrlf=false"];
    let ended = Command::new("git").arg("-C").arg(dir).args(who).args(words).output().unwrap();
    assert!(ended.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap().trim().to_owned()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A public git server with one repository, `app`.
struct Origin {
    dir: tempfile::TempDir,
    port: u16,
    daemon: Child,
}

impl Origin {
    fn start() -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        git(dir.path(), &["init", "-q", "--bare", "-b", "main", "app"]);
        let daemon = Path::new(&git(dir.path(), &["--exec-path"])).join("git-daemon");
        #[expect(clippy::disallowed_methods, reason = "the origin of these tests is a real git")]
        let daemon = Command::new(daemon)
            .args(["--listen=127.0.0.1", &format!("--port={port}"), "--export-all"])
            .arg(format!("--base-path={}", dir.path().display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < LONG, "git daemon does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { dir, port, daemon }
    }

    fn url(&self) -> String {
        format!("git://127.0.0.1:{}/app", self.port)
    }

    fn bare(&self) -> PathBuf {
        self.dir.path().join("app")
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A clone here, and a new box.
struct Rig {
    to: PipeBox,
    local: tempfile::TempDir,
    rules: SyncRules,
    all: usize,
}

impl Rig {
    /// A clone of so many files, whose commit the origin has.
    fn cloned(origin: &Origin, files: u32) -> Self {
        let (to, local) = (PipeBox::new(), tempfile::tempdir().unwrap());
        for n in 0..files {
            put(&local.path().join(format!("d{}/f{n}", n % 7)), noise(n, FILE));
        }
        put(&local.path().join("large"), noise(9999, LARGE));
        git(local.path(), &["init", "-q", "-b", "main"]);
        git(local.path(), &["add", "-A"]);
        git(local.path(), &["commit", "-qm", "all"]);
        let bare = origin.bare();
        git(local.path(), &["remote", "add", "origin", bare.to_str().unwrap()]);
        git(local.path(), &["push", "-q", "-u", "origin", "main"]);
        git(local.path(), &["config", "remote.origin.url", &origin.url()]);
        let rules = SyncRules { seed_above: Some(1 << 20), ..SyncRules::default() };
        Self { to, local, rules, all: files as usize * FILE + LARGE }
    }

    fn place(&self) -> Place {
        Place {
            lease: LeaseId::mint([1; 6]),
            base_dir: format!("{}/cbx_010101010101", self.to.work_root()),
            repo: "repo".to_owned(),
        }
    }

    async fn helper(&self) -> Helper {
        let me = std::env::current_exe().unwrap();
        let dir = me.parent().and_then(Path::parent).unwrap().to_owned();
        let root = self.to.work_root();
        match open(&self.to, &Binaries::in_dir(dir), &root, &Time, &mut Vec::new()).await.unwrap() {
            Opened::Helper(helper) => helper,
            Opened::Shell { why } => panic!("{why}: run ./build-helper.sh debug"),
        }
    }

    /// Syncs; the tree is exact afterwards. What was said of the seed, and how many bytes were sent.
    async fn sync(&self) -> (String, usize) {
        let (mut helper, place) = (self.helper().await, self.place());
        let state = State { root: self.to.at("state"), config: self.to.at("config") };
        let tree = scan(self.local.path(), &self.rules, &ScanOptions::default()).unwrap().0;
        let flight = Flight {
            place: &place,
            tree: Some((&tree, &self.rules)),
            lock: LockAsk { owner: "a test".to_owned(), wait_ms: 0 },
            isolate: false,
            checkout: None,
            launch: None,
        };
        let (before, mut events) = (self.to.wire.written.get(), Vec::new());
        fly(&mut helper, &flight, &state, &mut events, &Stop::never(), &Time).await.unwrap();
        self.is_tidy();
        let there = Path::new(&place.base_dir).join("repo");
        let mut here = look_at(self.local.path());
        here.retain(|path, _| !path.starts_with(".git"));
        assert!(look_at(&there) == here, "the box holds the tree");
        let said = events.into_iter().filter_map(|event| match event {
            Event::Debug { message } => message.strip_prefix("git seed: ").map(str::to_owned),
            _ => None,
        });
        (said.collect(), self.to.wire.written.get() - before)
    }

    /// Nothing of a seed is left on the box soon after.
    fn is_tidy(&self) {
        let seeds = Path::new(&self.place().base_dir).join(".crabbox/seed");
        let begun = Instant::now();
        while std::fs::read_dir(&seeds).is_ok_and(|mut all| all.next().is_some()) {
            assert!(begun.elapsed() < LONG, "the seed's folder is left");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[tokio::test]
async fn what_the_origin_has_need_not_be_sent() {
    let origin = Origin::start();
    let rig = Rig::cloned(&origin, MANY);
    rig.to.wire.hold.set(Some((8 << 20, "flight.seeded")));
    put(&rig.local.path().join("d1/f1"), noise(777, FILE));
    put(&rig.local.path().join("untracked"), "mine\n");
    let (said, sent) = rig.sync().await;
    assert!(sent < rig.all * 9 / 10, "{sent} of {} bytes were sent ({said})", rig.all);
}

#[tokio::test]
async fn contents_that_are_not_the_same_are_sent_as_always() {
    let origin = Origin::start();
    let rig = Rig::cloned(&origin, FEW);
    rig.to.wire.hold.set(Some((4 << 20, "flight.seeded")));
    for n in 0..FEW {
        put(&rig.local.path().join(format!("d{}/f{n}", n % 7)), noise(n + 10_000, FILE));
    }
    put(&rig.local.path().join("large"), noise(5555, LARGE));
    let (said, sent) = rig.sync().await;
    assert!(sent > rig.all, "{sent} of {} bytes were sent", rig.all);
    assert_eq!(said, "nothing that is missing came from the origin");
}

#[tokio::test]
async fn an_origin_that_is_mute_or_gone_holds_nothing_up() {
    for gone in [false, true] {
        let origin = Origin::start();
        let rig = Rig::cloned(&origin, FEW);
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/app", mute.local_addr().unwrap());
        git(rig.local.path(), &["config", "remote.origin.url", &url]);
        let _mute = (!gone).then_some(mute);
        let begun = Instant::now();
        let (_, sent) = rig.sync().await;
        assert!(sent > rig.all && begun.elapsed() < LONG / 2, "{sent} in {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_box_without_git_is_sent_everything() {
    let origin = Origin::start();
    let mut rig = Rig::cloned(&origin, FEW);
    // Everything a helper needs, and no git.
    for name in [
        "sh", "id", "uname", "mkdir", "rm", "chmod", "head", "wc", "mv", "ls", "tail", "env", "cat",
    ] {
        rig.to.fake(name, &format!("exec /bin/{name} \"$@\""));
    }
    let only = rig.to.at("bin");
    rig.to.set("PATH", only.as_os_str());
    rig.to.shell = vec!["/bin/sh".into()];
    rig.to.wire.hold.set(Some((4 << 20, "flight.seeded")));
    let (said, sent) = rig.sync().await;
    assert!(sent > rig.all, "{sent} of {} bytes were sent", rig.all);
    assert_eq!(said, "nothing more comes from the origin: there is no git on the box");
}

#[tokio::test]
async fn nothing_is_fetched_for_who_does_not_want_it_or_has_no_public_origin() {
    for unwanted in [true, false] {
        let origin = Origin::start();
        let mut rig = Rig::cloned(&origin, FEW);
        match unwanted {
            true => rig.rules.seed_above = None,
            false => {
                let url = origin.url().replace("git://", "git://me@");
                git(rig.local.path(), &["config", "remote.origin.url", &url]);
            }
        }
        let (said, sent) = rig.sync().await;
        assert!(sent > rig.all && said.is_empty(), "{sent} bytes were sent, {said}");
        assert!(!Path::new(&rig.place().base_dir).join(".crabbox/seed").exists());
    }
}
