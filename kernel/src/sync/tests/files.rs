//! Which files are sent, and that they arrive.

use super::boxes::BARE;
use super::*;
use crate::sync::archive::{Packing, tar_file};

#[tokio::test]
async fn every_odd_entry_arrives() {
    let repo = Repo::new();
    odd(&repo);
    repo.commit();
    let pushed = mirror(&LocalBox::new(), repo.root()).await;
    assert_eq!((pushed.skipped, pushed.sent_files), (false, tree(repo.root()).files()));
}

#[tokio::test]
async fn a_box_with_only_sh_and_tar_is_enough() {
    let repo = Repo::new();
    odd(&repo);
    let to = LocalBox::with_only(BARE);
    mirror(&to, repo.root()).await;
    put(&to.workdir().join("big"), "drift");
    chmod(&to.workdir().join("README"), 0o755);
    assert_eq!(mirror(&to, repo.root()).await.drifted, 2);
}

#[tokio::test]
async fn hard_links_on_a_box_without_hash_tools_are_read_right() {
    let repo = Repo::new();
    repo.write("a", "same");
    repo.write("b", "same");
    let to = LocalBox::with_only(BARE);
    mirror(&to, repo.root()).await;
    std::fs::remove_file(to.workdir().join("b")).unwrap();
    std::fs::hard_link(to.workdir().join("a"), to.workdir().join("b")).unwrap();
    assert!(send(&to, repo.root()).await.skipped);
}

#[tokio::test]
async fn only_what_changed_is_sent() {
    let (repo, to) = (Repo::new(), LocalBox::new());
    repo.write("a", "1");
    repo.write("b", "1");
    repo.commit();
    mirror(&to, repo.root()).await;
    repo.write("a", "2");
    repo.rm("b");
    repo.write("new", "untracked");
    repo.write("ignored.txt", "stays");
    let pushed = mirror(&to, repo.root()).await;
    assert_eq!(
        (pushed.sent_files, pushed.sent_bytes, pushed.deleted, pushed.drifted),
        (2, 10, 1, 0)
    );
    assert_eq!(on_box(&to), [".gitignore", "README", "a", "new"]);
    chmod(&repo.at("a"), 0o755);
    assert_eq!(mirror(&to, repo.root()).await.sent_files, 1);
}

#[tokio::test]
async fn what_the_command_built_stays() {
    let (repo, to) = (Repo::new(), LocalBox::new());
    repo.write("src/gone.c", "");
    repo.write("only/gone.c", "");
    mirror(&to, repo.root()).await;
    put(&to.workdir().join("src/built.o"), "output");
    put(&to.workdir().join("target/x"), "output");
    std::fs::remove_dir_all(repo.at("src")).unwrap();
    std::fs::remove_dir_all(repo.at("only")).unwrap();
    assert_eq!(send(&to, repo.root()).await.deleted, 2);
    assert_eq!(on_box(&to), [".gitignore", "README", "src/built.o", "target/x"]);
    assert!(!to.workdir().join("only").exists(), "a directory emptied by us is removed");
}

#[tokio::test]
async fn without_delete_nothing_is_deleted_until_asked() {
    let (repo, to) = (Repo::new(), LocalBox::new());
    repo.write("a", "");
    mirror(&to, repo.root()).await;
    repo.rm("a");
    let keep = SyncRules { delete: false, ..SyncRules::default() };
    assert!(send_with(&to, &tree(repo.root()), keep).await.unwrap().skipped);
    assert!(to.workdir().join("a").exists());
    assert_eq!(mirror(&to, repo.root()).await.deleted, 1);
}

#[tokio::test]
async fn kinds_change_into_each_other() {
    let (repo, to) = (Repo::new(), LocalBox::new());
    let set = |kind: usize| {
        let at = repo.at("x");
        let _ = std::fs::remove_file(&at);
        let _ = std::fs::remove_dir_all(&at);
        match kind {
            0 => put(&at, "file"),
            1 => put(&at.join("in/side"), "dir"),
            2 => symlink("README", &at).unwrap(),
            3 => symlink(".", &at).unwrap(),
            _ => {}
        }
    };
    for from in 0..5 {
        for into in 0..5 {
            set(from);
            send(&to, repo.root()).await;
            set(into);
            send(&to, repo.root()).await;
            assert_eq!(
                digest_of(&to.workdir()).unwrap(),
                tree(repo.root()).manifest().unwrap().digest(),
                "{from} {into}"
            );
        }
    }
}

#[tokio::test]
async fn names_may_change_only_their_case() {
    let (repo, to) = (Repo::new(), LocalBox::new());
    repo.write("Dir/One", "1");
    repo.commit();
    mirror(&to, repo.root()).await;
    repo.git(&["mv", "README", "readme"]);
    repo.git(&["mv", "Dir", "tmp"]);
    repo.git(&["mv", "tmp", "dir"]);
    let pushed = mirror(&to, repo.root()).await;
    assert_eq!((pushed.sent_files, pushed.deleted), (2, 2));
    assert_eq!(on_box(&to), [".gitignore", "dir/One", "readme"]);
}

#[tokio::test]
async fn a_kept_name_is_sent_again_when_its_twin_in_another_case_goes() {
    let (repo, to) = (Repo::new(), LocalBox::new());
    repo.write("name", "same");
    repo.write("NAME", "same");
    mirror(&to, repo.root()).await;
    repo.rm("NAME");
    assert_eq!(mirror(&to, repo.root()).await.sent_files, 1);
}

#[test]
fn defaults_leave_out_untracked_files_only_and_say_so() {
    let repo = Repo::new();
    repo.write("dist/tracked.js", "");
    repo.commit();
    repo.write("dist/untracked.js", "");
    repo.write("node_modules/x/y", "");
    repo.write("node_modules/x/z", "");
    let (tree, lines) = scan(repo.root(), &SyncRules::default()).unwrap();
    assert_eq!(paths(&tree), [".gitignore", "README", "dist/tracked.js"]);
    assert_eq!(lines, ["left out: 3 by built-in defaults"]);
}

#[test]
fn the_users_excludes_reach_tracked_files_and_are_counted() {
    let repo = Repo::new();
    repo.write("data/big", "");
    repo.write("a.log", "");
    repo.write(".crabboxignore", "*.log\n");
    repo.commit();
    let rules = SyncRules { exclude: vec!["/data".to_owned()], ..SyncRules::default() };
    let (tree, lines) = scan(repo.root(), &rules).unwrap();
    assert_eq!(paths(&tree), [".crabboxignore", ".gitignore", "README"]);
    assert_eq!(
        lines,
        ["left out: 1 by sync.exclude, 1 by .crabboxignore; 2 of them tracked by git"]
    );
}

#[test]
fn includes_bring_ignored_and_default_excluded_paths_back() {
    let repo = Repo::new();
    repo.write("ignored/wanted/a", "");
    repo.write("ignored/other", "");
    repo.write("target/keep/b", "");
    repo.write("target/c", "");
    let include = vec!["ignored/wanted".to_owned(), "target/keep/".to_owned()];
    let tree = scan(repo.root(), &SyncRules { include, ..SyncRules::default() }).unwrap().0;
    assert_eq!(paths(&tree), [".gitignore", "README", "ignored/wanted/a", "target/keep/b"]);
}

#[tokio::test]
async fn a_plain_directory_is_sent_without_what_is_excluded() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    put(&at("a/b"), "1");
    put(&at("node_modules/x"), "");
    put(&at("node_modules/keep/y"), "");
    put(&at("secret.key"), "");
    put(&at(".git-like"), "");
    put(&at(".crabboxignore"), "*.key\n");
    symlink("a", at("link")).unwrap();
    let (tree, lines) = scan(dir.path(), &SyncRules::default()).unwrap();
    assert_eq!(tree.kind, crate::sync::TreeKind::Directory);
    assert_eq!(paths(&tree), [".crabboxignore", ".git-like", "a/b", "link"]);
    assert_eq!(lines, ["left out: 1 by built-in defaults, 1 by .crabboxignore"]);
    mirror(&LocalBox::new(), dir.path()).await;
    let include = vec!["node_modules/keep".to_owned()];
    let tree = scan(dir.path(), &SyncRules { include, ..SyncRules::default() }).unwrap().0;
    assert!(paths(&tree).contains(&"node_modules/keep/y".to_owned()));
    assert!(!paths(&tree).contains(&"node_modules/x".to_owned()));
}

#[tokio::test]
async fn every_state_of_a_work_tree_is_understood() {
    let empty = Repo::unborn();
    let to = LocalBox::new();
    mirror(&to, empty.root()).await;
    assert_eq!(on_box(&to), [""; 0]);
    empty.write("first", "1");
    empty.git(&["add", "first"]);
    mirror(&to, empty.root()).await;

    let repo = Repo::new();
    repo.git(&["checkout", "-q", "--detach"]);
    repo.write("a/b/c", "1");
    repo.commit();
    assert_eq!(paths(&tree(repo.root())), [".gitignore", "README", "a/b/c"]);
    assert_eq!(tree(&repo.at("a/b")).root, std::fs::canonicalize(repo.root()).unwrap());

    let other = tempfile::tempdir().unwrap();
    let linked = other.path().join("linked");
    repo.git(&["worktree", "add", "-q", linked.to_str().unwrap()]);
    put(&linked.join("only here"), "");
    assert_eq!(paths(&tree(&linked)), [".gitignore", "README", "a/b/c", "only here"]);
}

#[test]
fn sparse_paths_are_absent_and_not_deletions() {
    let repo = Repo::new();
    repo.write("in/a", "");
    repo.write("out/b", "");
    repo.commit();
    repo.git(&["sparse-checkout", "set", "--no-cone", "in", "README"]);
    let tree = tree(repo.root());
    assert_eq!(paths(&tree), ["README", "in/a"]);
    assert_eq!(tree.tracked_deletions, 0);
}

#[test]
fn files_of_checked_out_submodules_are_sent_and_others_are_not() {
    let (lib, repo) = (Repo::new(), Repo::new());
    lib.write("lib.c", "");
    lib.commit();
    let url = lib.root().to_str().unwrap();
    repo.git(&["submodule", "add", "-q", url, "vendor/lib"]);
    repo.git(&["submodule", "add", "-q", url, "vendor/absent"]);
    repo.commit();
    repo.git(&["submodule", "deinit", "-q", "-f", "vendor/absent"]);
    repo.write("vendor/lib/dirty", "");
    repo.write("vendor/lib/ignored.x", "");
    let names = paths(&tree(repo.root()));
    let inside: Vec<_> = names.iter().filter(|p| p.starts_with("vendor")).collect();
    assert_eq!(
        inside,
        ["vendor/lib/.gitignore", "vendor/lib/README", "vendor/lib/dirty", "vendor/lib/lib.c"]
    );
}

#[test]
fn a_nested_repository_stays_here_unless_included() {
    let repo = Repo::new();
    repo.write("nested/file", "");
    git_in(&repo.at("nested"), &["init", "-q"]);
    let (tree, lines) = scan(repo.root(), &SyncRules::default()).unwrap();
    assert_eq!(paths(&tree), [".gitignore", "README"]);
    assert_eq!(lines, ["left out: 1 nested repositories"]);
    let include = vec!["nested".to_owned()];
    let tree = scan(repo.root(), &SyncRules { include, ..SyncRules::default() }).unwrap().0;
    assert_eq!(paths(&tree), [".gitignore", "README", "nested/file"]);
}

#[test]
fn deletions_are_counted_once_however_they_were_made() {
    let repo = Repo::new();
    for path in ["a", "b", "c", "d"] {
        repo.write(path, path);
    }
    repo.commit();
    repo.rm("a");
    repo.git(&["rm", "-q", "b"]);
    repo.git(&["rm", "-q", "--cached", "c"]);
    repo.git(&["mv", "d", "e"]);
    assert_eq!(tree(repo.root()).tracked_deletions, 2);
}

#[test]
fn a_merge_conflict_is_sent_as_it_stands() {
    let repo = Repo::new();
    repo.git(&["checkout", "-q", "-b", "other"]);
    repo.write("README", "theirs\n");
    repo.commit();
    repo.git(&["checkout", "-q", "main"]);
    repo.write("README", "ours\n");
    repo.commit();
    #[expect(clippy::disallowed_methods, reason = "this merge must fail")]
    let merge = std::process::Command::new("git")
        .arg("-C")
        .arg(repo.root())
        .args(["merge", "-q", "other"])
        .output();
    assert!(!merge.unwrap().status.success());
    assert_eq!(paths(&tree(repo.root())), [".gitignore", "README"]);
}

#[test]
fn a_link_in_place_of_a_tracked_directory_is_sent_as_a_link() {
    let repo = Repo::new();
    repo.write("dir/a", "");
    repo.commit();
    let away = tempfile::tempdir().unwrap();
    put(&away.path().join("a"), "not ours");
    std::fs::remove_dir_all(repo.at("dir")).unwrap();
    symlink(away.path(), repo.at("dir")).unwrap();
    let tree = tree(repo.root());
    assert_eq!(paths(&tree), [".gitignore", "README", "dir"]);
    assert!(matches!(
        tree.manifest().unwrap().get(Path::new("dir")).unwrap().kind,
        Kind::Symlink { .. }
    ));
}

#[test]
fn the_whole_tree_fits_in_one_tar_file() {
    let repo = Repo::new();
    odd(&repo);
    let tree = tree(repo.root());
    for packing in [Packing::Plain, Packing::Gzip] {
        let (file, exact) = tar_file(&tree, packing).unwrap();
        let into = tempfile::tempdir().unwrap();
        let file = file.reopen().unwrap();
        match packing {
            Packing::Plain => tar::Archive::new(file).unpack(into.path()),
            Packing::Gzip => {
                tar::Archive::new(flate2::read::GzDecoder::new(file)).unpack(into.path())
            }
        }
        .unwrap();
        assert!(exact);
        assert_eq!(digest_of(into.path()).unwrap(), tree.manifest().unwrap().digest());
    }
}

#[test]
fn a_manifest_survives_its_text_form_and_nothing_less_than_all_of_it() {
    let repo = Repo::new();
    odd(&repo);
    let manifest = tree(repo.root()).manifest().unwrap().clone();
    let text = manifest.to_text();
    assert_eq!(Manifest::from_text(&text), Some(manifest));
    for cut in [0, 1, text.len() / 2, text.len() - 1] {
        assert_eq!(Manifest::from_text(&text[..cut]), None);
    }
    let evil = |path: &str| {
        let entry = crate::sync::manifest::Entry {
            path: path.into(),
            kind: Kind::Symlink { target: "x".into() },
        };
        Manifest::new(vec![entry]).is_err()
    };
    assert!(
        ["/etc/passwd", "../up", "a/../../b", "./a", "a//b", "", ".", "a/"].into_iter().all(evil)
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_that_is_swapped_for_a_link_or_a_pipe_is_neither_followed_nor_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let [file, link, pipe] = ["file", "link", "pipe"].map(|name| dir.path().join(name));
    put(&file, "secret");
    symlink(&file, &link).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, 0o600.into(), 0).unwrap();
    // As if each had been a file a moment ago.
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let open = |at: &Path| crate::sync::manifest::open(at, Path::new("name"));
        let opened = [&file, &link, &pipe].map(|at| open(at).map(drop).map_err(|e| e.to_string()));
        tell.send(opened).unwrap();
    });
    let opened =
        told.recv_timeout(std::time::Duration::from_secs(20)).expect("it waits for nobody");
    let changing = Err("name keeps changing while it is read".to_owned());
    assert_eq!(opened, [Ok(()), changing.clone(), changing]);
}
