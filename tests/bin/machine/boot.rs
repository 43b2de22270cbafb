//! A machine of a cloud for tests: what its user data says becomes files, keys and a real SSH server on an address of its own.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The variable that marks every process of a machine.
const MARK: &str = "CRABBOX_TEST_MACHINE";
/// Folders of a machine that are looked for below its own.
const MAPPED: &[&str] = &[
    "/etc/systemd/system",
    "/run/crabbox",
    "/usr/local/lib/crabbox",
    "/var/cache/crabbox",
    "/var/lib/crabbox",
];
/// How long its processes may take to end.
const END: Duration = Duration::from_secs(5);

pub(crate) struct Machine {
    folder: PathBuf,
    sshd: Child,
}

impl Machine {
    /// Does what cloud-init would; nothing without user data that can be read.
    pub(crate) fn boot(
        folder: &Path,
        user_data: &str,
        address: &str,
        impostor: bool,
    ) -> Option<Self> {
        let config: Value =
            serde_json::from_str(user_data.strip_prefix("#cloud-config\n")?).ok()?;
        put(&folder.join("user-data"), user_data, 0o600);
        let root = folder.join("root");
        let mut ports = String::new();
        for file in config["write_files"].as_array()? {
            let (path, content) = (file["path"].as_str()?, file["content"].as_str()?);
            if path.contains("sshd_config.d") {
                ports = content
                    .lines()
                    .filter(|line| line.starts_with("Port "))
                    .map(|line| format!("{line}\n"))
                    .collect();
            }
            let content = MAPPED.iter().fold(content.to_owned(), |text, folder| {
                text.replace(folder, &format!("{}{folder}", root.display()))
            });
            let mode = u32::from_str_radix(file["permissions"].as_str()?, 8).ok()?;
            put(&root.join(path.trim_start_matches('/')), &content, mode);
        }
        let user = &config["users"][0];
        put(&folder.join("authorized_keys"), user["ssh_authorized_keys"][0].as_str()?, 0o600);
        put(&folder.join("host"), config["ssh_keys"]["ed25519_private"].as_str()?, 0o600);
        if impostor {
            fs::remove_file(folder.join("host")).ok()?;
            let words = ["-q", "-t", "ed25519", "-N", "", "-f"];
            let file = folder.join("host");
            program("/usr/bin/ssh-keygen", folder).args(words).arg(file).status().ok()?;
        }
        fs::create_dir_all(folder.join("home")).ok()?;
        stubs(folder, &root, address);
        let me = folder.display();
        let path =
            format!("{0}/usr/local/bin:{0}/usr/bin:/usr/local/bin:/usr/bin:/bin", root.display());
        let settings = format!(
            "{ports}ListenAddress {address}\nListenAddress {}\nHostKey {me}/host\nAuthorizedKeysFile {me}/authorized_keys\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPrintMotd no\nMaxStartups 100\nMaxSessions 100\n\
             SetEnv HOME={me}/home PATH={path} {MARK}={me}\n",
            inside(address)
        );
        put(&folder.join("sshd_config"), &settings, 0o600);
        let _ = fs::create_dir_all("/run/sshd");
        let log = fs::File::create(folder.join("sshd.log")).ok()?;
        let sshd = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"]
            .iter()
            .find(|path| Path::new(path).is_file())?;
        let sshd = program(sshd, folder)
            .args(["-D", "-e", "-f"])
            .arg(folder.join("sshd_config"))
            .stderr(log)
            .spawn()
            .ok()?;
        let machine = Self { folder: folder.to_owned(), sshd };
        for words in config["runcmd"].as_array()? {
            let mut words = words.as_array()?.iter().filter_map(Value::as_str);
            let first = root.join(words.next()?.trim_start_matches('/'));
            let stubs = format!("{}/stubs:{path}", folder.display());
            let _ = program(first, folder).args(words).env("PATH", stubs).status();
        }
        Some(machine)
    }

    /// Setting it up failed.
    pub(crate) fn break_it(&self) {
        put(&self.folder.join("root/var/lib/crabbox/failed"), "cannot install jq\n", 0o644);
    }
}

#[expect(clippy::disallowed_methods, reason = "it is processes")]
fn program(path: impl AsRef<std::ffi::OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .env_clear()
        .env(MARK, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn put(path: &Path, content: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Where a machine is in its tailnet: another address of loopback, which no cloud gives away.
fn inside(address: &str) -> String {
    let mut bytes = address.parse::<Ipv4Addr>().unwrap().octets();
    bytes[1] = bytes[1].wrapping_add(128);
    Ipv4Addr::from(bytes).to_string()
}

/// What a test must not do to the machine it runs on.
fn stubs(folder: &Path, root: &Path, address: &str) {
    let tools = root.join("usr/bin");
    fs::create_dir_all(&tools).unwrap();
    let install = format!(
        "#!/bin/sh\nfor word; do case $word in git|rsync|curl|jq) printf '#!/bin/sh\\n' >{0}/$word; chmod +x {0}/$word;; esac; done\n",
        tools.display()
    );
    put(&folder.join("stubs/apt-get"), &install, 0o755);
    fs::create_dir_all(root.join("run")).unwrap();
    let tailscale = format!(
        "#!/bin/sh\necho \"$*\" >>{0}/tailscale\ncase $1 in\n\
         up) cp \"${{2#--auth-key=file:}}\" {0}/tailscale.key;;\nip) echo {1};;\nesac\n",
        folder.display(),
        inside(address)
    );
    put(&tools.join("tailscale"), &tailscale, 0o755);
    put(&tools.join("sudo"), "#!/bin/sh\nshift\nexec \"$@\"\n", 0o755);
    put(&folder.join("stubs/systemctl"), "#!/bin/sh\n[ \"$1\" != is-active ]\n", 0o755);
}

impl Drop for Machine {
    /// Ends everything that runs on it, as cutting the power would.
    fn drop(&mut self) {
        let mark = format!("{MARK}={}\0", self.folder.display());
        let end = Instant::now() + END;
        loop {
            let _ = self.sshd.kill();
            let _ = self.sshd.try_wait();
            let left = marked(mark.as_bytes());
            if left.is_empty() || Instant::now() > end {
                break;
            }
            let pids = left.iter().map(u32::to_string);
            let _ = program("/bin/kill", Path::new("/")).arg("-9").args(pids).status();
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn marked(mark: &[u8]) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.windows(mark.len()).any(|part| part == mark)
    })
    .collect()
}
