//! Trees that fool careless tools: filters, hidden edits, names we use ourselves, traps on the box.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crabbox_tests::Room;

use crate::local::warm;

fn see(room: &Room, repo: &Path, slug: &str, script: &str) -> String {
    room.crabbox(repo, ["run", "--id", slug, "--", "sh", "-c", script]).ok().out()
}

#[test]
fn what_is_on_disk_is_sent_and_not_what_git_stores() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join(".gitattributes"), "*.txt text eol=crlf\n*.up filter=upper\n").unwrap();
    room.git(&repo, ["config", "filter.upper.clean", "tr a-z A-Z"]);
    room.git(&repo, ["config", "filter.upper.smudge", "tr A-Z a-z"]);
    fs::write(repo.join("lines.txt"), "one\r\ntwo\r\n").unwrap();
    fs::write(repo.join("word.up"), "lower\n").unwrap();
    room.commit(&repo);
    let slug = warm(&room, &repo);
    assert_eq!(see(&room, &repo, &slug, "cat lines.txt word.up"), "one\r\ntwo\r\nlower\n");
}

#[test]
fn edits_that_hide_from_git_and_from_stat_are_sent() {
    let room = Room::new();
    let repo = room.repo("app");
    for name in ["assumed", "skipped", "quiet"] {
        fs::write(repo.join(name), "old\n").unwrap();
    }
    room.commit(&repo);
    let slug = warm(&room, &repo);
    assert_eq!(see(&room, &repo, &slug, "cat assumed skipped quiet"), "old\nold\nold\n");

    room.git(&repo, ["update-index", "--assume-unchanged", "assumed"]);
    room.git(&repo, ["update-index", "--skip-worktree", "skipped"]);
    let before = fs::metadata(repo.join("quiet")).unwrap().modified().unwrap();
    for name in ["assumed", "skipped", "quiet"] {
        fs::write(repo.join(name), "new\n").unwrap();
    }
    // The same size and the same time as before.
    fs::File::options().write(true).open(repo.join("quiet")).unwrap().set_modified(before).unwrap();
    assert_eq!(see(&room, &repo, &slug, "cat assumed skipped quiet"), "new\nnew\nnew\n");
}

#[test]
fn an_edit_just_after_a_run_is_never_missed() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    for n in 0..10 {
        fs::write(repo.join("hello.txt"), format!("edit {n}\n")).unwrap();
        assert_eq!(see(&room, &repo, &slug, "cat hello.txt"), format!("edit {n}\n"));
    }
}

#[test]
fn names_crabbox_uses_itself_may_be_tracked() {
    let room = Room::new();
    let repo = room.repo("app");
    for name in [
        ".crabbox/env/list",
        ".crabbox/manifest",
        ".crabbox/notes",
        "run/x.pid",
        ".crabboxignore.d/x",
    ] {
        let path = repo.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{name}\n")).unwrap();
    }
    room.commit(&repo);
    let slug = warm(&room, &repo);
    let script =
        "cat .crabbox/env/list .crabbox/manifest .crabbox/notes run/x.pid .crabboxignore.d/x";
    let all =
        ".crabbox/env/list\n.crabbox/manifest\n.crabbox/notes\nrun/x.pid\n.crabboxignore.d/x\n";
    assert_eq!(see(&room, &repo, &slug, script), all);
    assert_eq!(see(&room, &repo, &slug, script), all);
}

#[test]
fn a_link_laid_on_the_box_is_not_followed_out_of_the_tree() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::create_dir(repo.join("deep")).unwrap();
    fs::write(repo.join("deep/file"), "mine\n").unwrap();
    room.commit(&repo);
    let slug = warm(&room, &repo);
    let trap = "mkdir -p \"$HOME/elsewhere\" && echo theirs >\"$HOME/elsewhere/file\" && rm -r deep && ln -s \"$HOME/elsewhere\" deep \
                && rm hello.txt && ln -s \"$HOME/elsewhere/file\" hello.txt";
    assert_eq!(see(&room, &repo, &slug, trap), "");
    fs::write(repo.join("deep/file"), "changed\n").unwrap();
    fs::write(repo.join("deep/second"), "second\n").unwrap();
    let look = "cat deep/file deep/second hello.txt \"$HOME/elsewhere/file\"; test ! -L deep && ls \"$HOME/elsewhere\"";
    assert_eq!(see(&room, &repo, &slug, look), "changed\nsecond\nhello\ntheirs\nfile\n");
}

#[test]
fn folders_a_command_made_in_the_way_of_files_give_way() {
    let room = Room::new();
    let repo = room.repo("app");
    let slug = warm(&room, &repo);
    assert_eq!(
        see(
            &room,
            &repo,
            &slug,
            "rm hello.txt && mkdir -p hello.txt/full/of && touch hello.txt/full/of/things"
        ),
        ""
    );
    assert_eq!(see(&room, &repo, &slug, "cat hello.txt"), "hello\n");
    assert_eq!(see(&room, &repo, &slug, "mkdir -p later/file"), "");
    fs::create_dir(repo.join("later")).unwrap();
    fs::write(repo.join("later/file"), "here\n").unwrap();
    assert_eq!(see(&room, &repo, &slug, "cat later/file"), "here\n");
}

#[test]
fn a_build_tree_on_the_box_survives_the_next_sync() {
    let room = Room::new();
    let repo = room.repo("app");
    fs::write(repo.join(".gitignore"), "/target\n").unwrap();
    let slug = warm(&room, &repo);
    assert_eq!(see(&room, &repo, &slug, "mkdir target && echo built >target/out"), "");
    fs::write(repo.join("hello.txt"), "next\n").unwrap();
    fs::write(repo.join("more"), "more\n").unwrap();
    assert_eq!(see(&room, &repo, &slug, "cat target/out hello.txt more"), "built\nnext\nmore\n");
}

#[test]
fn a_file_that_cannot_be_read_is_named_before_a_box_is_asked_for() {
    let room = Room::new();
    let repo = room.repo("app");
    let secret = repo.join("secret.bin");
    fs::write(&secret, "x").expect("a file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).expect("closed to everybody");
    let crabbox = crabbox_tests::binary("crabbox-under-test");
    // Root reads everything; in a user namespace of its own it has no power over files of the world outside.
    let call = if rustix::process::geteuid().is_root() {
        room.call("unshare").arg("--user").arg(crabbox)
    } else {
        room.call(crabbox)
    };
    let ended = call.dir(&repo).args(["run", "--", "true"]).run().expect(6);
    let ended = ended.says(&["cannot read", "secret.bin", "hint:"]);
    assert!(!ended.err().contains("provisioning"), "{ended}");
    room.assert_nothing_left();
}
