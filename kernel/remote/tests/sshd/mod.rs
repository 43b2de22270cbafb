//! A real OpenSSH server on loopback for one test: own folder, own keys, nothing left behind.

#![allow(dead_code, reason = "each test file uses its own part of the fixture")]
#![allow(clippy::unwrap_used, reason = "a fixture that cannot be made fails the test")]

use std::cell::RefCell;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crabbox_kernel::ports::Address;
use crabbox_schemas::lease::{SshAuth, SshEndpoint};

/// A running server; dropping it ends it and every session it has.
pub(crate) struct Sshd {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    process: Option<Child>,
    seen: RefCell<Vec<u32>>,
}

impl Sshd {
    /// Starts a server that knows one key, `id`, made for it.
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// Starts a server with more lines in its configuration.
    pub(crate) fn with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self { port: free_port(), dir, process: None, seen: RefCell::default() };
        server.keygen("host_ed25519", "ed25519", "");
        server.keygen("host_ecdsa", "ecdsa", "");
        server.keygen("id", "ed25519", "");
        server.allow(&["id"]);
        server.configure(more);
        server.launch();
        server
    }

    fn configure(&self, more: &str) {
        let (port, dir) = (self.port, self.dir.path().display());
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host_ed25519\nHostKey {dir}/host_ecdsa\n\
             AuthorizedKeysFile {dir}/authorized_keys\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             {more}\nMaxSessions 64\nMaxAuthTries 20\nAllowTcpForwarding yes\n"
        );
        fs::write(self.path("sshd_config"), config).unwrap();
    }

    /// Starts the server process and waits until it listens.
    pub(crate) fn launch(&mut self) {
        let _ = fs::create_dir_all("/run/sshd");
        let log = fs::File::create(self.path("sshd.log")).unwrap();
        let child = command("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(self.path("sshd_config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("openssh-server must be installed");
        self.process = Some(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "sshd does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("sshd.log")).unwrap_or_default()
    }

    /// A file in the server's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a key pair; replaces an older one.
    pub(crate) fn keygen(&self, name: &str, kind: &str, passphrase: &str) {
        let path = self.path(name);
        let _ = fs::remove_file(&path);
        let done = command("ssh-keygen")
            .args(["-q", "-t", kind, "-N", passphrase, "-f"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(done.success());
    }

    /// Lets exactly these keys in.
    pub(crate) fn allow(&self, names: &[&str]) {
        let lines: String = names.iter().map(|name| self.public(name)).collect();
        fs::write(self.path("authorized_keys"), lines).unwrap();
    }

    /// The public half of a key, one line.
    pub(crate) fn public(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap()
    }

    /// How to reach it with `id` as the lease's key.
    pub(crate) fn address(&self) -> Address {
        Address {
            endpoint: SshEndpoint {
                user: user(),
                host: "127.0.0.1".into(),
                port: self.port,
                auth: SshAuth::KernelKey,
                ..SshEndpoint::default()
            },
            key: self.path("id"),
            known_hosts: self.path("pins/known_hosts"),
            patience: Duration::ZERO,
        }
    }

    /// The processes serving connections, children of the listener. What runs below them now is
    /// ended with the server, even if it has lost its parent by then.
    pub(crate) fn sessions(&self) -> Vec<u32> {
        let Some(process) = &self.process else { return Vec::new() };
        self.seen.borrow_mut().extend(descendants(process.id()));
        children(process.id())
    }

    /// Ends the listener and everything below it.
    pub(crate) fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let mut all = descendants(process.id());
            all.extend(self.seen.take().into_iter().filter(|pid| parent(*pid) == Some(1)));
            let _ = process.kill();
            let _ = process.wait();
            all.into_iter().for_each(kill);
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The name this test runs as.
pub(crate) fn user() -> String {
    let said = command("id").arg("-un").output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

/// Ends one process.
pub(crate) fn kill(pid: u32) {
    signal(pid, "-9");
}

/// Signals one process.
pub(crate) fn signal(pid: u32, signal: &str) {
    let _ = command("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Writes a private file and the folders above it.
pub(crate) fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Starts no process yet; the one place where tests of this crate make one.
#[expect(clippy::disallowed_methods, reason = "the fixture is made of real programs")]
pub(crate) fn command(program: &str) -> Command {
    Command::new(program)
}

fn children(of: u32) -> Vec<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent(*pid) == Some(of))
        .collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn descendants(of: u32) -> Vec<u32> {
    let mut all = children(of);
    let mut at = 0;
    while at < all.len() {
        all.extend(children(all[at]));
        at += 1;
    }
    all
}
