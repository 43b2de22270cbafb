//! What has to be unchanged for git to answer as it did: its settings, its ignore files, where it looks.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crabbox_tree::{Hash, content_hash};

use super::judge::IGNORE_FILE;
use super::record::Stat;
use crate::sync::git;

/// A file whose facts were noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) path: PathBuf,
    pub(super) stat: Stat,
    /// Only what it is and whose counts, not what is in it.
    pub(super) same: bool,
}

impl Witness {
    /// Notes a file's facts.
    pub(super) fn of(path: PathBuf, same: bool) -> Option<Self> {
        let stat = facts(&path, same)?;
        Some(Self { path, stat, same })
    }

    /// Whether the file is what it was.
    pub(super) fn holds(&self, moment: i64) -> bool {
        let Some(now) = facts(&self.path, self.same) else { return false };
        if self.same { now == self.stat } else { now.still(&self.stat, moment) }
    }
}

fn facts(path: &Path, same: bool) -> Option<Stat> {
    // A link counts as what it leads to, except in the tree, where git follows none.
    let in_tree = path.file_name() == Some(OsStr::new(IGNORE_FILE));
    let read = if in_tree { path.symlink_metadata() } else { path.metadata() };
    match read {
        Ok(facts) if same => Some(Stat {
            size: u64::from(facts.uid()),
            ino: facts.ino(),
            mode: facts.mode(),
            ..Stat::default()
        }),
        Ok(facts) => Some(Stat::of(&facts)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Some(Stat::default()),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => Some(Stat::default()),
        Err(_) => None,
    }
}

/// A repository's folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The work tree's top.
    pub(super) root: PathBuf,
    /// What belongs to this work tree: `HEAD` and the index.
    pub(super) own: PathBuf,
    /// What all work trees share.
    pub(super) shared: PathBuf,
}

/// Where a work tree has its own git data: its `.git`, or where that says it is, in a linked one.
pub fn git_dir(root: &Path) -> Option<PathBuf> {
    let dot = root.join(".git");
    if dot.symlink_metadata().ok()?.is_dir() {
        return Some(dot);
    }
    // A pipe of that name would be read for ever.
    let line = dot.metadata().ok()?.is_file().then(|| line_of(&dot))??;
    Some(root.join(line.strip_prefix("gitdir: ")?))
}

impl Place {
    /// Finds the folders of the work tree at `root`.
    pub(super) fn find(root: &Path) -> Option<Self> {
        let own = git_dir(root)?;
        let shared = match line_of(&own.join("commondir")) {
            Some(line) => own.join(line),
            None => own.clone(),
        };
        Some(Self { root: root.to_owned(), own, shared })
    }

    /// Git's index file.
    pub(super) fn index(&self) -> PathBuf {
        self.own.join("index")
    }

    /// What `HEAD` names, in words that change whenever that does.
    pub(super) fn head(&self) -> Option<Vec<u8>> {
        let mut said = std::fs::read(self.own.join("HEAD")).ok()?;
        let Some(name) = said.strip_prefix(b"ref: ") else { return Some(said) };
        let name = PathBuf::from(OsStr::from_bytes(name.trim_ascii_end()));
        match std::fs::read(self.shared.join(&name)) {
            Ok(id) if !id.starts_with(b"ref:") => said.extend(id),
            Ok(_) => return None,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let packed = facts(&self.shared.join("packed-refs"), false)?;
                said.extend(format!("{packed:?}").bytes());
            }
            Err(_) => return None,
        }
        Some(said)
    }
}

fn line_of(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().map(|text| text.trim_end().to_owned())
}

/// What in the environment decides what git says.
pub(super) fn surroundings(env: &BTreeMap<String, String>) -> Hash {
    let mut text = Vec::new();
    let counts =
        |name: &str| name.starts_with("GIT_") || ["HOME", "XDG_CONFIG_HOME"].contains(&name);
    for (name, value) in env.iter().filter(|(name, _)| counts(name)) {
        text.extend(format!("{name}={value}\0").bytes());
    }
    text.extend(rustix::process::geteuid().as_raw().to_le_bytes());
    content_hash(&text)
}

/// Git's settings as far as they matter, and the files they came from or could come from.
pub(super) struct Settings {
    pub(super) witnesses: Vec<Witness>,
    /// `core.excludesFile`.
    pub(super) excludes: Option<PathBuf>,
}

impl Settings {
    /// Asks git for its settings in a work tree that was found from `dir`. `None` when one of them makes git
    /// behave in a way that only git knows.
    pub(super) fn read(place: &Place, dir: &Path, env: &BTreeMap<String, String>) -> Option<Self> {
        let out = git::command(&place.root, &["config", "--list", "--show-origin", "-z"]);
        let out = { out }.output().ok().filter(|out| out.status.success())?;
        let mut files = candidates(place, env);
        let mut excludes = default_excludes(env);
        let mut words = out.stdout.split(|b| *b == 0);
        while let (Some(origin), Some(setting)) = (words.next(), words.next()) {
            let origin = origin_file(place, origin)?;
            files.extend(origin.clone());
            let (key, value) = key_and_value(setting)?;
            if is_exotic(&key, &value) {
                return None;
            }
            if key == "core.excludesfile" {
                excludes = path_value(&value, env)?;
            }
            if key == "include.path" || (key.starts_with("includeif.") && key.ends_with(".path")) {
                let beside = origin.as_deref().and_then(Path::parent).unwrap_or(&place.root);
                files.extend(included(&value, beside, env)?);
            }
        }
        files.extend(excludes.clone());
        files.sort();
        files.dedup();
        let same = identities(place, dir).into_iter().map(|path| Witness::of(path, true));
        let full = files.into_iter().map(|path| Witness::of(path, false));
        Some(Self { witnesses: same.chain(full).collect::<Option<_>>()?, excludes })
    }
}

/// What makes the directory a repository of its owner, and of no one further down.
fn identities(place: &Place, dir: &Path) -> Vec<PathBuf> {
    let below = dir.ancestors().take_while(|at| *at != place.root);
    let mut paths: Vec<PathBuf> = below.map(|at| at.join(".git")).collect();
    paths.extend([place.root.clone(), place.root.join(".git"), place.own.clone()]);
    paths.extend([place.shared.join("objects"), place.shared.join("refs")]);
    paths
}

/// Files that git reads when they are there.
fn candidates(place: &Place, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let system = ["/etc/gitconfig", "/usr/local/etc/gitconfig", "/opt/homebrew/etc/gitconfig"];
    let mut files: Vec<PathBuf> = system.iter().map(PathBuf::from).collect();
    files.extend(
        ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"]
            .iter()
            .filter_map(|n| env.get(*n))
            .map(PathBuf::from),
    );
    files.extend(home(env).map(|home| home.join(".gitconfig")));
    files.extend(user_folder(env).map(|folder| folder.join("config")));
    files.extend([place.shared.join("config"), place.own.join("config.worktree")]);
    files.extend([place.own.join("commondir"), place.shared.join("info/exclude")]);
    if !place.root.join(".git").is_dir() {
        files.push(place.root.join(".git"));
    }
    files
}

fn home(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    env.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

fn user_folder(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let named = env.get("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    named.or_else(|| home(env).map(|home| home.join(".config"))).map(|dir| dir.join("git"))
}

fn default_excludes(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    user_folder(env).map(|folder| folder.join("ignore"))
}

/// The file a setting stands in; none when it came with the environment.
fn origin_file(place: &Place, origin: &[u8]) -> Option<Option<PathBuf>> {
    if origin == b"command line:" {
        return Some(None);
    }
    let file = origin.strip_prefix(b"file:")?;
    Some(Some(place.root.join(OsStr::from_bytes(file))))
}

/// A key and its value; a key without one means yes.
fn key_and_value(setting: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(setting).ok()?;
    let (key, value) = text.split_once('\n').unwrap_or((text, "true"));
    Some((key.to_owned(), value.to_owned()))
}

/// Whether a setting changes which files git sees, or where it looks, in ways not followed here.
fn is_exotic(key: &str, value: &str) -> bool {
    const KNOWN: &[&str] = &[
        "extensions.noop",
        "extensions.partialclone",
        "extensions.preciousobjects",
        "extensions.relativeworktrees",
        "extensions.worktreeconfig",
    ];
    let off = matches!(value.to_ascii_lowercase().as_str(), "false" | "no" | "off" | "0" | "");
    match key {
        "core.worktree" => true,
        "core.bare" | "core.ignorecase" | "core.precomposeunicode" => !off,
        _ if key.starts_with("includeif.onbranch:") => true,
        _ => key.starts_with("extensions.") && !KNOWN.contains(&key),
    }
}

/// A setting that names a path; an empty one names none.
fn path_value(value: &str, env: &BTreeMap<String, String>) -> Option<Option<PathBuf>> {
    if value.is_empty() {
        return Some(None);
    }
    let path = match value.strip_prefix("~/") {
        Some(below) => home(env)?.join(below),
        None => PathBuf::from(value),
    };
    path.is_absolute().then_some(Some(path))
}

/// The file an include names, beside the file that includes it.
fn included(value: &str, beside: &Path, env: &BTreeMap<String, String>) -> Option<Option<PathBuf>> {
    if value.starts_with('~') || value.starts_with('/') || value.is_empty() {
        return path_value(value, env);
    }
    (!value.starts_with("%(")).then(|| Some(beside.join(value)))
}
