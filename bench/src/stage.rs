//! Where measurements happen: a real SSH server, a link to it, repositories, and users who know nothing yet.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use crabbox_tests::line::{Line, Shape};
use crabbox_tests::{Room, Sshd};
use tempfile::TempDir;

use crate::Result;
use crate::launch::Step;
use crate::repos::{self, Kind};

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// How the server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Straight over loopback.
    Direct,
    /// Through the link with its delay and its rate.
    Line,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Line => "line",
        }
    }
}

/// What a person chose on the command line.
pub(crate) struct Choice {
    /// Folder of the crabbox to measure.
    pub(crate) binaries: PathBuf,
    /// Folder for everything else.
    pub(crate) scratch: PathBuf,
    /// Cargo's unpacked sources.
    pub(crate) registry: Option<PathBuf>,
    pub(crate) quick: bool,
}

/// Everything a measurement stands on.
pub(crate) struct Stage {
    masters: Vec<Child>,
    pub(crate) line: Line,
    pub(crate) sshd: Sshd,
    room: Room,
    scratch: TempDir,
    choice: Choice,
    pub(crate) env: Vec<(String, OsString)>,
    repos: RefCell<BTreeMap<Kind, PathBuf>>,
    seats: Cell<usize>,
}

impl Stage {
    pub(crate) fn set(choice: Choice) -> Result<Self> {
        let scratch = tempfile::Builder::new().prefix("cbx-bench-").tempdir_in(&choice.scratch);
        let scratch = scratch.map_err(|e| format!("{}: {e}", choice.scratch.display()))?;
        let room = Room::new();
        let sshd = Sshd::start(&room);
        let line = Line::start(([127, 0, 0, 1], sshd.port).into(), Shape::default());
        let home = scratch.path().join("home");
        let env = surroundings(&home)?;
        let git =
            "[user]\n\tname = Bench\n\temail = bench@example.com\n[init]\n\tdefaultBranch = main\n";
        fs::write(home.join(".gitconfig"), git).map_err(text)?;
        let (repos, seats, masters) = (RefCell::default(), Cell::new(0), Vec::new());
        let mut stage = Self { masters, line, sshd, room, scratch, choice, env, repos, seats };
        stage.open_masters()?;
        Ok(stage)
    }

    pub(crate) fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// How often a quick thing is repeated.
    pub(crate) fn often(&self) -> usize {
        if self.choice.quick { 4 } else { 15 }
    }

    /// How often a slow thing is repeated.
    pub(crate) fn seldom(&self) -> usize {
        if self.choice.quick { 1 } else { 5 }
    }

    pub(crate) fn quick(&self) -> bool {
        self.choice.quick
    }

    /// A program of the build that is measured.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.choice.binaries.join(name)
    }

    /// Any program that is installed.
    pub(crate) fn step(&self, program: &str) -> Step {
        Step::new(program, self.path(), &self.env)
    }

    /// `ssh` to the server, over a connection of its own or over one that is open.
    pub(crate) fn ssh(&self, way: Way, warm: bool) -> Step {
        self.step("ssh").args(self.ssh_words(way, warm))
    }

    pub(crate) fn ssh_words(&self, way: Way, warm: bool) -> [String; 3] {
        let host = format!("{}{}", way.name(), if warm { "-warm" } else { "" });
        ["-F".to_owned(), self.path().join("ssh_config").display().to_string(), host]
    }

    fn open_masters(&mut self) -> Result<()> {
        let mut config = String::new();
        let (user, key, dir) = (&self.sshd.user, self.sshd.key.display(), self.path().display());
        for (way, port) in [(Way::Direct, self.sshd.port), (Way::Line, self.line.addr().port())] {
            let name = way.name();
            config += &format!(
                "Host {name}-warm\n  ControlPath {dir}/{name}.sock\nHost {name} {name}-warm\n  HostName 127.0.0.1\n  \
                 Port {port}\n  User {user}\n  IdentityFile {key}\n  IdentitiesOnly yes\n  BatchMode yes\n  LogLevel ERROR\n  \
                 StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n"
            );
        }
        fs::write(self.path().join("ssh_config"), config).map_err(text)?;
        for way in [Way::Direct, Way::Line] {
            let [option, config, host] = self.ssh_words(way, true);
            let master = self.step("ssh").args([&option, &config, "-M", "-N", &host]);
            self.masters.push(master.start()?);
            let socket = self.socket(way);
            wait("the shared ssh connection", || socket.exists())?;
        }
        Ok(())
    }

    /// Where `ssh` shares its connection.
    pub(crate) fn socket(&self, way: Way) -> PathBuf {
        self.path().join(format!("{}.sock", way.name()))
    }

    /// A repository of this kind, made when it is first asked for.
    pub(crate) fn repo(&self, kind: Kind) -> Result<PathBuf> {
        if let Some(known) = self.repos.borrow().get(&kind) {
            return Ok(known.clone());
        }
        let dir = self.path().join("repos").join(kind.name());
        repos::make(kind, &dir, self.choice.registry.as_deref(), &self.step("git"))?;
        self.repos.borrow_mut().insert(kind, dir.clone());
        Ok(dir)
    }

    /// Somebody who has never used crabbox, with a box at the end of the way and a work root there.
    pub(crate) fn seat(&self, way: Way, repo: &Path, work_root: Option<&Path>) -> Result<Seat> {
        let number = self.seats.replace(self.seats.get() + 1);
        let home = self.path().join(format!("seat{number}"));
        let env = surroundings(&home)?;
        let work_root = work_root.map_or_else(|| home.join("box"), Path::to_path_buf);
        fs::create_dir_all(&work_root).map_err(text)?;
        let port = match way {
            Way::Direct => self.sshd.port,
            Way::Line => self.line.addr().port(),
        };
        let (user, key, root) = (&self.sshd.user, self.sshd.key.display(), work_root.display());
        let config = format!(
            "provider: ssh\nstatic:\n  host: 127.0.0.1\n  user: {user}\n  port: {port}\n  workRoot: {root}\n  key: {key}\n"
        );
        let folder = home.join("config/crabbox");
        private(&folder)?;
        let file = folder.join("config.yaml");
        fs::write(&file, config).map_err(text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(text)?;
        let crabbox = self.choice.binaries.join("crabbox");
        let (repo, home, lease) = (repo.to_path_buf(), home, String::new());
        let mut seat = Seat { crabbox, home, env, repo, work_root, lease };
        let _ = seat.crabbox(&["warmup"]).run()?;
        let claims = seat.home.join("state/crabbox/claims");
        let names = fs::read_dir(&claims).map_err(text)?.flatten().map(|e| e.file_name());
        let mut names =
            names.filter_map(|name| Some(name.to_str()?.strip_suffix(".json")?.to_owned()));
        seat.lease = names.next().ok_or("warmup left no claim")?;
        Ok(seat)
    }

    /// Every process that belongs to the stage: the server, its sessions, daemons.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let marks = [self.room.path(), self.path()].map(|p| p.display().to_string().into_bytes());
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        let ours = |pid: &i32| {
            let read = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let facts = [read("cmdline"), read("environ")].concat();
            marks.iter().any(|mark| facts.windows(mark.len()).any(|w| w == mark.as_slice()))
        };
        pids.filter(ours).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for master in &mut self.masters {
            let _ = master.kill();
            let _ = master.wait();
        }
    }
}

/// A user with a box.
pub(crate) struct Seat {
    crabbox: PathBuf,
    home: PathBuf,
    env: Vec<(String, OsString)>,
    pub(crate) repo: PathBuf,
    pub(crate) work_root: PathBuf,
    lease: String,
}

impl Seat {
    pub(crate) fn crabbox(&self, args: &[&str]) -> Step {
        Step::new(&self.crabbox, &self.repo, &self.env).args(args.iter().copied())
    }

    /// A run on this user's box.
    pub(crate) fn run(&self, command: &[&str]) -> Step {
        self.run_with(&[], command)
    }

    pub(crate) fn run_with(&self, options: &[&str], command: &[&str]) -> Step {
        let fixed = ["run", "--quiet", "--id", &self.lease, "--force-sync-large"];
        self.crabbox(&[&fixed, options, &["--"], command].concat())
    }

    /// A command that runs again whenever a file is saved.
    pub(crate) fn watch(&self, command: &[&str]) -> Step {
        self.crabbox(&[&["watch", "--quiet", "--id", &self.lease, "--"], command].concat())
    }

    /// From now on this user's OpenSSH shares a connection to the box there.
    pub(crate) fn share_connection(&self, socket: &Path) -> Result<()> {
        let config = format!("ControlPath {}\n", socket.display());
        private(&self.home.join(".ssh"))?;
        fs::write(self.home.join(".ssh/config"), config).map_err(text)?;
        let seen = self.crabbox(&["inspect", &self.lease]).run()?.stdout;
        match String::from_utf8_lossy(&seen).contains("transport=openssh") {
            true => Ok(()),
            false => Err("crabbox does not use the connection that ssh shares".to_owned()),
        }
    }

    /// The tree on the box.
    pub(crate) fn tree(&self) -> PathBuf {
        self.work_root.join(&self.lease).join(self.repo.file_name().unwrap_or_default())
    }

    /// Ends what keeps connections open for this user.
    pub(crate) fn forget_connections(&self) {
        // Without a daemon there is nothing to stop, and that is fine too. The repository may be gone by now.
        let _ = Step::new(&self.crabbox, &self.home, &self.env).args(["daemon", "stop"]).run();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = Step::new(&self.crabbox, &self.home, &self.env).args(["stop", &self.lease]).run();
        self.forget_connections();
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// A home that nobody has used, and the environment of somebody who lives there.
fn surroundings(home: &Path) -> Result<Vec<(String, OsString)>> {
    let mut env: Vec<(String, OsString)> = [("PATH", PATH), ("LANG", "C.UTF-8"), ("USER", "bench")]
        .map(|(k, v)| (k.to_owned(), v.into()))
        .into();
    let folders = [
        ("HOME", ""),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_STATE_HOME", "state"),
        ("XDG_CACHE_HOME", "cache"),
        ("XDG_DATA_HOME", "data"),
        ("XDG_RUNTIME_DIR", "run"),
        ("TMPDIR", "tmp"),
    ];
    for (name, folder) in folders {
        private(&home.join(folder))?;
        env.push((name.to_owned(), home.join(folder).into()));
    }
    Ok(env)
}

fn private(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(text)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(text)
}

/// Asks until the answer is yes, for at most ten seconds.
pub(crate) fn wait(what: &str, mut yes: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !yes() {
        if begun.elapsed() > Duration::from_secs(10) {
            return Err(format!("not within ten seconds: {what}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn text(e: std::io::Error) -> String {
    e.to_string()
}
