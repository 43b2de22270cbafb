//! A provider made by `crabbox plugin new`, built where its language needs that.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Room, binaries};

/// What building a program from nothing may take on a busy machine.
const BUILD: Duration = Duration::from_secs(280);

impl Room {
    /// Makes a provider of the template in a folder of the room, ready to run.
    pub fn template(&self, lang: &str, name: &str) -> PathBuf {
        let folder = self.at(name);
        let mut words = vec!["plugin", "new", "--lang", lang];
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk").display().to_string();
        if lang == "rust" {
            words.extend(["--sdk", &sdk]);
        }
        let text = folder.display().to_string();
        words.push(&text);
        let _ = self.crabbox(self.path(), words).ok();
        match lang {
            "go" => self.build_go(&folder),
            "rust" => self.build_rust(&folder),
            _ => {}
        }
        folder
    }

    fn build_go(&self, folder: &Path) {
        let cache = binaries().join("go-cache");
        let build = self.call("go").args(["build", "-o", "provider", "."]).dir(folder);
        let _ = build.env("GOCACHE", cache).env("GOFLAGS", "-mod=mod").limit(BUILD).ok();
    }

    /// Builds with this workspace's versions of everything, and without the network.
    #[expect(clippy::disallowed_methods, reason = "Cargo needs to know where its own things are")]
    fn build_rust(&self, folder: &Path) {
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
        fs::copy(lock, folder.join("Cargo.lock")).expect("a copy of the lock file");
        let tools = Path::new(env!("CARGO")).parent().expect("a program is in a folder");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", tools.display());
        let mut build = self.call(folder.join("build")).dir(folder).env("PATH", path);
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
        build = build.env("CARGO_HOME", home.expect("a home folder"));
        build = build.env("CARGO_NET_OFFLINE", "true").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
        let _ = build.limit(BUILD).ok();
    }
}
