//! A look at only what the watcher names finds what a look at everything finds, whatever happens meanwhile.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a step that cannot be made fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crabbox_daemon::Watcher;
use proptest::prelude::*;

type Facts = (u32, u64, Vec<u8>);

/// What a scan remembers: every path, its mode, inode and content.
#[derive(Default, Debug, PartialEq)]
struct Tree(BTreeMap<PathBuf, Facts>);

impl Tree {
    fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        tree.look(root, Path::new(""));
        tree
    }

    /// Looks at one path again, and at all below it.
    fn look(&mut self, root: &Path, path: &Path) {
        self.0.retain(|known, _| !known.starts_with(path));
        let at = root.join(path);
        let Ok(facts) = at.symlink_metadata() else { return };
        let content = match facts.file_type() {
            kind if kind.is_file() => fs::read(&at).unwrap_or_default(),
            kind if kind.is_symlink() => {
                fs::read_link(&at).unwrap_or_default().into_os_string().into_encoded_bytes()
            }
            _ => Vec::new(),
        };
        self.0.insert(path.to_owned(), (facts.mode(), facts.ino(), content));
        if facts.is_dir() {
            for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
                self.look(root, &path.join(entry.file_name()));
            }
        }
    }
}

fn begin(root: &Path) -> Watcher {
    Watcher::begin(root, &[]).unwrap()
}

/// One thing that happens to a tree. What is not possible does not happen.
#[derive(Debug, Clone)]
enum Edit {
    Write(PathBuf, u8),
    Append(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Folder(PathBuf),
    Mode(PathBuf),
    Link(PathBuf),
    Outside(PathBuf),
}

impl Edit {
    fn make(&self, root: &Path, outside: &Path) {
        let at = |path: &PathBuf| root.join(path);
        let _ = match self {
            Self::Write(path, byte) => fs::write(at(path), vec![*byte; usize::from(*byte)]),
            Self::Append(path) => fs::OpenOptions::new()
                .append(true)
                .open(at(path))
                .and_then(|mut file| std::io::Write::write_all(&mut file, b"more")),
            Self::Remove(path) if at(path).is_dir() => fs::remove_dir_all(at(path)),
            Self::Remove(path) => fs::remove_file(at(path)),
            Self::Rename(from, to) => fs::rename(at(from), at(to)),
            Self::Folder(path) => fs::create_dir_all(at(path)),
            Self::Mode(path) => fs::metadata(at(path)).and_then(|facts| {
                let mode = facts.mode() ^ 0o010;
                fs::set_permissions(at(path), fs::Permissions::from_mode(mode))
            }),
            Self::Link(path) => symlink("elsewhere", at(path)),
            // A folder with something in it comes in from outside, or goes out.
            Self::Outside(path) if at(path).exists() => {
                let _ = fs::remove_dir_all(outside.join("gone"));
                fs::rename(at(path), outside.join("gone"))
            }
            Self::Outside(path) => fs::create_dir_all(outside.join("new/deep"))
                .and_then(|()| fs::write(outside.join("new/deep/file"), "new"))
                .and_then(|()| fs::rename(outside.join("new"), at(path))),
        };
    }
}

fn path() -> impl Strategy<Value = PathBuf> {
    let part = prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.iter().collect())
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => (path(), any::<u8>()).prop_map(|(path, byte)| Edit::Write(path, byte)),
        1 => path().prop_map(Edit::Append),
        2 => path().prop_map(Edit::Remove),
        3 => (path(), path()).prop_map(|(from, to)| Edit::Rename(from, to)),
        3 => path().prop_map(Edit::Folder),
        1 => path().prop_map(Edit::Mode),
        1 => path().prop_map(Edit::Link),
        1 => path().prop_map(Edit::Outside),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_told_is_all_that_changed(rounds in prop::collection::vec(prop::collection::vec(edit(), 0..12), 1..6)) {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        let mut watcher = begin(root);
        let mut token = watcher.token().unwrap();
        let mut tree = Tree::read(root);
        for edits in rounds {
            edits.iter().for_each(|edit| edit.make(root, outside.path()));
            let next = watcher.token().unwrap();
            let told = watcher.since(&token).unwrap();
            prop_assert!(!edits.is_empty() || told.is_empty(), "{told:?}");
            told.iter().for_each(|path| tree.look(root, path));
            prop_assert_eq!(&tree, &Tree::read(root));
            token = next;
        }
    }

    #[test]
    fn nothing_is_missed_while_it_happens(edits in prop::collection::vec(edit(), 50..400)) {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path();
        let mut watcher = begin(root);
        let mut token = watcher.token().unwrap();
        let mut tree = Tree::read(root);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                edits.iter().for_each(|edit| edit.make(root, outside.path()));
                done.store(true, Ordering::SeqCst);
            });
            let mut last = false;
            while !last {
                last = done.load(Ordering::SeqCst);
                let next = watcher.token().unwrap();
                watcher.since(&token).unwrap().iter().for_each(|path| tree.look(root, path));
                token = next;
            }
        });
        prop_assert_eq!(&tree, &Tree::read(root));
    }
}

#[test]
fn a_token_stays_good_while_others_are_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut watcher = begin(dir.path());
    let first = watcher.token().unwrap();
    fs::write(dir.path().join("one"), "").unwrap();
    let second = watcher.token().unwrap();
    fs::write(dir.path().join("two"), "").unwrap();
    let third = watcher.token().unwrap();
    let told = |token: &str| watcher.since(token).unwrap();
    assert_eq!(told(&first), [PathBuf::from("one"), "two".into()]);
    assert_eq!(told(&second), [PathBuf::from("two")]);
    assert_eq!(told(&third), [] as [PathBuf; 0]);
    assert_eq!(watcher.since(&format!("{first}x")), None);
    assert_eq!(watcher.since("another.1"), None);
}

#[test]
fn more_than_can_be_told_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut watcher = begin(dir.path());
    let before = watcher.token().unwrap();
    for n in 0..20_010 {
        fs::write(dir.path().join(n.to_string()), "").unwrap();
        if n % 2000 == 0 {
            watcher.catch_up();
        }
    }
    let after = watcher.token();
    assert_eq!(watcher.since(&before), None);
    let after = after.expect("the queue did not run over");
    assert_eq!(watcher.since(&after), Some(Vec::new()));
}

#[test]
fn a_queue_that_ran_over_is_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut watcher = begin(dir.path());
    let before = watcher.token().unwrap();
    let most: u32 = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    for n in 0..most {
        fs::write(dir.path().join((n % 2).to_string()), "").unwrap();
    }
    assert_eq!(watcher.token(), None);
    assert_eq!(watcher.since(&before), None);
}

#[test]
fn a_root_that_goes_away_is_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let mut watcher = begin(&root);
    fs::rename(&root, dir.path().join("other")).unwrap();
    assert_eq!(watcher.token(), None);
}

#[test]
fn folders_that_are_not_looked_into_count_as_changed_and_gits_own_do_not() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["a/target/debug", "a/src", ".git/objects"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    let mut watcher = Watcher::begin(dir.path(), &["target"]).unwrap();
    let token = watcher.token().unwrap();
    fs::write(dir.path().join(".git/objects/x"), "").unwrap();
    fs::write(dir.path().join("a/target/debug/x"), "").unwrap();
    assert!(watcher.token().is_some());
    assert_eq!(watcher.since(&token), Some(vec![PathBuf::from("a/target")]));
    assert_eq!(watcher.folders(), 4, "the top, two below it, and .git");
}

#[test]
fn the_index_of_a_linked_work_tree_is_seen_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (own, tree) = (dir.path().join("main/.git/worktrees/tree"), dir.path().join("tree"));
    fs::create_dir_all(&own).unwrap();
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join(".git"), "gitdir: ../main/.git/worktrees/tree\n").unwrap();
    let mut watcher = Watcher::begin(&tree, &[]).unwrap();
    let token = watcher.token().unwrap();
    fs::write(own.join("HEAD"), "").unwrap();
    assert!(!watcher.catch_up());
    fs::write(own.join("index"), "").unwrap();
    assert!(watcher.catch_up());
    assert!(watcher.token().is_some());
    assert_eq!(watcher.since(&token), Some(vec![]), "nothing in the tree has changed");
}

#[test]
fn a_file_system_that_keeps_changes_to_itself_is_refused() {
    assert!(Watcher::begin(Path::new("/proc/self"), &[]).is_err());
}

#[tokio::test]
async fn a_change_wakes_whoever_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mut watcher = begin(dir.path());
    let news = watcher.news();
    fs::write(dir.path().join("x"), "").unwrap();
    news.await.unwrap();
    assert!(watcher.catch_up());
}
