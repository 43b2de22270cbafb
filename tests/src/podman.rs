//! A real Podman with a store of its own in a room, and images made from files of this machine: no registry is asked.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Call, Room};

/// Where systems keep what the images are made of.
const BUSYBOX: &[&str] = &["/bin/busybox", "/usr/bin/busybox"];
const RUNC: &[&str] = &["/usr/sbin/runc", "/usr/bin/runc"];

/// A Podman, and the room its store is in.
pub struct Podman<'a> {
    room: &'a Room,
    dir: PathBuf,
}

impl<'a> Podman<'a> {
    /// The tiny image: one static busybox, no accounts, no server.
    pub const TINY: &'static str = "localhost/crabbox-tiny:1";
    /// An image of another make: bash, shared libraries, an account of its own and a variable.
    pub const ROOMY: &'static str = "localhost/crabbox-roomy:1";

    /// Makes a store with both images. Where containers cannot run, or with `CRABBOX_TEST_PODMAN=0`, there is nothing
    /// instead, and the test says that it proved nothing.
    pub fn start(room: &'a Room) -> Option<Self> {
        if crate::gone_without("CRABBOX_TEST_PODMAN", "podman") {
            return None;
        }
        let dir = room.at("podman");
        fs::create_dir(&dir).expect("a folder for podman");
        let podman = Self { room, dir };
        podman.configure();
        let version = podman.call(["version"]).run();
        assert_eq!(
            version.code, 0,
            "podman is missing or broken: apt-get install podman runc netavark busybox-static, or set CRABBOX_TEST_PODMAN=0\n{version}"
        );
        podman.import(Self::TINY, &podman.tiny(), &[]);
        podman.import(Self::ROOMY, &podman.roomy(), &["USER dev", "ENV FLAVOUR=plum"]);
        let tried = podman.call(["run", "--rm", "--network", "host", Self::TINY, "true"]).run();
        if tried.code != 0 {
            crate::unproven("boxes in containers: podman runs none here");
            return None;
        }
        Some(podman)
    }

    /// `podman` with arguments.
    pub fn call<S: Into<std::ffi::OsString>>(&self, args: impl IntoIterator<Item = S>) -> Call {
        self.surround(self.room.call("podman").args(args))
    }

    /// `crabbox` with this Podman as its runtime and one of the images.
    pub fn crabbox(&self, dir: &Path, command: &str, image: &str, more: &[&str]) -> Call {
        let mut args = vec![command, "--provider", "container", "--container-runtime", "podman"];
        args.extend(["--container-image", image]);
        args.extend(more);
        self.surround(self.room.crabbox(dir, args))
    }

    /// The same call, with this Podman's store.
    pub fn surround(&self, call: Call) -> Call {
        call.env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.dir.join("storage.conf"))
    }

    /// Names of the containers there are, whatever their state.
    pub fn containers(&self) -> Vec<String> {
        let listed = self.call(["ps", "--all", "--format", "{{.Names}}"]).ok().out();
        listed.lines().map(str::to_owned).collect()
    }

    fn configure(&self) {
        let dir = self.dir.display();
        let runc = RUNC.iter().find(|path| Path::new(path).exists());
        let runtime = runc.map_or(String::new(), |_| "runtime = \"runc\"\n".to_owned());
        // Limits that are never above those of whoever runs the tests, and nothing that needs systemd.
        let engine = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\nlog_driver = \"k8s-file\"\n\
             [engine]\n{runtime}cgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\n\
             tmp_dir = \"{dir}/tmp\"\nvolume_path = \"{dir}/volumes\"\n\
             [network]\nnetwork_config_dir = \"{dir}/networks\"\n"
        );
        fs::write(self.dir.join("containers.conf"), engine).expect("podman's settings");
        let driver = if rustix::process::geteuid().is_root() { "overlay" } else { "vfs" };
        let storage = format!(
            "[storage]\ndriver = \"{driver}\"\ngraphroot = \"{dir}/store\"\nrunroot = \"{dir}/run\"\n"
        );
        fs::write(self.dir.join("storage.conf"), storage).expect("podman's store");
    }

    fn import(&self, name: &str, root: &Path, changes: &[&str]) {
        let tar = root.with_extension("tar");
        let _ = self.room.call("tar").arg("-cf").arg(&tar).arg("-C").arg(root).arg(".").ok();
        let call = changes
            .iter()
            .fold(self.call(["import", "--quiet"]), |call, change| call.args(["--change", change]));
        let _ = call.arg(&tar).arg(name).ok();
    }

    fn tiny(&self) -> PathBuf {
        let root = self.dir.join("tiny");
        fs::create_dir_all(root.join("bin")).expect("a root");
        let from = BUSYBOX.iter().find(|path| Path::new(path).exists());
        let from = from.expect("busybox: apt-get install busybox-static");
        fs::copy(from, root.join("bin/busybox")).expect("busybox");
        let script = "for name in $(./busybox --list); do [ -e $name ] || ./busybox ln -s busybox $name; done";
        let _ = self.room.call("sh").dir(&root.join("bin")).args(["-c", script]).ok();
        root
    }

    fn roomy(&self) -> PathBuf {
        let root = self.dir.join("roomy");
        for folder in ["bin", "usr/bin", "etc", "tmp", "home/dev"] {
            fs::create_dir_all(root.join(folder)).expect("a root");
        }
        let tools = [
            "bash", "cat", "chmod", "head", "id", "ls", "mkdir", "mv", "rm", "tail", "touch",
            "uname", "wc",
        ];
        // What the linker needs to start them comes along, at its own place.
        let script = r#"root=$1; shift
for tool do
  path=$(command -v "$tool"); cp "$path" "$root/bin/$tool"
  for file in $(ldd "$path" | grep -o '/[^ )]*'); do
    mkdir -p "$root${file%/*}"; cp -Lu "$file" "$root$file"
  done
done
cp "$root/bin/bash" "$root/bin/sh""#;
        let root_text = root.display().to_string();
        let words = ["-c", script, "bash", &root_text].into_iter().chain(tools);
        let _ = self.room.call("bash").args(words).ok();
        let accounts = "root:x:0:0:root:/root:/bin/bash\ndev:x:1500:1501::/home/dev:/bin/bash\n";
        fs::write(root.join("etc/passwd"), accounts).expect("accounts");
        root
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let _ = self.call(["rm", "--all", "--force", "--time", "0"]).run();
        let _ = self.call(["rmi", "--all", "--force"]).run();
        // The store is a mount of its own.
        let _ = self.room.call("umount").arg("--lazy").arg(self.dir.join("store/overlay")).run();
    }
}
