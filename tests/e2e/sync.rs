//! What is sent: the box's tree is the checkout, whatever is in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crabbox_tests::{Room, tree};

use crate::local::warm;

/// Every path the box has, one a line, sorted; the box's own bookkeeping left out.
fn listing(room: &Room, repo: &Path, slug: &str) -> String {
    let script =
        "find . -name .crabbox -prune -o -name .git -prune -o ! -type d -print | LC_ALL=C sort";
    room.crabbox(repo, ["run", "--id", slug, "--", "sh", "-c", script]).ok().out()
}

/// Runs the digest of the whole tree here and on the box.
fn assert_equal_digest(room: &Room, repo: &Path, slug: &str) {
    let script = "find . -name .crabbox -prune -o -name .git -prune -o -type f -exec cksum {} + | LC_ALL=C sort | cksum";
    let here = room.call("sh").dir(repo).args(["-c", script]).ok().out();
    let there = room.crabbox(repo, ["run", "--id", slug, "--", "sh", "-c", script]).ok().out();
    assert_eq!(here, there);
}

#[test]
fn every_odd_name_and_kind_of_file_arrives_on_a_local_box() {
    let room = Room::new();
    let repo = room.repo("app");
    tree::write_odd(&repo, 200);
    room.commit(&repo);
    fs::write(repo.join("odd/untracked one"), "x").unwrap();
    let slug = warm(&room, &repo);
    assert_equal_digest(&room, &repo, &slug);
    let script = "test -x 'odd/run me.sh' && ! test -x odd/empty && readlink odd/link odd/dangling";
    let ended = room.crabbox(&repo, ["run", "--id", &slug, "--", "sh", "-c", script]).ok();
    assert_eq!(ended.out(), "empty\n/nowhere/at all\n");
}

#[test]
fn edits_deletions_renames_modes_and_kinds_follow() {
    let room = Room::new();
    let repo = room.repo("app");
    for name in ["stays", "goes", "moves", "Case", "mode", "file-to-link", "file-to-folder"] {
        fs::write(repo.join(name), name).unwrap();
    }
    fs::create_dir(repo.join("folder")).unwrap();
    fs::write(repo.join("folder/inside"), "x").unwrap();
    room.commit(&repo);
    let slug = warm(&room, &repo);
    assert_equal_digest(&room, &repo, &slug);

    fs::remove_file(repo.join("goes")).unwrap();
    fs::rename(repo.join("moves"), repo.join("moved")).unwrap();
    fs::rename(repo.join("Case"), repo.join("case")).unwrap();
    fs::set_permissions(repo.join("mode"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(repo.join("file-to-link")).unwrap();
    symlink("stays", repo.join("file-to-link")).unwrap();
    fs::remove_file(repo.join("file-to-folder")).unwrap();
    fs::create_dir(repo.join("file-to-folder")).unwrap();
    fs::write(repo.join("file-to-folder/f"), "in").unwrap();
    fs::remove_dir_all(repo.join("folder")).unwrap();
    fs::write(repo.join("folder"), "a file now").unwrap();
    assert_equal_digest(&room, &repo, &slug);
    assert_eq!(
        listing(&room, &repo, &slug),
        "./case\n./file-to-folder/f\n./file-to-link\n./folder\n./hello.txt\n./mode\n./moved\n./stays\n"
    );
    let script = "test -x mode && readlink file-to-link";
    assert_eq!(
        room.crabbox(&repo, ["run", "--id", &slug, "--", "sh", "-c", script]).ok().out(),
        "stays\n"
    );
}

#[test]
fn drift_on_the_box_is_seen_and_repaired() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join("other.txt"), "other\n").unwrap();
    let slug = warm(&room, &repo);
    let spoil = "echo spoiled >hello.txt; rm other.txt; echo build >made-by-a-build";
    let _ = room.crabbox(&repo, ["run", "--id", &slug, "--", "sh", "-c", spoil]).ok();
    let ended = room
        .crabbox(
            &repo,
            ["run", "--id", &slug, "--", "sh", "-c", "cat hello.txt other.txt made-by-a-build"],
        )
        .ok();
    assert_eq!(
        ended.out(),
        "hello\nother\nbuild\n",
        "what was sent is repaired, what a build made stays\n{ended}"
    );
}

#[test]
fn ignored_files_stay_here_and_tracked_ones_always_go() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join(".gitignore"), "*.log\n").unwrap();
    fs::write(repo.join("a.log"), "ignored").unwrap();
    for folder in ["target", "node_modules"] {
        fs::create_dir(repo.join(folder)).unwrap();
        fs::write(repo.join(folder).join("untracked"), "left out").unwrap();
    }
    fs::create_dir(repo.join("dist")).unwrap();
    fs::write(repo.join("dist/tracked"), "goes").unwrap();
    room.git(&repo, ["add", "-f", "dist/tracked", ".gitignore"]);
    room.git(&repo, ["commit", "-q", "-m", "Track"]);
    let slug = warm(&room, &repo);
    assert_eq!(listing(&room, &repo, &slug), "./.gitignore\n./dist/tracked\n./hello.txt\n");
}

#[test]
fn a_plain_folder_works_with_its_own_ignore_file() {
    let room = Room::new();
    let dir = room.at("plain");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/a"), "a").unwrap();
    fs::write(dir.join("b.tmp"), "b").unwrap();
    fs::write(dir.join(".crabboxignore"), "*.tmp\n").unwrap();
    let slug = warm(&room, &dir);
    assert_eq!(listing(&room, &dir, &slug), "./.crabboxignore\n./sub/a\n");
}

#[test]
fn a_subfolder_of_a_checkout_sends_the_whole_checkout() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::create_dir(repo.join("sub")).unwrap();
    let ended = room.crabbox(&repo.join("sub"), ["run", "--", "cat", "hello.txt"]).ok();
    assert_eq!(ended.out(), "hello\n");
}

#[test]
fn repositories_without_commits_without_files_and_with_a_detached_head_work() {
    let room = Room::new();
    let unborn = room.at("unborn");
    fs::create_dir(&unborn).unwrap();
    room.git(&unborn, ["init", "-q"]);
    let _ = room.crabbox(&unborn, ["run", "--", "true"]).ok();
    fs::write(unborn.join("staged"), "s").unwrap();
    room.git(&unborn, ["add", "staged"]);
    assert_eq!(room.crabbox(&unborn, ["run", "--", "cat", "staged"]).ok().out(), "s");

    let repo = room.repo("detached");
    room.git(&repo, ["checkout", "-q", "--detach"]);
    let _ = room.crabbox(&repo, ["run", "--", "test", "-f", "hello.txt"]).ok();
}

#[test]
fn worktrees_submodules_and_sparse_checkouts_send_what_is_there() {
    let room = Room::new();
    let repo = room.repo("app");
    let inner = room.repo("inner");
    let inner_url = inner.to_string_lossy().into_owned();
    room.git(
        &repo,
        ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", &inner_url, "lib"],
    );
    room.commit(&repo);
    let ended = room.crabbox(&repo, ["run", "--", "cat", "lib/hello.txt"]).ok();
    assert_eq!(ended.out(), "hello\n");

    let tree = room.at("tree");
    room.git(&repo, ["worktree", "add", "-q", "--detach", &tree.to_string_lossy()]);
    fs::write(tree.join("only-here"), "w").unwrap();
    assert_eq!(room.crabbox(&tree, ["run", "--", "cat", "only-here"]).ok().out(), "w");

    let sparse = room.repo("sparse");
    for folder in ["in", "out"] {
        fs::create_dir(sparse.join(folder)).unwrap();
        fs::write(sparse.join(folder).join("f"), folder).unwrap();
    }
    room.commit(&sparse);
    room.git(&sparse, ["sparse-checkout", "set", "in"]);
    assert!(!sparse.join("out/f").exists());
    let _ =
        room.crabbox(&sparse, ["run", "--", "sh", "-c", "test -f in/f && ! test -e out/f"]).ok();
}

#[test]
fn no_sync_touches_nothing_and_sync_only_runs_nothing() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let ended = room.crabbox(&repo, ["run", "--id", &slug, "--sync-only"]).ok();
    assert!(ended.out().starts_with("synced /"), "{ended}");
    fs::write(repo.join("hello.txt"), "newer\n").unwrap();
    let ended =
        room.crabbox(&repo, ["run", "--id", &slug, "--no-sync", "--", "cat", "hello.txt"]).ok();
    assert_eq!(ended.out(), "hello\n");
    let _ = room.crabbox(&repo, ["run", "--sync-only", "--", "true"]).run().expect(2);
}

#[test]
fn an_unchanged_tree_is_not_sent_again_unless_asked() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    let run = |flag: &str| {
        let args = ["run", "--id", &slug, "--timing-json", flag, "--", "true"];
        room.crabbox(&repo, args.into_iter().filter(|a| !a.is_empty())).ok().err()
    };
    let _ = run("");
    assert!(run("").contains("sync_skipped=true"), "{}", run(""));
    assert!(run("--full-resync").contains("sync_skipped=false"));
}

#[test]
fn guards_speak_before_anything_is_spent() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join(".crabbox.yaml"), "sync:\n  failFiles: 3\n  warnFiles: 2\n").unwrap();
    for name in ["a", "b", "c"] {
        fs::write(repo.join(name), name).unwrap();
    }
    let ended = room.crabbox(&repo, ["run", "--", "true"]).run().expect(6);
    assert!(!ended.err().contains("provisioning"), "{ended}");
    room.assert_nothing_left();
    let _ = room.crabbox(&repo, ["run", "--force-sync-large", "--", "true"]).ok();

    let many = room.repo("many");
    for n in 0..210 {
        fs::write(many.join(format!("f{n}")), "x").unwrap();
    }
    room.commit(&many);
    for n in 0..210 {
        fs::remove_file(many.join(format!("f{n}"))).unwrap();
    }
    let _ = room.crabbox(&many, ["run", "--", "true"]).run().expect(6);
    let _ =
        room.crabbox(&many, ["run", "--", "true"]).env("CRABBOX_ALLOW_MASS_DELETIONS", "1").ok();
}

#[test]
fn the_plan_is_shown_without_a_box() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join("big"), vec![0; 5000]).unwrap();
    let plan = room.crabbox(&repo, ["sync-plan", "--json"]).ok().json();
    assert_eq!(
        (&plan["files"], &plan["bytes"], &plan["kind"]),
        (&2.into(), &5006.into(), &"git".into()),
        "{plan}"
    );
    assert_eq!(plan["largestFiles"][0]["path"], "big");
    let text = room.crabbox(&repo, ["sync-plan"]).ok();
    assert!(text.out().contains("big"), "{text}");
}
