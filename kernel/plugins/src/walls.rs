//! What a plugin that is a program of its own is kept from, where the system can do that: Linux with Landlock.
//!
//! Reading is left alone, because interpreters and their libraries lie anywhere. Writing outside its own folder and TCP
//! connections of its own are stopped, for the program and everything it starts, unless it asked for them.

use std::io;
use std::path::Path;

use crabbox_schemas::manifest::{Grants, Runtime};

use crate::catalog::{Entry, Place};

/// The power to write wherever the user can.
pub(crate) const WRITE: &str = "write";
/// The power to open connections of one's own.
pub(crate) const NETWORK: &str = "network";

/// What this system can stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Walls {
    /// Nothing.
    None,
    /// Writing.
    Files,
    /// Writing and TCP.
    FilesAndNetwork,
}

/// What one plugin is stopped from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confined {
    /// It writes only into its own folder.
    pub files: bool,
    /// It opens no TCP connections.
    pub network: bool,
}

impl Entry {
    /// What this plugin is stopped from here. What came with crabbox is trusted as crabbox is.
    pub fn confined(&self) -> Confined {
        self.confined_with(&self.manifest.grants)
    }

    /// The same with other grants than its manifest's.
    pub(crate) fn confined_with(&self, grants: &Grants) -> Confined {
        let stdio = self.runtime == Some(Runtime::Stdio) && self.place != Place::Bundled;
        Confined::of(&grants.powers, if stdio { here() } else { Walls::None })
    }
}

impl Confined {
    /// Of a program with these powers, behind these walls.
    pub(crate) fn of(powers: &[String], walls: Walls) -> Self {
        let has = |power: &str| powers.iter().any(|asked| asked == power);
        Self {
            files: walls >= Walls::Files && !has(WRITE),
            network: walls >= Walls::FilesAndNetwork && !has(NETWORK),
        }
    }

    /// Whether there is anything to do.
    pub fn is_needed(self) -> bool {
        self.files || self.network
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{Confined, Path, Walls, io};
    use std::sync::OnceLock;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
        RulesetAttr, RulesetCreatedAttr, RulesetError,
    };

    /// The newest interface whose rights are asked for; older systems stop what they know of them.
    const NEWEST: ABI = ABI::V5;
    /// What programs write to that is no file of anybody's.
    const DEVICES: &[&str] = &[
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
        "/dev/ptmx",
        "/dev/pts",
        "/dev/shm",
    ];

    /// What this system can stop, asked once.
    pub(crate) fn here() -> Walls {
        static HERE: OnceLock<Walls> = OnceLock::new();
        *HERE.get_or_init(|| {
            let strict = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
            let files = strict().handle_access(AccessFs::from_write(ABI::V1));
            let network = strict().handle_access(AccessNet::from_all(ABI::V4));
            let works =
                |ruleset: Result<Ruleset, RulesetError>| ruleset.and_then(Ruleset::create).is_ok();
            match (works(files), works(network)) {
                (true, true) => Walls::FilesAndNetwork,
                (true, false) => Walls::Files,
                _ => Walls::None,
            }
        })
    }

    /// Puts the walls around this thread and every process it starts from now on. There is no way back.
    pub fn confine_thread(confined: Confined, own: &Path) -> io::Result<()> {
        ruleset(confined, own).map_err(io::Error::other)
    }

    fn ruleset(confined: Confined, own: &Path) -> Result<(), RulesetError> {
        let mut ruleset = Ruleset::default();
        if confined.files {
            ruleset = ruleset.handle_access(AccessFs::from_write(NEWEST))?;
        }
        if confined.network {
            ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
        }
        let mut walls = ruleset.create()?;
        if confined.files {
            let places = DEVICES.iter().map(Path::new).chain([own]);
            for place in places.filter(|place| place.exists()) {
                let all = AccessFs::from_write(NEWEST);
                let rights = if place.is_dir() { all } else { all & AccessFs::from_file(NEWEST) };
                let Ok(fd) = PathFd::new(place) else { continue };
                walls = walls.add_rule(PathBeneath::new(fd, rights))?;
            }
        }
        walls.restrict_self().map(drop)
    }
}

#[cfg(target_os = "linux")]
pub use linux::confine_thread;
#[cfg(target_os = "linux")]
pub(crate) use linux::here;

/// What this system can stop.
#[cfg(not(target_os = "linux"))]
pub(crate) fn here() -> Walls {
    Walls::None
}

/// There are no walls here.
#[cfg(not(target_os = "linux"))]
pub fn confine_thread(_confined: Confined, _own: &Path) -> io::Result<()> {
    Ok(())
}
