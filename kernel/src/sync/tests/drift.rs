//! What an earlier command did to the tree on the box is seen and repaired, and nothing outside it is touched.

use super::*;

async fn sent() -> (Repo, LocalBox) {
    let (repo, to) = (Repo::new(), LocalBox::new());
    repo.write("dir/sub/a", "a");
    repo.write("dir/b", "b");
    symlink("README", repo.at("link")).unwrap();
    mirror(&to, repo.root()).await;
    (repo, to)
}

#[tokio::test]
async fn changed_deleted_and_replaced_entries_are_repaired() {
    type Harm = fn(&Path);
    let harms: &[(&str, Harm)] = &[
        ("modified", |w| put(&w.join("README"), "HELLO\n")),
        ("deleted", |w| std::fs::remove_file(w.join("dir/b")).unwrap()),
        ("made executable", |w| chmod(&w.join("dir/b"), 0o755)),
        ("link moved", |w| {
            std::fs::remove_file(w.join("link")).unwrap();
            symlink("elsewhere", w.join("link")).unwrap();
        }),
        ("link became file", |w| {
            std::fs::remove_file(w.join("link")).unwrap();
            put(&w.join("link"), "hello\n");
        }),
        ("file became link", |w| {
            std::fs::rename(w.join("README"), w.join("dir/b")).unwrap();
            symlink("dir/b", w.join("README")).unwrap();
        }),
        ("file became directory", |w| {
            std::fs::remove_file(w.join("README")).unwrap();
            put(&w.join("README/deep/x"), "x");
        }),
        ("directory became file", |w| {
            std::fs::remove_dir_all(w.join("dir")).unwrap();
            put(&w.join("dir"), "x");
        }),
        ("everything gone", |w| std::fs::remove_dir_all(w).unwrap()),
        ("top became file", |w| {
            std::fs::remove_dir_all(w).unwrap();
            put(w, "x");
        }),
    ];
    let (repo, to) = sent().await;
    for (what, harm) in harms {
        harm(&to.workdir());
        let pushed = mirror(&to, repo.root()).await;
        assert!(pushed.drifted > 0, "{what}: {pushed:?}");
    }
}

#[tokio::test]
async fn a_directory_replaced_by_a_link_is_never_written_through() {
    for (link, path) in [("dir", "sub/a"), ("dir/sub", "a")] {
        let (repo, to) = sent().await;
        put(&to.outside().join(path), "theirs");
        put(&to.outside().join("b"), "theirs");
        std::fs::remove_dir_all(to.workdir().join(link)).unwrap();
        symlink(to.outside(), to.workdir().join(link)).unwrap();
        mirror(&to, repo.root()).await;
        assert_eq!(std::fs::read(to.outside().join(path)).unwrap(), b"theirs");
        assert_eq!(std::fs::read(to.outside().join("b")).unwrap(), b"theirs");
    }
}

#[tokio::test]
async fn nothing_is_deleted_through_a_link_either() {
    let (repo, to) = sent().await;
    put(&to.outside().join("b"), "theirs");
    put(&to.outside().join("sub/a"), "theirs");
    std::fs::remove_dir_all(to.workdir().join("dir")).unwrap();
    symlink(to.outside(), to.workdir().join("dir")).unwrap();
    std::fs::remove_dir_all(repo.at("dir")).unwrap();
    send(&to, repo.root()).await;
    assert!(to.outside().join("b").exists() && to.outside().join("sub/a").exists());
}

#[tokio::test]
async fn the_top_replaced_by_a_link_is_not_followed() {
    let (repo, to) = sent().await;
    std::fs::rename(to.workdir(), to.outside()).unwrap();
    put(&to.outside().join("README"), "theirs");
    symlink(to.outside(), to.workdir()).unwrap();
    mirror(&to, repo.root()).await;
    assert_eq!(std::fs::read(to.outside().join("README")).unwrap(), b"theirs");
}

#[tokio::test]
async fn a_hard_link_to_the_outside_is_cut_not_overwritten() {
    let (repo, to) = sent().await;
    put(&to.outside().join("x"), "theirs");
    std::fs::remove_file(to.workdir().join("README")).unwrap();
    std::fs::hard_link(to.outside().join("x"), to.workdir().join("README")).unwrap();
    mirror(&to, repo.root()).await;
    assert_eq!(std::fs::read(to.outside().join("x")).unwrap(), b"theirs");
}

#[tokio::test]
async fn a_spoiled_manifest_on_the_box_costs_only_time() {
    let (repo, to) = sent().await;
    for text in ["", "garbage\n", "crabbox-manifest 1\nl x ../../outside\nend 00\n"] {
        put(&to.meta().join("manifest"), text);
        assert!(send(&to, repo.root()).await.skipped);
        assert!(
            Manifest::from_text(&std::fs::read_to_string(to.meta().join("manifest")).unwrap())
                .is_some()
        );
    }
}

#[tokio::test]
async fn a_full_resync_replaces_every_file() {
    let (repo, to) = sent().await;
    put(&to.workdir().join("built"), "stays");
    let rules = SyncRules { full_resync: true, ..SyncRules::default() };
    let tree = tree(repo.root());
    let pushed = send_with(&to, &tree, rules).await.unwrap();
    assert_eq!((pushed.sent_files, pushed.skipped), (tree.files(), false));
    assert!(to.workdir().join("built").exists());
}

#[tokio::test]
async fn a_sync_cut_at_any_point_is_finished_by_the_next() {
    let (repo, to) = sent().await;
    let mut cuts = 0;
    for (round, cut) in (0..18_000).step_by(600).enumerate() {
        repo.write(format!("new/{}", round % 2), vec![u8::try_from(round).unwrap(); 3000]);
        repo.write("README", round.to_string());
        let _ = std::fs::remove_file(repo.at(format!("new/{}", (round + 1) % 2)));
        to.cut_after.set(Some(cut));
        let cut_off = send_with(&to, &tree(repo.root()), SyncRules::default()).await;
        to.cut_after.set(None);
        cuts += usize::from(cut_off.is_err());
        mirror(&to, repo.root()).await;
    }
    assert!((15..30).contains(&cuts), "{cuts} of 30 were cut");
}
