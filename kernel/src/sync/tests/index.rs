//! An index changes how long a scan takes and nothing else; git is the judge.

use std::collections::BTreeSet;
use std::fs::{File, FileTimes};

use proptest::prelude::*;

use super::*;
use crate::sync::excludes::Excludes;
use crate::sync::git::started;
use crate::sync::{Hint, Keep, ScanOptions};

/// A folder of indexes.
struct Index {
    dir: tempfile::TempDir,
    env: std::collections::BTreeMap<String, String>,
}

impl Index {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), env: surroundings() }
    }

    fn options(&self) -> ScanOptions<'_> {
        let keep = Some(Keep { dir: self.dir.path(), env: &self.env });
        ScanOptions { keep, ..ScanOptions::default() }
    }

    /// Scans with the index, compares with a scan without, and says how often git was started.
    fn scan(&self, repo: &Repo) -> usize {
        self.scan_with(repo, &SyncRules::default(), &self.options())
    }

    fn scan_with(&self, repo: &Repo, rules: &SyncRules, options: &ScanOptions<'_>) -> usize {
        let before = started();
        let kept = crate::sync::scan(repo.root(), rules, options);
        let starts = started() - before;
        same(&crate::sync::scan(repo.root(), rules, &ScanOptions::default()), &kept);
        starts
    }

    /// The one index file.
    fn file(&self) -> PathBuf {
        let mut files = std::fs::read_dir(self.dir.path()).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none(), "nothing half-written stays");
        file
    }
}

/// A repository with several directories and an index that knows it.
fn known() -> (Repo, Index) {
    let (repo, index) = (Repo::new(), Index::new());
    for path in ["src/a.rs", "src/deep/b.rs", "docs/c.md", "gone"] {
        repo.write(path, path);
    }
    repo.write("src/.gitignore", "*.o\n!keep.o\nbuild/\n");
    repo.commit();
    repo.write("src/new.rs", "untracked");
    repo.write("target/left.out", "");
    symlink("src", repo.at("link")).unwrap();
    // What was written just now is looked at once more; then all is known.
    for _ in 0..3 {
        index.scan(&repo);
    }
    assert_eq!(index.scan(&repo), 0);
    (repo, index)
}

#[test]
fn no_git_is_started_for_what_people_do_between_two_runs() {
    let (repo, index) = known();
    let edits: &[(&str, &dyn Fn())] = &[
        ("a content changes", &|| repo.write("src/a.rs", "changed")),
        ("a file is added", &|| repo.write("src/deep/more.rs", "")),
        ("an ignored file is added", &|| repo.write("src/x.o", "")),
        ("a file that is not ignored after all is added", &|| repo.write("src/deep/keep.o", "")),
        ("directories are added", &|| repo.write("one/two/three", "")),
        ("a directory with rules of its own is added", &|| {
            repo.write("own/.gitignore", "*.tmp\n");
            repo.write("own/x.tmp", "");
        }),
        ("an ignored directory is added", &|| repo.write("src/build/x", "")),
        ("a tracked file is removed", &|| repo.rm("gone")),
        ("an untracked file is removed", &|| repo.rm("src/new.rs")),
        ("a directory is renamed", &|| {
            std::fs::rename(repo.at("one"), repo.at("other")).unwrap();
        }),
        ("an editor replaces a file", &|| {
            repo.write("src/tmp", "replaced");
            std::fs::rename(repo.at("src/tmp"), repo.at("src/a.rs")).unwrap();
        }),
        ("a mode changes", &|| chmod(&repo.at("src/a.rs"), 0o755)),
        ("a file becomes a link", &|| {
            repo.rm("docs/c.md");
            symlink("../src/a.rs", repo.at("docs/c.md")).unwrap();
        }),
        ("a directory becomes a link", &|| {
            std::fs::rename(repo.at("docs"), repo.at("moved")).unwrap();
            symlink("moved", repo.at("docs")).unwrap();
        }),
        ("files are added to git's index", &|| repo.git(&["add", "src", "own"])),
        ("a file is forced into git's index", &|| repo.git(&["add", "-f", "src/build/x"])),
        ("git looks at the tree", &|| repo.git(&["status"])),
        ("a directory of tracked files goes", &|| {
            std::fs::remove_dir_all(repo.at("src/deep")).unwrap();
        }),
    ];
    for (what, edit) in edits {
        edit();
        assert_eq!(index.scan(&repo), 0, "{what}");
        assert_eq!(index.scan(&repo), 0, "after {what}");
    }
}

#[test]
fn a_directory_without_git_needs_none() {
    let (dir, index) = (tempfile::tempdir().unwrap(), Index::new());
    let rules = SyncRules::default();
    for text in ["one", "two"] {
        put(&dir.path().join("a/file"), text);
        let before = started();
        let kept = crate::sync::scan(dir.path(), &rules, &index.options());
        assert_eq!(started(), before);
        same(&crate::sync::scan(dir.path(), &rules, &ScanOptions::default()), &kept);
    }
}

#[test]
fn git_is_asked_again_when_it_may_judge_otherwise() {
    let (repo, index) = known();
    let home = tempfile::tempdir().unwrap();
    let edits: &[(&str, &dyn Fn())] = &[
        ("an ignore file changes", &|| repo.write("src/.gitignore", "deep/\n")),
        ("an ignore file comes", &|| repo.write("docs/.gitignore", "*\n")),
        ("an ignore file goes", &|| repo.rm("src/.gitignore")),
        ("the repository's own excludes change", &|| repo.write(".git/info/exclude", "*.rs\n")),
        ("a setting changes", &|| {
            put(&home.path().join("ignore"), "d*\n");
            let file = home.path().join("ignore");
            repo.git(&["config", "core.excludesFile", file.to_str().unwrap()]);
        }),
        ("the user's excludes change", &|| put(&home.path().join("ignore"), "")),
        ("a commit is made", &|| repo.commit()),
        ("a repository appears inside", &|| git_in(&repo.at("docs"), &["init", "-q"])),
    ];
    for (what, edit) in edits {
        edit();
        assert!(index.scan(&repo) > 0, "{what}");
        index.scan(&repo);
    }
}

#[test]
fn a_change_that_keeps_size_and_time_is_seen() {
    let (repo, index) = known();
    for content in ["SRC/A.RS", "another!", "yet more"] {
        let at = repo.at("src/a.rs");
        let then = at.metadata().unwrap().modified().unwrap();
        repo.write("src/a.rs", content);
        File::options().write(true).open(&at).unwrap().set_modified(then).unwrap();
        assert_eq!(index.scan(&repo), 0);
    }
}

#[test]
fn a_spoiled_index_costs_only_time() {
    let (repo, index) = known();
    let whole = std::fs::read(index.file()).unwrap();
    for at in (0..whole.len()).step_by(97) {
        let mut spoiled = whole.clone();
        spoiled[at] ^= 1;
        std::fs::write(index.file(), spoiled).unwrap();
        assert!(index.scan(&repo) > 0, "byte {at}");
    }
    for len in [0, 3, 20, whole.len() / 2, whole.len() - 1] {
        std::fs::write(index.file(), &whole[..len]).unwrap();
        assert!(index.scan(&repo) > 0, "{len} bytes");
    }
    std::fs::write(index.file(), &whole).unwrap();
    assert_eq!(index.scan(&repo), 0);
}

#[test]
fn a_folder_that_cannot_be_written_costs_only_time() {
    let (repo, mut index) = known();
    let file = tempfile::NamedTempFile::new().unwrap();
    let env = std::mem::take(&mut index.env);
    let keep = Some(Keep { dir: file.path(), env: &env });
    let options = ScanOptions { keep, ..ScanOptions::default() };
    index.scan_with(&repo, &SyncRules::default(), &options);
}

#[test]
fn scans_at_the_same_time_do_each_other_no_harm() {
    let (repo, index) = known();
    let wanted = tree(repo.root()).digest;
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (repo, index) = (&repo, &index);
            scope.spawn(move || {
                for _ in 0..10 {
                    chmod(&repo.at("gone"), 0o600 + n % 2 * 4);
                    let tree =
                        crate::sync::look(repo.root(), &SyncRules::default(), &index.options());
                    assert_eq!(tree.unwrap().digest, wanted);
                }
            });
        }
    });
    index.scan(&repo);
    assert_eq!(index.scan(&repo), 0);
    index.file();
}

#[test]
fn other_rules_and_checksums_use_what_is_known() {
    let (repo, index) = known();
    let rules = SyncRules { exclude: vec!["*.rs".to_owned()], ..SyncRules::default() };
    assert_eq!(index.scan_with(&repo, &rules, &index.options()), 0);
    assert_eq!(index.scan(&repo), 0);
    repo.write(".crabboxignore", "docs\n");
    assert_eq!(index.scan(&repo), 0);
    let checksum = SyncRules { checksum: true, ..SyncRules::default() };
    index.scan_with(&repo, &checksum, &index.options());
}

#[test]
fn a_content_that_changed_without_a_trace_is_found_by_a_checksum_alone() {
    let (repo, index) = known();
    let hash = |text: &str| crabbox_tree::content_hash(text.as_bytes());
    let (now, then) = (hash("src/a.rs"), hash("SRC/A.RS"));
    // As if the file had held something else when it looked just as it does now.
    let mut bytes = std::fs::read(index.file()).unwrap();
    let at = bytes.windows(32).position(|window| window == now).unwrap();
    bytes[at..at + 32].copy_from_slice(&then);
    crate::sync::index::file::reseal(&mut bytes);
    std::fs::write(index.file(), bytes).unwrap();
    let scan = |checksum| {
        let rules = SyncRules { checksum, ..SyncRules::default() };
        let tree = crate::sync::look(repo.root(), &rules, &index.options()).unwrap();
        match tree.manifest().unwrap().get(Path::new("src/a.rs")).unwrap().kind {
            crabbox_tree::Kind::File { sha256, .. } => sha256,
            _ => panic!("a file"),
        }
    };
    assert_eq!(scan(false), then, "looks are believed");
    assert_eq!(scan(true), now, "bytes are read");
    assert_eq!(scan(false), now, "and remembered");
}

#[test]
fn large_files_are_cut_once_and_remembered() {
    let (repo, index) = known();
    let text: String = (0..400_000).map(|n| format!("{n}\n")).collect();
    repo.write("big", &text);
    for _ in 0..3 {
        index.scan(&repo);
    }
    let look = || crate::sync::look(repo.root(), &SyncRules::default(), &index.options()).unwrap();
    let hash = crabbox_tree::content_hash(text.as_bytes());
    let cut = crabbox_tree::cut(text.as_bytes(), true);
    assert_eq!(look().recipe(&hash).unwrap().chunks, cut);
    repo.rm("big");
    assert!(look().recipe(&hash).is_none());
}

#[test]
fn a_hint_saves_looks_only_when_it_speaks_of_this_index() {
    let (repo, index) = known();
    let at = |token, hint| ScanOptions { hint, token: Some(token), ..index.options() };
    let look = |options: &ScanOptions<'_>| {
        crate::sync::look(repo.root(), &SyncRules::default(), options).unwrap()
    };
    let first = look(&at("one", None));
    assert_eq!(first.token.as_deref(), Some("one"));
    repo.write("src/a.rs", "hidden");
    repo.write("docs/c.md", "told");
    repo.write("src/deep/new", "told by its directory");
    let hint = |token: &str, changed: &[&str]| Hint {
        token: token.to_owned(),
        changed: changed.iter().map(PathBuf::from).collect(),
    };
    let told = hint("one", &["docs/c.md", "src/deep"]);
    let second = look(&at("two", Some(&told)));
    let true_tree = tree(repo.root());
    let entry =
        |tree: &LocalTree, path: &str| tree.manifest().unwrap().get(Path::new(path)).cloned();
    for path in ["docs/c.md", "src/deep/new"] {
        assert_eq!(entry(&second, path), entry(&true_tree, path), "{path}");
    }
    assert_eq!(entry(&second, "src/a.rs"), entry(&first, "src/a.rs"), "nobody spoke of it");
    assert_eq!(second.token.as_deref(), Some("two"));
    // The first token is gone: what is said of it is not believed.
    let third = look(&at("three", Some(&hint("one", &[]))));
    assert_eq!(third.digest, true_tree.digest);
}

#[test]
fn a_hint_hides_nothing_that_it_cannot_tell() {
    let (repo, index) = known();
    let at = |token: &'static str| ScanOptions { token: Some(token), ..index.options() };
    let look = |options: &ScanOptions<'_>| {
        crate::sync::look(repo.root(), &SyncRules::default(), options).unwrap()
    };
    look(&at("0"));
    std::fs::hard_link(repo.at("src/a.rs"), repo.at("other")).unwrap();
    type Step<'a> = (&'a str, &'a [&'a str], &'a dyn Fn());
    let steps: &[Step<'_>] = &[
        ("a file gets a second name", &["other"], &|| ()),
        ("it changes by that", &["other"], &|| repo.write("other", "by its other name")),
        ("its mode changes by the first", &["src/a.rs"], &|| chmod(&repo.at("src/a.rs"), 0o755)),
        ("it gets a third name and changes by it", &["third"], &|| {
            std::fs::hard_link(repo.at("gone"), repo.at("third")).unwrap();
            repo.write("third", "also by the first");
        }),
        ("git alone is told of a file", &[], &|| repo.git(&["add", "-f", "target/left.out"])),
    ];
    let tokens = ["0", "1", "2", "3", "4", "5"];
    for ((what, changed, edit), tokens) in steps.iter().zip(tokens.windows(2)) {
        edit();
        let changed = changed.iter().map(PathBuf::from).collect();
        let hint = Hint { token: tokens[0].to_owned(), changed };
        let seen = look(&ScanOptions { hint: Some(&hint), ..at(tokens[1]) });
        assert_eq!(seen.digest, tree(repo.root()).digest, "{what}");
    }
}

/// One thing people do to a work tree.
#[derive(Debug, Clone)]
enum Edit {
    Write(PathBuf, u8),
    Stealth(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, &'static str),
    Mode(PathBuf),
    Folder(PathBuf),
    Ignore(PathBuf, Vec<&'static str>),
    Git(Vec<&'static str>),
    GitAt(&'static [&'static str], PathBuf),
    Nest(PathBuf),
}

fn path() -> impl Strategy<Value = PathBuf> {
    let part = prop::sample::select(vec![
        "a", "b", "A", "c d", "build", "x.log", "keep.log", "target", "z[1]", "é",
    ]);
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.iter().collect())
}

fn rules() -> impl Strategy<Value = Vec<&'static str>> {
    let lines = vec![
        "*.log",
        "!keep.log",
        "build",
        "build/",
        "/a",
        "a/b",
        "**/b",
        "a/**",
        "!a/b",
        "*",
        "!*/",
        "c\\ d",
        "c d ",
        "z\\[1\\]",
        "[ab]",
        "[!a]",
        "b/*",
        "!/b/a",
        "# talk",
        "\\#x",
        "é",
        "?",
        "!.gitignore",
        "/*",
        "!/a",
        "a/**/b",
        "x.log\r",
        "A/",
    ];
    prop::collection::vec(prop::sample::select(lines), 0..4)
}

fn edit() -> impl Strategy<Value = Edit> {
    let git = vec![
        vec!["add", "-A"],
        vec!["commit", "-q", "-m", "x", "--allow-empty"],
        vec!["commit", "-q", "-a", "-m", "x", "--allow-empty"],
        vec!["checkout", "-q", "-f", "one"],
        vec!["checkout", "-q", "-f", "main"],
        vec!["branch", "-f", "one"],
        vec!["stash", "-q"],
        vec!["stash", "-q", "-u"],
        vec!["stash", "pop", "-q"],
        vec!["reset", "-q", "--hard"],
        vec!["reset", "-q"],
        vec!["clean", "-q", "-f", "-d"],
        vec!["status"],
        vec!["update-index", "--index-version", "4"],
        vec!["pack-refs", "--all"],
        vec!["config", "core.excludesFile", "/dev/null"],
    ];
    let git_at = vec![
        ["add"].as_slice(),
        &["add", "-f"],
        &["add", "-N"],
        &["rm", "-q", "-r", "--cached"],
        &["rm", "-q", "-r", "-f"],
        &["update-index", "--skip-worktree"],
    ];
    // No link leads out: what is written through one stays in the repository.
    let target = prop::sample::select(vec!["a", "b", ".", "nowhere"]);
    let in_dir = prop_oneof![Just(PathBuf::new()), path(), Just(PathBuf::from(".git/info"))];
    prop_oneof![
        8 => (path(), any::<u8>()).prop_map(|(p, n)| Edit::Write(p, n)),
        2 => path().prop_map(Edit::Stealth),
        3 => path().prop_map(Edit::Remove),
        3 => (path(), path()).prop_map(|(a, b)| Edit::Rename(a, b)),
        2 => (path(), target).prop_map(|(p, t)| Edit::Link(p, t)),
        2 => path().prop_map(Edit::Mode),
        1 => path().prop_map(Edit::Folder),
        3 => (in_dir, rules()).prop_map(|(d, r)| Edit::Ignore(d, r)),
        6 => prop::sample::select(git).prop_map(Edit::Git),
        3 => (prop::sample::select(git_at), path()).prop_map(|(g, p)| Edit::GitAt(g, p)),
        1 => path().prop_map(Edit::Nest),
    ]
}

impl Edit {
    /// Does it, as far as that is possible here.
    fn apply(&self, repo: &Repo) {
        let at = |path: &Path| repo.at(path);
        let make_way = |path: &Path| {
            let _ = std::fs::remove_file(at(path));
            let _ = std::fs::create_dir_all(at(path).parent().unwrap());
        };
        match self {
            Self::Write(path, n) => {
                make_way(path);
                let _ = std::fs::write(at(path), n.to_string());
            }
            Self::Stealth(path) => stealth(&at(path)),
            Self::Remove(path) => {
                let _ = std::fs::remove_file(at(path));
                let _ = std::fs::remove_dir_all(at(path));
            }
            Self::Rename(from, to) => {
                let _ = std::fs::rename(at(from), at(to));
            }
            Self::Link(path, target) => {
                make_way(path);
                let _ = symlink(target, at(path));
            }
            Self::Mode(path) => {
                if at(path).symlink_metadata().is_ok_and(|facts| facts.is_file()) {
                    chmod(&at(path), 0o755);
                }
            }
            Self::Folder(path) => {
                let _ = std::fs::create_dir_all(at(path));
            }
            Self::Ignore(dir, rules) => {
                let name = if dir.starts_with(".git") { "exclude" } else { ".gitignore" };
                let _ = std::fs::write(at(&dir.join(name)), rules.join("\n"));
            }
            Self::Git(args) => try_git(repo.root(), args),
            Self::GitAt(args, path) => {
                try_git(repo.root(), &[*args, &[path.to_str().unwrap()]].concat());
            }
            Self::Nest(path) => {
                if at(path).is_dir() {
                    try_git(&at(path), &["init", "-q"]);
                }
            }
        }
    }
}

/// Changes a content, not its size and its time.
fn stealth(at: &Path) {
    let Ok(facts) = at.symlink_metadata() else { return };
    let Ok(content) = std::fs::read(at) else { return };
    if facts.is_file() && !content.is_empty() {
        let changed: Vec<u8> = content.iter().map(|b| b ^ 1).collect();
        std::fs::write(at, changed).unwrap();
        let times = FileTimes::new().set_modified(facts.modified().unwrap());
        File::options().write(true).open(at).unwrap().set_times(times).unwrap();
    }
}

/// What `git ls-files` names and the rules let through, as far as it stands there.
fn oracle(repo: &Repo) -> BTreeSet<PathBuf> {
    let excludes = Excludes::read(repo.root(), &SyncRules::default()).unwrap();
    let tracked: BTreeSet<PathBuf> = git_paths(repo, &["ls-files", "-z"]);
    let stands = |path: &PathBuf| {
        let real = |at: &Path| repo.at(at).symlink_metadata().is_ok_and(|facts| facts.is_dir());
        path.ancestors().skip(1).all(real)
            && repo.at(path).symlink_metadata().is_ok_and(|facts| !facts.is_dir())
    };
    git_paths(repo, &["ls-files", "-co", "--exclude-standard", "-z"])
        .into_iter()
        .filter(stands)
        .filter(|path| excludes.rule(path, false, tracked.contains(path)).is_none())
        .collect()
}

fn run_git(dir: &Path, args: &[&str]) -> std::process::Output {
    #[expect(clippy::disallowed_methods, reason = "real git is the oracle")]
    let mut git = std::process::Command::new("git");
    git.args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]);
    git.arg("-C").arg(dir).args(args).output().unwrap()
}

/// Lets git try; what it refuses stays as it is.
fn try_git(dir: &Path, args: &[&str]) {
    run_git(dir, args);
}

fn git_paths(repo: &Repo, args: &[&str]) -> BTreeSet<PathBuf> {
    let out = run_git(repo.root(), args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout.split(|b| *b == 0).filter(|n| !n.is_empty()).map(|n| name(n).to_owned()).collect()
}

/// Scans after every edit, with one index all along.
fn follow(edits: &[Edit]) -> Result<(), TestCaseError> {
    let (repo, index) = (Repo::new(), Index::new());
    index.scan(&repo);
    for (step, edit) in edits.iter().enumerate() {
        edit.apply(&repo);
        index.scan(&repo);
        let tree = tree(repo.root());
        let sent: BTreeSet<_> =
            tree.manifest().unwrap().entries().iter().map(|e| e.path.clone()).collect();
        prop_assert_eq!(sent, oracle(&repo), "after step {}", step);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::cases(40), max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_edits_an_index_says_what_git_says(edits in prop::collection::vec(edit(), 1..20)) {
        follow(&edits)?;
    }
}
