//! Looks for plugins where they may be, and nowhere else: no search path, no repository, and none is run.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;

use crate::artifact::runnable;
use crate::catalog::{Catalog, Entry, Place};
use crate::index::{Index, Known, Later};
use crate::manifest;

/// Where plugins may be.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The folder of the executable: bundled plugins, their programs and the runners are found from it.
    pub programs: PathBuf,
    /// Folders a developer named, each one plugin.
    pub developer: Vec<PathBuf>,
    /// Folders of the user's plugins, each one plugin; see [`crate::Shelf::folders`].
    pub user: Vec<PathBuf>,
    /// Folders of the administrator's, each with plugins inside.
    pub system: Vec<PathBuf>,
    /// The file that keeps what was read; nothing is kept without.
    pub index: Option<PathBuf>,
}

impl Places {
    /// Only what is bundled with this executable.
    pub fn beside(exe: &Path) -> Self {
        let programs = exe.parent().unwrap_or(Path::new("/")).to_owned();
        Self { programs, ..Self::default() }
    }

    fn bundled(&self) -> Vec<PathBuf> {
        let mut folders = subfolders(&self.programs.join("plugins"));
        folders.extend(subfolders(&self.programs.join("../lib/crabbox/plugins")));
        if let Some(checkout) = self.checkout() {
            folders.extend(subfolders(&checkout.join("plugins")));
        }
        folders
    }

    /// The source checkout that this executable was built in. One that merely lies in a repository was not.
    fn checkout(&self) -> Option<&Path> {
        let target = self.programs.parent()?;
        let checkout = target.parent()?;
        let built = target.file_name()? == "target"
            && target.join("CACHEDIR.TAG").is_file()
            && checkout.join("Cargo.toml").is_file();
        built.then_some(checkout)
    }

    /// Every folder with its place, best first.
    fn all(&self) -> Vec<(PathBuf, Place)> {
        let system = self.system.iter().flat_map(|dir| subfolders(dir));
        let named = |folders: Vec<PathBuf>, place| folders.into_iter().map(move |f| (f, place));
        named(self.developer.clone(), Place::Developer)
            .chain(named(self.user.clone(), Place::User))
            .chain(named(system.collect(), Place::System))
            .chain(named(self.bundled(), Place::Bundled))
            .collect()
    }
}

/// Finds every provider. An unusable plugin is a problem to be told; it keeps no other from being found.
pub fn discover(places: &Places) -> Catalog {
    let mut catalog = Catalog::default();
    let mut index = Index::open(places.index.as_deref());
    let mut seen: Vec<(PathBuf, Place, Option<String>)> = Vec::new();
    let mut shelves = Shelves::default();
    for (folder, place) in places.all() {
        let real = shelves.real(folder);
        if seen.iter().any(|(folder, ..)| *folder == real) {
            continue;
        }
        let found = owned(&real, place).and_then(|()| index.read(&real));
        let id = found.as_ref().ok().map(|known| known.manifest.id.clone());
        let before = seen.iter().find(|(.., known)| id.is_some() && *known == id);
        match (found, before) {
            (Ok(known), Some((other, theirs, _))) if *theirs == place => {
                catalog.problems.push(twice(&known.manifest.id, other, &real));
            }
            // The same plugin in a better place counts.
            (Ok(_), Some(_)) => {}
            (Ok(known), None) => {
                catalog.entries.extend(entries(known, &real, place, &places.programs));
            }
            (Err(problem), _) => catalog.problems.push(problem),
        }
        seen.push((real, place, id));
    }
    index.close();
    catalog.entries.sort_by(|a, b| a.provider.name.cmp(&b.provider.name));
    catalog
}

fn twice(id: &str, counts: &Path, other: &Path) -> KernelError {
    let (counts, other) = (counts.display(), other.display());
    KernelError::new(
        ErrorCode::Conflict,
        format!("{id} is there twice: {counts} counts, not {other}"),
    )
    .hint("remove the folder that you do not want")
}

/// Folders of folders by their real paths; most plugins lie side by side.
#[derive(Default)]
struct Shelves(BTreeMap<PathBuf, PathBuf>);

impl Shelves {
    /// The real path of a folder.
    fn real(&mut self, folder: PathBuf) -> PathBuf {
        let plain = folder.symlink_metadata().is_ok_and(|facts| facts.is_dir());
        let (Some(parent), Some(name)) = (folder.parent().filter(|_| plain), folder.file_name())
        else {
            return folder.canonicalize().unwrap_or(folder);
        };
        let real = |parent: &Path| parent.canonicalize().unwrap_or_else(|_| parent.to_owned());
        self.0.entry(parent.to_owned()).or_insert_with_key(|parent| real(parent)).join(name)
    }
}

/// The providers of one folder, as if it had been found in a place.
pub fn load(folder: &Path, place: Place, programs: &Path) -> Result<Vec<Entry>> {
    let known = Index::default().read(folder)?;
    Ok(entries(known, folder, place, programs))
}

fn entries(known: Known, folder: &Path, place: Place, programs: &Path) -> Vec<Entry> {
    let manifest = Arc::new(known.manifest);
    let run = runnable(&manifest, folder, programs, None).unwrap_or_default();
    let digest = Arc::new(OnceLock::new());
    let pairs = manifest.providers.iter().zip(known.settings);
    let entry =
        |(provider, (schema, flags)): (&crabbox_schemas::manifest::ProviderEntry, _)| Entry {
            manifest: Arc::clone(&manifest),
            provider: provider.clone(),
            schema: Arc::new(Later::new(schema)),
            flags: Arc::new(Later::new(flags)),
            folder: folder.to_owned(),
            place,
            runtime: run.runtime,
            artifact: run.artifact.clone(),
            program: run.program.clone(),
            args: run.args.clone(),
            digest: Arc::clone(&digest),
        };
    pairs.map(entry).collect()
}

/// An administrator's plugin is one only when nobody else could have put it there.
fn owned(folder: &Path, place: Place) -> Result<()> {
    if place != Place::System {
        return Ok(());
    }
    let safe = |path: &Path| {
        path.metadata().is_ok_and(|facts| facts.uid() == 0 && facts.mode() & 0o022 == 0)
    };
    if safe(folder) && safe(&folder.join(manifest::FILE)) {
        return Ok(());
    }
    Err(KernelError::new(
        ErrorCode::Config,
        format!(
            "{} can be written by others than root, so it is no system plugin",
            folder.display()
        ),
    )
    .hint("chown it to root and take write permission from everybody else"))
}

/// Subfolders that hold a manifest, in name order.
pub(crate) fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut folders: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join(manifest::FILE).is_file())
        .collect();
    folders.sort();
    folders
}
