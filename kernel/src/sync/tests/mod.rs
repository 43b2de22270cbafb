//! What a sync does to real directories, with real git here and a real shell there.

mod boxes;
mod drift;
mod files;
mod index;
mod random;
mod refusals;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::error::Result;
use crate::ports::Stop;
use crate::sync::manifest::{Kind, Manifest};
use crate::sync::push::{PushSpec, Pushed, push};
use crate::sync::{Keep, LocalTree, ScanOptions, SyncRules};

use boxes::{LocalBox, Still};

/// The digest of a directory as it stands, every file in it, with no rule applied: what a box's tree must
/// have in common with the manifest it was sent.
fn digest_of(root: &Path) -> Result<crate::sync::manifest::Hash> {
    let mut paths = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for item in std::fs::read_dir(root.join(&dir)).unwrap() {
            let item = item.unwrap();
            let path = dir.join(item.file_name());
            if item.file_type().unwrap().is_dir() { todo.push(path) } else { paths.push(path) }
        }
    }
    Ok(crate::sync::manifest::read(root, paths, &mut Vec::new())?.digest())
}

/// A git work tree with one commit.
struct Repo {
    dir: tempfile::TempDir,
}

impl Repo {
    fn new() -> Self {
        let this = Self::unborn();
        this.write("README", "hello\n");
        this.write(".gitignore", "ignored*\n");
        this.commit();
        this
    }

    fn unborn() -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        this.git(&["init", "-q", "-b", "main"]);
        this
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root().join(path)
    }

    fn git(&self, args: &[&str]) {
        git_in(self.root(), args);
    }

    fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "x", "--allow-empty"]);
    }

    fn write(&self, path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
        put(&self.at(path), text);
    }

    fn rm(&self, path: &str) {
        std::fs::remove_file(self.at(path)).unwrap();
    }
}

fn git_in(dir: &Path, args: &[&str]) {
    #[expect(clippy::disallowed_methods, reason = "real git is what we read")]
    let mut git = std::process::Command::new("git");
    let config = [
        "user.name=t",
        "user.email=t@localhost",
        "protocol.file.allow=always",
        "commit.gpgsign=false",
    ];
    for pair in config {
        git.args(["-c", pair]);
    }
    let out = git.arg("-C").arg(dir).args(args).output().unwrap();
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn put(at: &Path, text: impl AsRef<[u8]>) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, text).unwrap();
}

fn chmod(at: &Path, mode: u32) {
    std::fs::set_permissions(at, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn name(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Scans afresh, and with an index twice: all three say the same.
fn scan(root: &Path, rules: &SyncRules) -> Result<(LocalTree, Vec<String>)> {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    let env = surroundings();
    let keep = Some(Keep { dir: FOLDER.path(), env: &env });
    let options = ScanOptions { keep, ..ScanOptions::default() };
    let fresh = crate::sync::scan(root, rules, &ScanOptions::default());
    for _ in 0..2 {
        same(&fresh, &crate::sync::scan(root, rules, &options));
    }
    fresh
}

/// The environment of this process, which git inherits.
fn surroundings() -> std::collections::BTreeMap<String, String> {
    #[expect(clippy::disallowed_methods, reason = "git sees the environment of the tests")]
    std::env::vars().collect()
}

/// Fails unless two scans say the same.
fn same(a: &Result<(LocalTree, Vec<String>)>, b: &Result<(LocalTree, Vec<String>)>) {
    match (a, b) {
        (Ok((a, said)), Ok((b, told))) => {
            assert_eq!(a.manifest().unwrap().entries(), b.manifest().unwrap().entries());
            let rest =
                |t: &LocalTree| (t.root.clone(), t.kind, t.digest, t.tracked_deletions, t.left_out);
            assert_eq!((rest(a), said), (rest(b), told));
            assert_eq!(b.digest, b.manifest().unwrap().digest());
            for entry in
                b.manifest().unwrap().entries().iter().filter(|e| e.size() > crabbox_tree::WHOLE)
            {
                if let Kind::File { sha256, .. } = &entry.kind {
                    assert!(b.recipe(sha256).is_some() && a.recipe(sha256) == b.recipe(sha256));
                }
            }
        }
        (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string()),
        (a, b) => panic!("{a:?} is not {b:?}"),
    }
}

fn tree(root: &Path) -> LocalTree {
    scan(root, &SyncRules::default()).unwrap().0
}

fn paths(tree: &LocalTree) -> Vec<String> {
    tree.manifest()
        .unwrap()
        .entries()
        .iter()
        .map(|e| e.path.to_string_lossy().into_owned())
        .collect()
}

async fn send_with(to: &LocalBox, tree: &LocalTree, rules: SyncRules) -> Result<Pushed> {
    let spec = PushSpec { workdir: to.workdir().to_str().unwrap().to_owned(), rules };
    push(to, tree, &spec, &mut Vec::new(), &Stop::never(), &Still).await
}

async fn send(to: &LocalBox, from: &Path) -> Pushed {
    send_with(to, &tree(from), SyncRules::default()).await.unwrap()
}

/// Sends, and checks that the whole directory on the box is exactly the manifest, by another walk.
async fn mirror(to: &LocalBox, from: &Path) -> Pushed {
    let tree = tree(from);
    let pushed = send_with(to, &tree, SyncRules::default()).await.unwrap();
    assert_eq!(
        digest_of(&to.workdir()).unwrap(),
        tree.manifest().unwrap().digest(),
        "{:?}",
        on_box(to)
    );
    let again = send(to, from).await;
    assert!(again.skipped, "a second sync finds nothing to do: {again:?}");
    pushed
}

fn on_box(to: &LocalBox) -> Vec<String> {
    fn walk(dir: &Path, base: &Path, out: &mut Vec<String>) {
        for item in std::fs::read_dir(dir).unwrap() {
            let at = item.unwrap().path();
            if at.is_dir() && !at.is_symlink() {
                walk(&at, base, out);
            } else {
                out.push(at.strip_prefix(base).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    let mut out = Vec::new();
    walk(&to.workdir(), &to.workdir(), &mut out);
    out.sort();
    out
}

/// Every odd kind of entry.
fn odd(repo: &Repo) {
    let long = "d".repeat(120);
    for bytes in [
        b"with space".as_slice(),
        b"new\nline",
        b"trailing newline\n",
        b"back\\slash",
        b"back\\nslash-n",
        b"carriage\rreturn",
        b"single'quote",
        b"double\"quote",
        b"dollar$HOME`id`",
        b"-rf",
        b"--help",
        b"@args",
        b"#hash",
        b"~",
        b"*",
        b"sub/-n",
        b"caf\xc3\xa9",
        b"not utf8 \xff\xfe",
        b"tab\there",
        b".",
        b"...",
    ] {
        if bytes != b"." {
            repo.write(name(bytes), bytes);
        }
    }
    repo.write("empty", "");
    repo.write(format!("{}/{}", [long.as_str(); 6].join("/"), "f".repeat(230)), "deep");
    repo.write("run.sh", "#!/bin/sh\n");
    chmod(&repo.at("run.sh"), 0o755);
    repo.write("big", vec![7; 1_000_003]);
    symlink("README", repo.at("link")).unwrap();
    symlink("nowhere/at all", repo.at("dangling")).unwrap();
    symlink("../../outside", repo.at("out")).unwrap();
    symlink("/etc", repo.at("absolute")).unwrap();
    symlink("sub", repo.at("link to dir")).unwrap();
    symlink("t".repeat(300), repo.at("long target")).unwrap();
    symlink(name(b"odd\n\\target \xff"), repo.at(name(b"odd\\link\n"))).unwrap();
}

/// How many random cases are tried; `CRABBOX_TEST_CASES` asks for another number.
fn cases(usual: u32) -> u32 {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test run is told by its environment to try more"
    )]
    let asked = std::env::var("CRABBOX_TEST_CASES").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(usual)
}
