//! A sealed room: its own home, state and environment, and nothing left behind when it closes.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Call, binary};

/// The search path of everything in the room.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// A place where crabbox knows nobody.
pub struct Room {
    dir: TempDir,
    plugins: RefCell<Vec<PathBuf>>,
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}

impl Room {
    /// Opens a room.
    pub fn new() -> Self {
        // Those that most rooms use; without another one crabbox itself says that it was not built.
        for provider in ["crabbox-provider-local", "crabbox-provider-ssh"] {
            binary(provider);
        }
        let dir = tempfile::Builder::new().prefix("cbx-room-").tempdir().expect("a scratch folder");
        for name in ["home", "config", "state", "cache", "data", "run", "tmp"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).expect("a folder in the room");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
                .expect("a private folder");
        }
        let git =
            "[user]\n\tname = Test\n\temail = test@example.com\n[init]\n\tdefaultBranch = main\n";
        fs::write(dir.path().join("home/.gitconfig"), git).expect("a git identity");
        Self { dir, plugins: RefCell::default() }
    }

    /// The room's folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file or folder in the room.
    pub fn at(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }

    /// Where crabbox keeps its state here.
    pub fn state(&self) -> PathBuf {
        self.at("state/crabbox")
    }

    /// Writes the user's configuration file.
    pub fn configure(&self, yaml: &str) {
        let dir = self.at("config/crabbox");
        fs::create_dir_all(&dir).expect("a config folder");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("a private folder");
        let file = dir.join("config.yaml");
        fs::write(&file, yaml).expect("a config file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a private file");
    }

    /// Makes the plugins of one more folder known to crabbox.
    pub fn plugins(&self, dir: &Path) {
        self.plugins.borrow_mut().push(dir.to_path_buf());
    }

    /// Any program, in this room.
    pub fn call(&self, program: impl Into<PathBuf>) -> Call {
        let rooms = [
            ("HOME", "home"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_STATE_HOME", "state"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_DATA_HOME", "data"),
            ("XDG_RUNTIME_DIR", "run"),
            ("TMPDIR", "tmp"),
        ];
        let call = Call::new(program, self.path())
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .env("CRABBOX_DAEMON", "0")
            .env("USER", "tester");
        rooms.iter().fold(call, |call, (name, path)| call.env(name, self.at(path)))
    }

    /// `crabbox` with arguments, in a folder.
    pub fn crabbox<S: Into<std::ffi::OsString>>(
        &self,
        dir: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Call {
        let call = self.call(binary("crabbox-under-test")).dir(dir).args(args);
        let plugins = self.plugins.borrow();
        if plugins.is_empty() {
            return call;
        }
        call.env(
            "CRABBOX_PLUGIN_DIR",
            std::env::join_paths(plugins.iter()).expect("no colon in a plugin folder"),
        )
    }

    /// `git` with arguments, in a folder; must succeed.
    pub fn git<S: Into<std::ffi::OsString>>(
        &self,
        dir: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> String {
        self.call("git").dir(dir).args(args).ok().out()
    }

    /// A git repository with one committed file, `hello.txt`.
    pub fn repo(&self, name: &str) -> PathBuf {
        let dir = self.at(name);
        fs::create_dir_all(&dir).expect("a repository folder");
        self.git(&dir, ["init", "-q"]);
        fs::write(dir.join("hello.txt"), "hello\n").expect("a file");
        self.commit(&dir);
        dir
    }

    /// Commits everything in a repository.
    pub fn commit(&self, dir: &Path) {
        self.git(dir, ["add", "-A"]);
        self.git(dir, ["commit", "-q", "--allow-empty", "-m", "Commit"]);
    }

    /// Names of the files in a folder of crabbox's state. Half-written ones, which nobody reads and a later
    /// `cleanup` sweeps, do not count.
    pub fn state_files(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.state().join(folder)).into_iter().flatten().flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.starts_with(".tmp-")).collect()
    }

    /// Processes that belong to this room: each mentions its unique folder in command line, working
    /// directory or environment.
    pub fn processes(&self) -> Vec<(Pid, String)> {
        let mine = self.path().to_string_lossy().into_owned();
        let this = rustix::process::getpid();
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all
            .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
            .filter_map(Pid::from_raw);
        pids.filter(|pid| *pid != this)
            .filter_map(|pid| {
                let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
                let line = fs::read(proc.join("cmdline")).unwrap_or_default();
                let environ = fs::read(proc.join("environ")).unwrap_or_default();
                let cwd = fs::read_link(proc.join("cwd")).unwrap_or_default();
                let facts =
                    [line.clone(), environ, cwd.to_string_lossy().into_owned().into_bytes()]
                        .concat();
                let found = facts.windows(mine.len()).any(|w| w == mine.as_bytes());
                found.then(|| (pid, String::from_utf8_lossy(&line).replace('\0', " ")))
            })
            .collect()
    }

    /// Fails unless every process of the room ends in time.
    pub fn assert_no_process_within(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.processes().is_empty() {
            assert!(Instant::now() < end, "after {limit:?} there are still {:?}", self.processes());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Fails unless no claim is left.
    pub fn assert_no_claims(&self) {
        assert_eq!(self.state_files("claims"), Vec::<String>::new(), "claims are left");
    }

    /// Fails unless no box, claim, open intent or process is left.
    pub fn assert_nothing_left(&self) {
        self.assert_no_claims();
        assert_eq!(self.state_files("journal"), Vec::<String>::new(), "open trails are left");
        self.assert_no_process_within(Duration::from_secs(5));
    }

    /// Gives back every box this room still claims.
    fn stop_all(&self) {
        for claim in self.state_files("claims") {
            if let Some(id) = claim.strip_suffix(".json") {
                let _ =
                    self.crabbox(self.path(), ["stop", id]).limit(Duration::from_secs(30)).run();
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let unwinding = std::thread::panicking();
        if !unwinding {
            self.stop_all();
        }
        let end = Instant::now() + Duration::from_secs(if unwinding { 0 } else { 5 });
        while !self.processes().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let left = self.processes();
        for (pid, _) in &left {
            let _ = kill_process(*pid, Signal::KILL);
        }
        assert!(unwinding || left.is_empty(), "the room was left with processes in it: {left:?}");
    }
}
