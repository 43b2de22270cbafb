//! A real OpenSSH server on a loopback port, with keys of its own, for one test.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Call, Room, Running};

/// Where systems keep the server.
const PLACES: &[&str] = &["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"];

const LOOPBACK: &str = "127.0.0.1";

/// A running server, its sessions, and the key that opens it.
pub struct Sshd {
    server: Running,
    dir: PathBuf,
    /// The address it listens on.
    pub host: String,
    /// The account it lets in.
    pub user: String,
    /// Where it listens on that address.
    pub port: u16,
    /// Private key it accepts.
    pub key: PathBuf,
    /// Folder on the "box" for crabbox's work.
    pub work_root: PathBuf,
}

impl Sshd {
    /// Starts one in the room, with the account that runs the tests as its only user.
    pub fn start(room: &Room) -> Self {
        Self::with(room, "sshd", "")
    }

    /// Starts one with its own folder name and extra lines of `sshd_config`.
    pub fn with(room: &Room, name: &str, extra: &str) -> Self {
        let dir = Self::furnish(room, name);
        let tries = (0..5).find_map(|_| Self::listen(room, &dir, free_port(), extra).ok());
        tries.unwrap_or_else(|| {
            panic!("{}", Self::listen(room, &dir, free_port(), extra).err().unwrap_or_default())
        })
    }

    /// Starts one on the far machine of a network.
    #[cfg(target_os = "linux")]
    pub fn far(room: &Room, net: &crate::netns::Net) -> Self {
        let dir = Self::furnish(room, "sshd");
        let (host, port) = (crate::netns::Net::FAR, 2222);
        let mut server = net.far(server(room, &dir, host, port, "")).start();
        crate::eventually("a server that listens, or ends", Duration::from_secs(10), || {
            server.stderr().contains("Server listening") || server.ended()
        });
        assert!(!server.ended(), "sshd did not start:\n{}", server.stderr());
        Self::of(room, server, &dir, host, port)
    }

    /// Starts one whose work root is a disk of so many megabytes, which nobody else sees; [`Sshd::inside`] tells
    /// where the test finds it.
    #[cfg(target_os = "linux")]
    pub fn with_small_disk(room: &Room, megabytes: u32) -> Self {
        let dir = Self::furnish(room, "sshd");
        let port = free_port();
        let mount = format!(
            "mount -t tmpfs -o size={megabytes}m,mode=700 tmpfs '{}' && exec \"$@\"",
            dir.join("work").display()
        );
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        let call = server(room, &dir, LOOPBACK, port, "");
        let call = match user.is_root() {
            true => call.through("sh", ["-c", &mount, "sh"]).through("unshare", ["--mount"]),
            false => call
                .through(
                    "unshare",
                    [
                        "--user".to_owned(),
                        format!("--map-user={}", user.as_raw()),
                        format!("--map-group={}", group.as_raw()),
                    ],
                )
                .through("sh", ["-c", &mount, "sh"])
                .through("unshare", ["--user", "--map-root-user", "--mount"]),
        };
        let mut server = call.start();
        assert!(answers(port, &mut server), "no server with a small disk:\n{}", server.stderr());
        Self::of(room, server, &dir, LOOPBACK, port)
    }

    /// A path as the server and its sessions see it.
    #[cfg(target_os = "linux")]
    pub fn inside(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.server.pid().as_raw_nonzero());
        Path::new(&root).join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Its folders and keys.
    fn furnish(room: &Room, name: &str) -> PathBuf {
        let dir = room.at(name);
        for folder in ["", "home", "work"] {
            fs::create_dir_all(dir.join(folder)).expect("a folder for the server");
        }
        for key in ["host", "id_ed25519"] {
            keygen(room, &dir.join(key));
        }
        fs::copy(dir.join("id_ed25519.pub"), dir.join("authorized_keys"))
            .expect("an authorized key");
        dir
    }

    /// The server on a loopback port, or what it said instead of listening.
    fn listen(room: &Room, dir: &Path, port: u16, extra: &str) -> Result<Self, String> {
        let mut server = server(room, dir, LOOPBACK, port, extra).start();
        match answers(port, &mut server) {
            true => Ok(Self::of(room, server, dir, LOOPBACK, port)),
            false => Err(format!("sshd did not start:\n{}", server.stderr())),
        }
    }

    fn of(room: &Room, server: Running, dir: &Path, host: &str, port: u16) -> Self {
        let user = room.call("id").arg("-un").ok().out().trim().to_owned();
        let (key, work_root) = (dir.join("id_ed25519"), dir.join("work"));
        Self { server, dir: dir.to_path_buf(), host: host.to_owned(), user, port, key, work_root }
    }

    /// Configuration of crabbox for this box.
    pub fn config(&self) -> String {
        self.config_through(&self.host, self.port)
    }

    /// Configuration of crabbox for this box when the way to it begins elsewhere.
    pub fn config_through(&self, host: &str, port: u16) -> String {
        let user = &self.user;
        let (key, root) = (self.key.display(), self.work_root.display());
        format!(
            "provider: ssh\nstatic:\n  host: {host}\n  user: {user}\n  port: {port}\n  workRoot: {root}\n  \
             key: {key}\n"
        )
    }

    /// Gives the server a new identity, as an impostor on the same port would have.
    pub fn change_host_key(self, room: &Room) -> Self {
        let (dir, port) = (self.dir.clone(), self.port);
        drop(self);
        for file in ["host", "host.pub"] {
            fs::remove_file(dir.join(file)).expect("the old host key");
        }
        keygen(room, &dir.join("host"));
        Self::listen(room, &dir, port, "").unwrap_or_else(|said| panic!("{said}"))
    }

    /// Kills every session, as a box that vanishes would.
    pub fn cut(&self) {
        for pid in descendants(self.server.pid()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Kills the server's own processes of every connection and nothing they started, as a network that resets
    /// connections looks to both sides.
    pub fn reset(&self) {
        let named = |pid: &Pid| {
            let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
            name.is_ok_and(|name| name.starts_with("sshd"))
        };
        for pid in descendants(self.server.pid()).into_iter().filter(named) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        self.server.stderr()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.cut();
    }
}

/// The call that runs a server.
fn server(room: &Room, dir: &Path, host: &str, port: u16, extra: &str) -> Call {
    let program = PLACES.iter().map(Path::new).find(|p| p.is_file());
    let program = program.expect("sshd is missing: sudo apt-get install openssh-server");
    // Root's server insists on its privilege-separation folder.
    let _ = fs::create_dir_all("/run/sshd");
    let config = dir.join("sshd_config");
    fs::write(&config, settings(dir, host, port, extra)).expect("a server configuration");
    room.call(program).args(["-D", "-e", "-f"]).arg(&config).limit(Duration::from_secs(600))
}

fn settings(dir: &Path, host: &str, port: u16, extra: &str) -> String {
    let dir = dir.display();
    format!(
        "{extra}Port {port}\nListenAddress {host}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized_keys\n\
         PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nPrintMotd no\nLogLevel VERBOSE\nMaxStartups 100\nMaxSessions 100\n\
         SetEnv HOME={dir}/home CRABBOX_TEST_BOX=1\n"
    )
}

fn keygen(room: &Room, path: &Path) {
    let _ = room
        .call("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(path)
        .ok();
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Whether the server says hello on its port before it ends or ten seconds pass.
fn answers(port: u16, server: &mut Running) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end && !server.ended() {
        if let Ok(mut link) = TcpStream::connect(("127.0.0.1", port)) {
            let _ = link.set_read_timeout(Some(Duration::from_secs(2)));
            let mut hello = [0; 4];
            if link.read_exact(&mut hello).is_ok() && &hello == b"SSH-" {
                return true;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Every process below another, deepest last.
fn descendants(root: Pid) -> Vec<Pid> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let parents: Vec<(i32, i32)> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![root.as_raw_nonzero().get()];
    let mut next = 0;
    while next < found.len() {
        let above = found[next];
        found.extend(parents.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid));
        next += 1;
    }
    found.into_iter().skip(1).filter_map(Pid::from_raw).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so fields are counted from its end.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
