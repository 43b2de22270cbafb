//! What the compiler made, kept for its user: machine code, so nothing is loaded that anybody else could have written.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::geteuid;
use sha2::{Digest, Sha256};

/// Largest file of either kind.
pub(crate) const MOST: u64 = 256 << 20;

/// Names what is compiled: its bytes, this build, this machine's kind, and how it was compiled.
pub fn key(wasm: &[u8], fuel: bool) -> String {
    let mut hash = Sha256::new();
    let build = [env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS];
    hash.update(build.join(" "));
    hash.update([u8::from(fuel)]);
    hash.update(wasm);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What has to be done to fill the cache.
pub trait Compile {
    /// Compiles this file into the cache.
    fn compile(&self, file: &Path, cache: &Cache, fuel: bool) -> Result<(), String>;
}

/// A folder of compiled guests that only its user can read and write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache(PathBuf);

impl Cache {
    /// The cache in this folder, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The user's: below `XDG_CACHE_HOME`, or `.cache` at home.
    pub fn of_user(cache_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<Self> {
        let absolute = |path: &PathBuf| path.is_absolute();
        let below = cache_home.filter(absolute).or_else(|| Some(home?.join(".cache")))?;
        Some(below).filter(absolute).map(|below| Self(below.join("crabbox/wasm")))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// What was kept under a key; nothing when it is not whole or could be of somebody else.
    pub fn load(&self, key: &str) -> Option<Vec<u8>> {
        let folder = fs::symlink_metadata(&self.0).ok()?;
        if !folder.is_dir() || !is_ours(&folder) {
            return None;
        }
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let mut file = File::options().read(true).custom_flags(flags).open(self.path(key)).ok()?;
        let facts = file.metadata().ok()?;
        if !facts.is_file() || !is_ours(&facts) || facts.len() > MOST {
            return None;
        }
        let mut digest = [0; 32];
        file.read_exact(&mut digest).ok()?;
        let mut code = Vec::with_capacity(usize::try_from(facts.len()).ok()?);
        file.take(MOST).read_to_end(&mut code).ok()?;
        (Sha256::digest(&code)[..] == digest).then_some(code)
    }

    /// Keeps this under a key; whoever reads meanwhile sees all of it or nothing.
    pub fn store(&self, key: &str, code: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let facts = fs::symlink_metadata(&self.0)?;
        if !facts.is_dir() || facts.uid() != geteuid().as_raw() {
            let what = format!("{} is not a folder of this user's own", self.0.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
        fs::set_permissions(&self.0, Permissions::from_mode(0o700))?;
        let aside = self.0.join(format!(".{key}.{}", std::process::id()));
        let _ = fs::remove_file(&aside); // of an earlier process with our number
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&aside)?;
        let written = file.write_all(&Sha256::digest(code)).and_then(|()| file.write_all(code));
        written.and_then(|()| fs::rename(&aside, self.path(key))).inspect_err(|_| {
            let _ = fs::remove_file(&aside);
        })
    }

    /// Forgets what is kept under a key.
    pub fn remove(&self, key: &str) {
        let _ = fs::remove_file(self.path(key)); // nothing there is as good
    }

    /// The file of a key.
    pub fn path(&self, key: &str) -> PathBuf {
        self.0.join(format!("{key}.cwasm"))
    }
}

/// Of this user, and for nobody else.
fn is_ours(facts: &fs::Metadata) -> bool {
    facts.uid() == geteuid().as_raw() && facts.mode() & 0o077 == 0
}
