//! The tree on the box becomes a git checkout that knows what changed; the box asks nobody else.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its part of the fakes")]
mod fakes;

use std::path::Path;

use crabbox_kernel::run::process::capture;
use crabbox_kernel::sync::commits::Commits;
use crabbox_schemas::error::ErrorCode;
use fakes::shell::Shell;

fn git(dir: &Path, args: &[&str]) -> String {
    #[expect(clippy::disallowed_methods, reason = "the repositories of these tests are real")]
    let out = std::process::Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn commit(dir: &Path, file: &str, text: &str) {
    std::fs::write(dir.join(file), text).unwrap();
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-q", "-m", file]);
}

/// Five commits on main, two on a branch that left it two commits ago.
fn repository(dir: &Path) {
    git(dir, &["init", "-q", "-b", "main"]);
    (0..5).for_each(|n| commit(dir, &format!("f{n}"), "main"));
    git(dir, &["update-ref", "refs/remotes/origin/main", "HEAD"]);
    git(dir, &["checkout", "-q", "-b", "topic", "HEAD~2"]);
    commit(dir, "f0", "changed on the branch");
    commit(dir, "new", "added on the branch");
}

async fn on_box(shell: &Shell, command: &str) -> String {
    let got = capture(shell, command, bytes::Bytes::new()).await.unwrap();
    assert_eq!(got.code, 0, "{}", String::from_utf8_lossy(&got.stderr));
    String::from_utf8_lossy(&got.stdout).trim().to_owned()
}

#[tokio::test]
async fn the_box_can_ask_what_changed_and_what_it_knows_is_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo");
    std::fs::create_dir(&repo).unwrap();
    repository(&repo);
    let shell = Shell::new(dir.path().join("box"));
    let workdir = dir.path().join("box/it's a tree");
    let stamp = dir.path().join("state/stamp");
    let commits = Commits::look(&repo, "main").unwrap();
    assert_eq!((commits.branch.as_deref(), commits.edge.len()), (Some("topic"), 1));

    // The sync brings the files; here they are copied, with one of them changed since the last commit.
    std::fs::create_dir_all(&workdir).unwrap();
    for file in ["f0", "f1", "f2", "new"] {
        std::fs::copy(repo.join(file), workdir.join(file)).unwrap();
    }
    std::fs::write(workdir.join("f1"), "not committed").unwrap();
    let there = workdir.to_str().unwrap();
    assert!(commits.send(&shell, &repo, there, &stamp).await.unwrap());

    let cd = "cd \"$HOME/it's a tree\" && ";
    let changed = on_box(&shell, &format!("{cd}git diff --name-only origin/main...HEAD")).await;
    assert_eq!(changed, "f0\nnew");
    assert_eq!(on_box(&shell, &format!("{cd}git status --porcelain")).await, "M f1");
    assert_eq!(
        on_box(&shell, &format!("{cd}git rev-parse HEAD main")).await,
        format!("{}\n{}", commits.head, commits.base)
    );
    assert_eq!(on_box(&shell, &format!("{cd}git branch --show-current")).await, "topic");
    assert_eq!(
        on_box(&shell, &format!("{cd}git fsck --no-dangling && git rev-list --count main")).await,
        "3"
    );

    let before = shell.started.borrow().len();
    assert!(!commits.send(&shell, &repo, there, &stamp).await.unwrap());
    assert_eq!(shell.started.borrow().len(), before, "what is known costs nothing");
    commit(&repo, "newer", "one more");
    let commits = Commits::look(&repo, "main").unwrap();
    assert!(commits.send(&shell, &repo, there, &stamp).await.unwrap());
    assert_eq!(on_box(&shell, &format!("{cd}git rev-parse HEAD")).await, commits.head);
}

#[tokio::test]
async fn a_checkout_of_somebody_elses_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (repo, theirs) = (dir.path().join("repo"), dir.path().join("box/tree"));
    std::fs::create_dir_all(&repo).unwrap();
    std::fs::create_dir_all(&theirs).unwrap();
    repository(&repo);
    git(&theirs, &["init", "-q"]);
    let shell = Shell::new(dir.path().join("box"));
    let commits = Commits::look(&repo, "origin/main").unwrap();
    let error = commits
        .send(&shell, &repo, theirs.to_str().unwrap(), &dir.path().join("stamp"))
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::SyncWrite);
    assert!(error.message.contains("somebody else"), "{error}");
}

#[test]
fn an_unknown_base_says_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    repository(dir.path());
    let error = Commits::look(dir.path(), "nowhere").unwrap_err();
    assert!(error.message.contains("nowhere") && error.hint.unwrap().contains("git fetch origin"));
    assert!(Commits::look(dir.path(), "--upload-pack=x").is_err());
    git(dir.path(), &["tag", "v1", "HEAD~1"]);
    assert_eq!(Commits::look(dir.path(), "v1").unwrap().base_branch, None);
}
