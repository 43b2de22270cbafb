//! What cannot be sent is refused with a reason and a way out, and nothing is lost.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use crabbox_schemas::error::ErrorCode;

use super::boxes::BARE;
use super::*;
use crate::ports::{Clock, Urgency};
use crate::sync::{guard, look};

#[test]
fn too_many_files_or_bytes_are_refused_unless_allowed() {
    let repo = Repo::new();
    repo.write("big", vec![0; 4096]);
    let rules =
        |files, bytes| SyncRules { fail_files: files, fail_bytes: bytes, ..SyncRules::default() };
    for rules in [rules(2, 1 << 20), rules(100, 4096)] {
        let error = scan(repo.root(), &rules).unwrap_err();
        assert_eq!((error.code, error.code.exit_status()), (ErrorCode::SyncGuard, 6));
        assert!(error.hint.as_ref().unwrap().contains("--force-sync-large"), "{error:?}");
        scan(repo.root(), &SyncRules { allow_large: true, ..rules }).unwrap();
    }
    let (_, lines) =
        scan(repo.root(), &SyncRules { warn_files: 1, ..SyncRules::default() }).unwrap();
    assert_eq!(lines, ["warning: the tree is large: 3 files (sync.warnFiles)"]);
}

#[test]
fn two_hundred_tracked_deletions_need_consent() {
    let repo = Repo::new();
    for n in 0..200 {
        repo.write(format!("f{n}"), n.to_string());
    }
    repo.commit();
    for n in 0..199 {
        repo.rm(&format!("f{n}"));
    }
    scan(repo.root(), &SyncRules::default()).unwrap();
    repo.rm("f199");
    let error = scan(repo.root(), &SyncRules::default()).unwrap_err();
    assert_eq!((error.code, error.stage), (ErrorCode::SyncGuard, Some("plan")));
    let allowed = SyncRules { allow_mass_deletions: true, ..SyncRules::default() };
    assert_eq!(
        scan(repo.root(), &allowed).unwrap().1,
        ["warning: 200 tracked files are deleted here"]
    );
}

#[test]
fn the_plan_names_what_is_large() {
    let repo = Repo::new();
    repo.write("a/b/big", vec![0; 3000]);
    repo.write("a/small", vec![0; 10]);
    let rules = SyncRules { fail_files: 1, ..SyncRules::default() };
    let tree = look(repo.root(), &rules, &ScanOptions::default()).unwrap();
    let view = guard::plan_view(&tree, &rules, 2).unwrap();
    let list = |l: &[crabbox_schemas::view::SizedPath]| {
        l.iter().map(|s| (s.path.clone(), s.bytes)).collect::<Vec<_>>()
    };
    assert_eq!((view.kind.as_str(), view.files), ("git", 4));
    assert_eq!(
        list(&view.largest_files),
        [("a/b/big".to_owned(), 3000), ("a/small".to_owned(), 10)]
    );
    assert_eq!(list(&view.largest_dirs), [("a".to_owned(), 3010), ("a/b".to_owned(), 3000)]);
    assert_eq!(view.warnings.len(), 1);
}

#[test]
fn a_broken_repository_is_not_taken_for_a_plain_directory() {
    let repo = Repo::new();
    put(&repo.at(".git/config"), "[core\n");
    let error = scan(repo.root(), &SyncRules::default()).unwrap_err();
    assert_eq!(error.code, ErrorCode::SyncRead);
    assert!(error.to_string().contains("bad config"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let repo = Repo::new();
    repo.write("locked", "x");
    chmod(&repo.at("locked"), 0);
    // Root reads everything, except its own memory from the start.
    let (root, file) = match std::fs::read(repo.at("locked")) {
        Err(_) => (repo.root(), "locked"),
        Ok(_) => (Path::new("/proc/self"), "mem"),
    };
    let error = crate::sync::manifest::read(root, vec![file.into()], &mut Vec::new()).unwrap_err();
    assert_eq!((error.code, error.message), (ErrorCode::SyncRead, format!("cannot read {file}")));
    assert!(error.hint.is_some() && !error.causes.is_empty());
}

#[test]
fn a_repository_of_another_user_is_refused_with_the_way_out() {
    let repo = Repo::new();
    let chown = std::os::unix::fs::chown(repo.root(), Some(12_345), None);
    match (chown, scan(repo.root(), &SyncRules::default())) {
        (Ok(()), Err(error)) => assert!(error.hint.unwrap().contains("safe.directory")),
        (Err(_), Ok(_)) => {} // Only root can give a directory away.
        other => panic!("{other:?}"),
    }
}

#[test]
fn sockets_and_pipes_stay_here_with_a_word() {
    let repo = Repo::new();
    let _socket = UnixListener::bind(repo.at("sock")).unwrap();
    #[expect(clippy::disallowed_methods, reason = "makes a named pipe")]
    std::process::Command::new("mkfifo").arg(repo.at("pipe")).status().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let _other = UnixListener::bind(dir.path().join("sock")).unwrap();
    assert_eq!(paths(&tree(repo.root())), [".gitignore", "README"]);
    assert_eq!(
        scan(dir.path(), &SyncRules::default()).unwrap().1,
        ["sock is a socket and stays here"]
    );
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_sent_arrives_as_it_is_now() {
    let repo = Repo::new();
    repo.write("moving", "old");
    repo.write("still", "still");
    let before = tree(repo.root());
    for text in ["new", "longer than before", ""] {
        let to = LocalBox::new();
        repo.write("moving", text);
        send_with(&to, &before, SyncRules::default()).await.unwrap();
        assert_eq!(std::fs::read(to.workdir().join("moving")).unwrap(), text.as_bytes());
        assert!(send(&to, repo.root()).await.skipped, "the stored manifest tells the truth");
    }
}

#[tokio::test]
async fn a_file_that_vanishes_while_it_is_sent_is_named() {
    let repo = Repo::new();
    repo.write("moving", "old");
    let before = tree(repo.root());
    repo.rm("moving");
    let to = LocalBox::new();
    let error = send_with(&to, &before, SyncRules::default()).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::SyncRead, "cannot read moving"));
    mirror(&to, repo.root()).await;
}

#[tokio::test]
async fn a_box_that_changes_what_it_was_sent_fails_the_check() {
    let repo = Repo::new();
    let mut to = LocalBox::new();
    let readme = to.workdir().join("README");
    to.before = Some(Box::new(move |_| {
        if readme.exists() {
            put(&readme, "spoiled");
        }
    }));
    let error = send_with(&to, &tree(repo.root()), SyncRules::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SyncVerify);
    assert!(error.message.ends_with(": README"), "{error}");
}

#[tokio::test]
async fn a_box_that_spoils_a_file_once_is_repaired_in_the_same_sync() {
    let repo = Repo::new();
    let mut to = LocalBox::new();
    let readme = to.workdir().join("README");
    let spoiled = std::cell::Cell::new(false);
    to.before = Some(Box::new(move |_| {
        if readme.exists() && !spoiled.replace(true) {
            put(&readme, "spoiled");
        }
    }));
    mirror(&to, repo.root()).await;
}

#[tokio::test]
async fn a_work_root_that_cannot_be_made_is_explained() {
    let (repo, to) = (Repo::new(), LocalBox::new());
    put(to.workdir().parent().unwrap().parent().unwrap(), "a file in the way");
    let error = send_with(&to, &tree(repo.root()), SyncRules::default()).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::SyncWrite, "the box could not prepare the work directory")
    );
    assert!(error.causes.iter().any(|c| c.contains("mkdir")), "{error:?}");
}

#[tokio::test]
async fn a_full_disk_is_explained_and_the_next_sync_finishes() {
    let repo = Repo::new();
    let mut to = LocalBox::new();
    repo.write("big", vec![1; 1 << 20]);
    // A limit on file size is the disk that fills up; the shell and tar meet it as they would meet the other.
    to.shell = vec![
        "sh".into(),
        "-c".into(),
        "trap '' XFSZ; ulimit -f 256; exec sh -c \"$2\"".into(),
        "sh".into(),
    ];
    let error = send_with(&to, &tree(repo.root()), SyncRules::default()).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::SyncWrite, "the box could not unpack the files")
    );
    assert!(error.hint.as_ref().is_some_and(|h| h.contains("space")), "{error:?}");
    assert!(
        !to.workdir().join("big").exists(),
        "half a file only takes the place of the next sync"
    );
    to.shell = vec!["sh".into()];
    mirror(&to, repo.root()).await;
}

#[tokio::test]
async fn a_box_without_tar_is_told_what_it_lacks() {
    let repo = Repo::new();
    let without: Vec<&str> = BARE.iter().copied().filter(|p| *p != "tar").collect();
    let to = LocalBox::with_only(&without);
    let error = send_with(&to, &tree(repo.root()), SyncRules::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SyncWrite);
    assert!(error.hint.as_ref().is_some_and(|h| h.contains("tar")), "{error:?}");
}

#[tokio::test]
async fn a_talkative_login_shell_does_no_harm() {
    let repo = Repo::new();
    odd(&repo);
    let talk = "echo welcome; echo crabbox; exec sh -c \"$2\"";
    for mut to in [LocalBox::new(), LocalBox::with_only(BARE)] {
        to.shell = vec!["sh".into(), "-c".into(), talk.into(), "sh".into()];
        mirror(&to, repo.root()).await;
    }
}

#[tokio::test]
async fn a_sync_stops_when_the_user_says_so() {
    let (repo, to) = (Repo::new(), LocalBox::new());
    let (wish, stop) = Stop::new();
    wish.send(Urgency::Gentle).unwrap();
    let spec = PushSpec {
        workdir: to.workdir().to_str().unwrap().to_owned(),
        rules: SyncRules::default(),
    };
    let error =
        push(&to, &tree(repo.root()), &spec, &mut Vec::new(), &stop, &Still).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Cancelled);
    mirror(&to, repo.root()).await;
}

/// Time that is always over.
struct Over;

impl Clock for Over {
    fn now_ms(&self) -> u64 {
        0
    }

    fn monotonic_ms(&self) -> u64 {
        0
    }

    async fn sleep(&self, _: Duration) {}
}

#[tokio::test]
async fn a_sync_stops_when_its_time_is_over() {
    let (repo, to) = (Repo::new(), LocalBox::new());
    let spec = PushSpec {
        workdir: to.workdir().to_str().unwrap().to_owned(),
        rules: SyncRules::default(),
    };
    let error = push(&to, &tree(repo.root()), &spec, &mut Vec::new(), &Stop::never(), &Over)
        .await
        .unwrap_err();
    assert!(error.message.contains("not finished after 15m0s"), "{error}");
}
